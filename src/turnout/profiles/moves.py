"""From one shape to another: which engines stay as they are, which leave, which come. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from turnout.config.schema import Settings

K = TypeVar("K", bound=Hashable)
LIVE = frozenset({
    "profile", "profiles", "shape", "models", "aliases", "chains", "discover", "providers", "effort", "budget",
    "rented",
})  # fmt: skip
"""What may change while the daemon runs."""


class Moves(msgspec.Struct, Generic[K], frozen=True, kw_only=True):
    """What has to be done.

    Attributes:
        stay: Untouched, in the order of the new shape.
        leave: Ended, in the order of the old shape.
        come: Begun, in the order of the new shape.
    """

    stay: tuple[K, ...]
    leave: tuple[K, ...]
    come: tuple[K, ...]


def compare(now: Mapping[K, Any], then: Mapping[K, Any]) -> Moves[K]:
    """Return the moves from one shape to another.

    Args:
        now: What each engine is, by its name.
        then: The same as it shall be. Whoever is to be something else leaves and comes again.
    """
    stay = tuple(name for name in then if name in now and now[name] == then[name])
    return Moves(
        stay=stay,
        leave=tuple(name for name in now if name not in stay),
        come=tuple(name for name in then if name not in stay),
    )


def needs_restart(now: Settings, then: Settings) -> tuple[str, ...]:
    """Return the sections that differ and that cannot change while the daemon runs.

    Args:
        now: In effect.
        then: Wanted.
    """
    fields = (name for name in Settings.__struct_fields__ if name not in LIVE)
    return tuple(name for name in fields if getattr(now, name) != getattr(then, name))
