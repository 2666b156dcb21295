"""The plan of `auto`: which of the models that are here it would use on a card, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from turnout.cli.neighbours import running_engines, running_targets
from turnout.cli.profile_card import ChosenCard
from turnout.cli.profile_words import Part, Table, gib
from turnout.config.loader import LoadedConfig
from turnout.config.paths import Paths, find_paths
from turnout.console.advice import FoundEngine, better_models
from turnout.core.snapshot import Snapshot
from turnout.core.words import Target
from turnout.routing.chains import chain_of, choose_default
from turnout.tiers.local.devices.nvml import Card as NvidiaCard
from turnout.tiers.local.machine import memory_bytes
from turnout.tiers.local.weights.source import list_pulled

CONTEXT_FACTOR = 1.2
"""Weights need room beside them for the context: see ``routing.chains.choose_default``."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is here.

    Attributes:
        target: Its name.
        engine: Who serves it.
        bytes: Of its weights; 0 where nobody says.
        is_used: Whether `auto` asks it.
        words: Why, or why not.
    """

    target: str
    engine: str
    bytes: int
    is_used: bool
    words: str


class AutoPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `auto` does.

    Attributes:
        memory_bytes: What a model may take.
        candidates: What is here.
        auto: Who serves `auto`, in order, each with the reason.
        advice: How to get more out of the card.
    """

    memory_bytes: int
    candidates: tuple[Candidate, ...]
    auto: tuple[tuple[str, str], ...]
    advice: tuple[str, ...]


def auto_plan(loaded: LoadedConfig, chosen: ChosenCard) -> AutoPlan:
    """Look which models are here, and choose as the daemon does.

    Args:
        loaded: The configuration.
        chosen: The card; without memory, the machine's own counts.
    """
    memory = chosen.card.total_bytes or memory_bytes()
    targets = {target.name: target for target in (*_configured(loaded), *_pulled(find_paths(), loaded))}
    targets |= {target.name: target for target in running_targets(loaded.settings)}
    chains = {role: tuple(names) for role, names in loaded.settings.chains.items()}
    snapshot = Snapshot(targets=targets, chains=chains)
    default = choose_default(snapshot, memory)
    snapshot = Snapshot(targets=targets, chains=chains, default=default.target if default else "")
    reasons = {choice.target: choice.reason for choice in chain_of("orchestrator", snapshot)}
    if default is not None:
        reasons[default.target] = default.reason
    found = running_engines(loaded.settings)
    candidates = [_candidate(target, reasons, memory) for target in targets.values() if "chat" in target.can]
    return AutoPlan(
        memory_bytes=memory,
        candidates=tuple(sorted(candidates, key=lambda entry: (not entry.is_used, -entry.bytes))),
        auto=tuple(reasons.items()),
        advice=tuple(_advice(chosen, found, (targets[name] for name in reasons if name in targets))),
    )


def auto_parts(plan: AutoPlan) -> Iterator[Part]:
    """Yield the lines and tables about `auto`.

    Args:
        plan: What it does.
    """
    yield ""
    yield f"Models that are on the disk or run already, and what a memory of {gib(plan.memory_bytes)} makes of them:"
    rows = [(entry.target, gib(entry.bytes) if entry.bytes else "", entry.words) for entry in plan.candidates]
    yield Table(("MODEL", "WEIGHTS", "VERDICT"), rows, right=("WEIGHTS",))
    if plan.advice:
        yield ""
        yield from plan.advice


def _candidate(target: Target, reasons: dict[str, str], memory: int) -> Candidate:
    size = target.size_bytes or 0
    wants = int(size * CONTEXT_FACTOR)
    if target.name in reasons:
        words = f"`auto` asks it: {reasons[target.name]}"
    elif target.is_demonstration:
        words = "steps aside for any other model"
    elif wants > memory:
        words = f"does not fit: with a short context it takes about {gib(wants)}, and there are {gib(memory)}"
    elif target.origin == "found" and not target.is_loaded:
        words = "fits, and is served when somebody asks for it by name"
    else:
        words = "served when somebody asks for it by name"
    return Candidate(target=target.name, engine=target.engine, bytes=size, is_used=target.name in reasons, words=words)


def _advice(chosen: ChosenCard, found: Sequence[FoundEngine], targets: Iterable[Target]) -> list[str]:
    """Return how to get a model for the card, where nothing better than the demonstration is used."""
    if not all(target.is_demonstration for target in targets):
        return ["`turnout doctor` says which other models this machine could hold."]
    total = chosen.card.total_bytes
    cards = [NvidiaCard(index=0, name="This card", total_bytes=total, free_bytes=total, driver="")] if total else []
    return ["More out of this machine:", *(f"  {line}" for line in better_models(cards, found))]


def _configured(loaded: LoadedConfig) -> Iterator[Target]:
    for key, entry in loaded.settings.models.items():
        origin = loaded.where(("models", key))
        yield Target(
            name=f"local/{key}",
            tier="local",
            engine=str(entry.get("engine", "")),
            model=key,
            can=frozenset({"embedding"}) if entry.get("engine") == "onnx" else frozenset({"chat"}),
            roles=tuple(entry.get("roles", ())),
            origin="built-in" if "(built in" in origin else "configured",
            is_demonstration=bool(entry.get("demonstration")),
        )


def _pulled(paths: Paths, loaded: LoadedConfig) -> Iterator[Target]:
    used = {str(entry.get("source", "")) for entry in loaded.settings.models.values()}
    for model in list_pulled(paths.data_dir):
        if not model.problem and model.file.endswith(".gguf") and model.source not in used:
            yield Target(
                name=f"local/llamacpp/{model.name}",
                tier="local",
                engine="llamacpp",
                model=model.name,
                can=frozenset({"chat"}),
                origin="found",
                size_bytes=model.bytes,
            )
