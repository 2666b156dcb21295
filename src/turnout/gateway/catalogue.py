"""``GET /v1/models``: every name that a caller may use, each once."""

from __future__ import annotations

from typing import Any

from turnout.core.snapshot import Snapshot
from turnout.core.words import AUTO, ROLES, Target
from turnout.routing.chains import chain_of


def list_models(snapshot: Snapshot, created: int) -> list[dict[str, Any]]:
    """Return the entries: ``auto``, then targets, aliases without globs, and roles that somebody carries.

    Args:
        snapshot: The world.
        created: Seconds since the epoch; OpenAI's field, here the start of the daemon.
    """
    entries: dict[str, dict[str, Any]] = {}

    def add(name: str, kind: str, served_by: list[str], note: str = "") -> None:
        targets = [snapshot.targets[target] for target in served_by if target in snapshot.targets]
        if name in entries:
            return
        entries[name] = {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "turnout" if kind != "target" else targets[0].engine,
            "kind": kind,
            "capabilities": _shared_capabilities(targets),
            "served_by": served_by,
        }
        if note:
            entries[name]["note"] = note

    add(AUTO, "auto", [choice.target for choice in chain_of("orchestrator", snapshot)])
    for target in snapshot.targets.values():
        add(target.name, "target", [target.name], target.detail)
        entries[target.name] |= _facts(target)
    for pattern, meaning in snapshot.aliases.items():
        if not any(sign in pattern for sign in "*?["):
            served_by = [meaning] if meaning in snapshot.targets else _role_targets(meaning, snapshot)
            add(pattern, "alias", served_by, f"stands for {meaning}")
    for role in ROLES:
        if served_by := _role_targets(role, snapshot):
            add(role, "role", served_by)
    return list(entries.values())


def _role_targets(name: str, snapshot: Snapshot) -> list[str]:
    role = "orchestrator" if name == AUTO else name
    return [choice.target for choice in chain_of(role, snapshot)] if role in ROLES else []


def _shared_capabilities(targets: list[Target]) -> list[str]:
    # A chain can only be trusted with what its first target can do; the others are skipped where they cannot.
    return sorted(targets[0].can) if targets else []


def _facts(target: Target) -> dict[str, Any]:
    return {
        "engine": target.engine,
        "tier": target.tier,
        "model": target.model,
        "state": target.state,
        "origin": target.origin,
        "roles": list(target.roles),
        "context_tokens": target.context_tokens,
        "size_bytes": target.size_bytes,
        "is_loaded": target.is_loaded,
        "is_demonstration": target.is_demonstration,
    }
