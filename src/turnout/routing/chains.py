"""The ordered targets of a role, where the configuration does not name them."""

from __future__ import annotations

from turnout.core.snapshot import Snapshot
from turnout.core.words import Choice, Target

ENGINE_ORDER = {"vllm": 0, "llama-server": 1, "ollama": 2}
"""Found engines: a vLLM first, since it batches; an Ollama is its fallback."""


def chain_of(role: str, snapshot: Snapshot) -> tuple[Choice, ...]:
    """Return whom to ask for a role, in order, each with the reason.

    A configured chain is taken as it stands. Otherwise the models that carry the role come first, in the order of the
    file. The orchestrator is also served by engines that were found running: a vLLM, then the one Ollama model that was
    chosen. The demonstration model serves it only while there is nothing else.

    Args:
        role: One of ``ROLES``.
        snapshot: The world.
    """
    if role in snapshot.chains:
        names = dict.fromkeys(snapshot.chains[role])  # a name that is there twice is still asked once
        return tuple(Choice(name, f"chains.{role} of the configuration") for name in names)
    if role == "orchestrator":
        return _orchestrator(snapshot)
    own = [t for t in snapshot.targets.values() if role in t.roles]
    configured = [t for t in own if t.origin == "configured"]
    return tuple(Choice(t.name, f"carries the role {role!r}") for t in configured or own)


def _orchestrator(snapshot: Snapshot) -> tuple[Choice, ...]:
    able = [t for t in snapshot.targets.values() if "chat" in t.can]
    real = [t for t in able if not t.is_demonstration]
    carrying = [t for t in real if "orchestrator" in t.roles]
    unmarked = [t for t in real if t.origin == "configured" and not t.roles]
    choices: dict[str, str] = {}
    if snapshot.default:
        # Also while it does not run: the demonstration model must not stand in for a real one unseen.
        choices[snapshot.default] = "the default model"
    for target in carrying:
        choices.setdefault(target.name, "carries the role 'orchestrator'")
    if not carrying:
        for target in unmarked:
            choices.setdefault(target.name, "configured without a role")
    for target in found_chat_models(snapshot):
        choices.setdefault(target.name, f"found running in {target.engine}")
    if not choices:
        for target in (t for t in able if t.is_demonstration):
            choices[target.name] = "the demonstration model: nothing else is configured or found"
    return tuple(Choice(name, reason) for name, reason in choices.items())


def found_chat_models(snapshot: Snapshot) -> list[Target]:
    """Return the found models that may serve the orchestrator unasked: those that are loaded.

    A model that is not (an Ollama's, LM Studio's) joins only as the chosen default, since a surprise load of tens of
    gigabytes is nobody's wish.
    """
    found = [t for t in snapshot.targets.values() if t.origin == "found" and "chat" in t.can]
    found = [t for t in found if t.engine == "vllm" or t.is_loaded]
    return sorted(found, key=lambda t: ENGINE_ORDER.get(t.engine, len(ENGINE_ORDER)))


def configuration_decides(snapshot: Snapshot) -> bool:
    """Return whether the configuration says what ``auto`` means, by a chain or by models that chat."""
    configured = (t for t in snapshot.targets.values() if t.origin == "configured")
    return "orchestrator" in snapshot.chains or any("chat" in target.can for target in configured)


def choose_default(snapshot: Snapshot, memory_bytes: int) -> Choice | None:
    """Choose the model that ``auto`` means on a machine where engines were found and nothing was configured.

    Args:
        snapshot: The world.
        memory_bytes: What a model may take: the card's memory, or the machine's where there is no card.

    Returns:
        The choice with its reason, or None where the configuration decides or nothing was found.
    """
    if configuration_decides(snapshot):
        return None
    found = [t for t in snapshot.targets.values() if t.origin == "found" and "chat" in t.can]
    for target in found:
        if target.engine == "vllm":
            return Choice(target.name, "a vLLM serves it")
    if loaded := [t for t in found if t.is_loaded]:
        return Choice(loaded[0].name, f"already loaded in {loaded[0].engine}")
    # Weights need room beside them for the context: a fifth is the least that a short one takes.
    fitting = [t for t in found if t.size_bytes and t.size_bytes * 1.2 <= memory_bytes]
    if fitting:
        best = max(fitting, key=lambda t: t.size_bytes or 0)
        return Choice(best.name, f"the largest model of {best.engine} that fits into {memory_bytes / 2**30:.1f} GiB")
    if found:
        best = min(found, key=lambda t: t.size_bytes or 0)
        return Choice(best.name, f"the smallest model of {best.engine}; none fits into {memory_bytes / 2**30:.1f} GiB")
    return None
