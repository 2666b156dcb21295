"""Which models a person has pinned: the same as ``pinned: true`` in the configuration, but said while the daemon runs.

They are kept in a small file of their own. The journal of leases would not do: it is void when the machine has been
started again, and a pin is a wish for good.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from turnout.config.files import write_privately
from turnout.core.errors import UNREADABLE_JSON
from turnout.core.memory import Model


class Pins:
    """The pinned targets.

    Args:
        path: Where they are kept; None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._names: frozenset[str] = frozenset()
        if path is not None:
            with contextlib.suppress(OSError, *UNREADABLE_JSON):  # an unreadable file counts as none
                self._names = frozenset(msgspec.json.decode(path.read_bytes(), type=list[str]))

    def __contains__(self, target: str) -> bool:
        """Return whether a target is pinned."""
        return target in self._names

    def set(self, target: str, *, is_pinned: bool) -> None:
        """Pin a target or let it go. One that is not served now (another profile's) stays as it was.

        Raises:
            SetupError: It cannot be written: nothing has changed.
        """
        names = self._names | {target} if is_pinned else self._names - {target}
        if self._path is not None and names != self._names:
            write_privately(self._path, msgspec.json.encode(sorted(names)))
        self._names = names

    def applied(self, model: Model) -> Model:
        """Return a model as it is to be treated."""
        is_changed = model.name in self._names and model.lease_class != "pinned"
        return msgspec.structs.replace(model, lease_class="pinned") if is_changed else model
