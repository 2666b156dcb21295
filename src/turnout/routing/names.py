"""What a caller's ``model`` value means: ``auto``, a target, an alias or a role; in this order of precedence."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from turnout.core.errors import ModelNotFound
from turnout.core.snapshot import Snapshot
from turnout.core.words import AUTO, ROLES


class Resolution(msgspec.Struct, frozen=True):
    """What a selector stands for.

    Attributes:
        kind: Whether it ends at one target, at a role's chain, or at ``auto``.
        name: The target's or role's name; ``auto`` for auto.
        story: How it was read, for the trace.
    """

    kind: Literal["target", "role", "auto"]
    name: str
    story: str


def resolve(selector: str, snapshot: Snapshot) -> Resolution:
    """Read a ``model`` value.

    Args:
        selector: As the caller sent it.
        snapshot: Knows targets and aliases.

    Raises:
        ModelNotFound: With near matches.
    """
    if selector == AUTO or selector in snapshot.targets:
        return _plain(selector, snapshot)
    for pattern, meaning in snapshot.aliases.items():
        if fnmatchcase(selector, pattern):
            if meaning == AUTO or meaning in snapshot.targets or meaning in ROLES:
                found = _plain(meaning, snapshot)
                return Resolution(found.kind, found.name, f"alias {pattern!r} -> {found.story}")
            raise ModelNotFound(
                f"alias {pattern!r} stands for {meaning!r}, which is no known target or role",
                hint=f"it may not be running; {near_names(meaning, snapshot)}",
                param="model",
            )
    if selector in ROLES:
        return _plain(selector, snapshot)
    raise ModelNotFound(f"there is no model {selector!r}", hint=near_names(selector, snapshot), param="model")


def _plain(name: str, snapshot: Snapshot) -> Resolution:
    if name == AUTO:
        return Resolution("auto", AUTO, "auto")
    if name in snapshot.targets:
        return Resolution("target", name, f"target {name!r}")
    return Resolution("role", name, f"role {name!r}")


def near_names(wrong: str, snapshot: Snapshot) -> str:
    """Return a hint that names the nearest known models, or where to see them all."""
    known = [AUTO, *snapshot.targets, *snapshot.aliases, *ROLES]
    by_tail = {name.rsplit("/", 1)[-1].lower(): name for name in known}
    near = difflib.get_close_matches(wrong.lower(), {name.lower(): name for name in known}, n=3, cutoff=0.6)
    tails = difflib.get_close_matches(wrong.rsplit("/", 1)[-1].lower(), by_tail, n=3, cutoff=0.7)
    originals = {name.lower(): name for name in known}
    names = list(dict.fromkeys([originals[name] for name in near] + [by_tail[name] for name in tails]))[:3]
    if names:
        return f"did you mean {' or '.join(repr(name) for name in names)}?"
    return "GET /v1/models lists every name; 'auto' always works"
