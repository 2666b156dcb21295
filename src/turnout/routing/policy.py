"""Who may serve a request, in which order, and why everybody else may not. Pure."""

from __future__ import annotations

from turnout.core.errors import ModelNotFound, NoTarget, NotSupported, Refused
from turnout.core.snapshot import Snapshot
from turnout.core.words import Choice, Plan, Request, Target
from turnout.routing.chains import chain_of
from turnout.routing.names import Resolution, near_names, resolve

ROLE_OF_AUTO = {"chat": "orchestrator", "completion": "orchestrator", "embedding": "embedding"}
KIND_IN_WORDS = {"chat": "chat", "completion": "text completion", "embedding": "embeddings"}


def make_plan(request: Request, snapshot: Snapshot) -> Plan:
    """Return the ordered targets for a request.

    Args:
        request: Its facts.
        snapshot: The world.

    Raises:
        ModelNotFound: The selector means nothing, or a role that no model carries.
        NoTarget: The default model does not run now, and nothing else may take its place.
        NotSupported: The named target cannot do what is asked.
        Refused: Targets exist, but privacy or a missing capability forbids them all.
    """
    resolution = resolve(request.selector, snapshot)
    chosen = _chain(request, resolution, snapshot)
    candidates: list[Choice] = []
    refusals: list[Choice] = []
    for choice in chosen:
        target = snapshot.targets.get(choice.target)
        against = "not configured, and not found running" if target is None else objection(request, target)
        if against:
            refusals.append(Choice(choice.target, against))
        else:
            candidates.append(choice)
    named = {choice.target for choice in chosen}
    refusals += [
        Choice(target.name, _why_not_in_chain(request, target, resolution))
        for target in snapshot.targets.values()
        if target.name not in named
    ]
    if not candidates:
        raise _nobody(request, resolution, chosen, refusals, snapshot)
    return Plan(resolution=resolution.story, candidates=tuple(candidates), refusals=tuple(refusals))


def objection(request: Request, target: Target) -> str:
    """Return why a target may not serve a request, or an empty string.

    Args:
        request: The request's facts.
        target: Whom.
    """
    if request.kind not in target.can:
        return f"it cannot do {KIND_IN_WORDS[request.kind]}"
    if request.privacy == "local-only" and target.is_beyond_loopback:
        return "privacy 'local-only': its address is beyond this machine"
    if request.privacy == "no-frontier" and target.is_beyond_loopback and target.tier != "rented":
        return "privacy 'no-frontier': its address is beyond this machine"
    return ""


def _chain(request: Request, resolution: Resolution, snapshot: Snapshot) -> tuple[Choice, ...]:
    if resolution.kind == "target":
        return (Choice(resolution.name, "named by the caller"),)
    role = ROLE_OF_AUTO[request.kind] if resolution.kind == "auto" else resolution.name
    chain = chain_of(role, snapshot)
    if not chain:
        raise ModelNotFound(
            f"no model carries the role {role!r}",
            hint=f"give a model 'roles: [{role}]' in turnout.yaml, or set chains.{role}",
            param="model",
        )
    return chain


def _why_not_in_chain(request: Request, target: Target, resolution: Resolution) -> str:
    if against := objection(request, target):
        return against
    if resolution.kind == "target":
        return "the caller named another target"
    if target.is_demonstration:
        return "the demonstration model serves only while nothing else is configured or found"
    role = ROLE_OF_AUTO[request.kind] if resolution.kind == "auto" else resolution.name
    return f"not in the chain of role {role!r}"


def _nobody(
    request: Request,
    resolution: Resolution,
    chosen: tuple[Choice, ...],
    refusals: list[Choice],
    snapshot: Snapshot,
) -> Exception:
    reasons = {choice.target: choice.reason for choice in refusals}
    told = "; ".join(f"{choice.target}: {reasons[choice.target]}" for choice in chosen)
    known = [snapshot.targets[c.target] for c in chosen if c.target in snapshot.targets]
    if not known and chosen[0].target == snapshot.default:
        return NoTarget(
            f"the default model {snapshot.default!r} is not running",
            hint="start its engine again, or `turnout models default --auto` chooses another",
        )
    if not known:
        return ModelNotFound(
            f"{resolution.story} has no target that exists: {told}",
            hint=near_names(chosen[0].target, snapshot),
            param="model",
        )
    if all(request.kind not in target.can for target in known):
        able = [t.name for t in snapshot.targets.values() if request.kind in t.can]
        hint = f"these can: {', '.join(able)}" if able else "no configured model can"
        return NotSupported(
            f"{request.selector!r} cannot do {KIND_IN_WORDS[request.kind]}: {told}", hint=hint, param="model"
        )
    return Refused(
        f"no target may serve {request.selector!r}: {told}",
        hint="relax x-turnout-privacy, or add a model on this machine to the chain",
        code="refused_privacy",
    )
