"""What routing may know about the world at one moment."""

from __future__ import annotations

import msgspec

from turnout.core.words import Target


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The world as a value.

    Attributes:
        targets: Every known target by name, in the order in which they were configured or found.
        aliases: Pattern to target, role or ``auto``; the order of the file decides between two that match.
        chains: Role to ordered target names, as configured.
        default: The target that was chosen to lead the orchestrator's chain, or empty.
    """

    targets: dict[str, Target]
    aliases: dict[str, str] = {}
    chains: dict[str, tuple[str, ...]] = {}
    default: str = ""
