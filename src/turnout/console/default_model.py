"""Which target ``auto`` means on a machine where nothing was configured: chosen once, kept, changed by the user."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from turnout.config.files import write_privately
from turnout.core.errors import UNREADABLE_JSON, InvalidRequest, ModelNotFound, SetupError
from turnout.core.events import DefaultChosen, Emit, Event, WorkerChanged
from turnout.core.snapshot import Snapshot
from turnout.routing.chains import choose_default, configuration_decides
from turnout.routing.names import near_names
from turnout.tiers.fleet import Fleet


class KeptChoice(msgspec.Struct, frozen=True):
    """The file's content."""

    target: str = ""
    reason: str = ""
    chosen_by: Literal["turnout", "user"] = "turnout"


class DefaultModel:
    """The choice.

    Args:
        path: Where it is kept.
        fleet: Is told about it.
        emit: Tells everybody else.
        memory_bytes: Returns what the largest model may take; asked only when a choice depends on it.
    """

    def __init__(self, path: Path, fleet: Fleet, emit: Emit, memory_bytes: Callable[[], int]) -> None:
        self._path = path
        self._fleet = fleet
        self._emit = emit
        self._memory_bytes = memory_bytes
        self._is_settled = False
        self.choice = KeptChoice()

    def load(self) -> None:
        """Read what was chosen before; an unreadable file counts as no choice."""
        with contextlib.suppress(OSError, *UNREADABLE_JSON):
            self.choice = msgspec.json.decode(self._path.read_bytes(), type=KeptChoice)
            self._fleet.set_default(self.choice.target)

    def settle(self) -> None:
        """Choose, if nobody has chosen yet and there is something to choose from."""
        self._is_settled = True
        snapshot = self._fleet.snapshot
        if self.choice.chosen_by == "turnout" and configuration_decides(snapshot):
            self._fleet.set_default("")  # kept for the day when the configuration says nothing again
            return
        if self.choice.target and not self._is_lost(snapshot):
            return
        if choose_default(snapshot, 0) is None:
            return  # the card is asked for its memory only when the answer matters
        chosen = choose_default(snapshot, self._memory_bytes())
        if chosen is not None:
            self._keep(KeptChoice(chosen.target, chosen.reason))

    def _is_lost(self, snapshot: Snapshot) -> bool:
        """Return whether a choice of our own is gone for good: its engine answers, and does not have it any more."""
        kept = self.choice
        if kept.chosen_by == "user" or kept.target in snapshot.targets:
            return False
        engine = kept.target.rpartition("/")[0] + "/"
        return any(name.startswith(engine) for name in snapshot.targets)

    def hear(self, event: Event) -> None:
        """Listen to the bus: an engine that appears later may bring the first model to choose."""
        if self._is_settled and isinstance(event, WorkerChanged) and event.state in ("ready", "cold"):
            self.settle()

    def choose(self, name: str) -> KeptChoice:
        """Take the user's choice; an empty name gives the choice back to turnout.

        Raises:
            ModelNotFound: No target has this name.
            InvalidRequest: The target cannot chat, or the configuration decides.
        """
        snapshot = self._fleet.snapshot
        if "orchestrator" in snapshot.chains:
            raise InvalidRequest(
                "chains.orchestrator of the configuration says what auto means",
                hint="change it there, or remove it from the file",
                param="target",
            )
        if not name:
            self._keep(KeptChoice())
            self.settle()
            return self.choice
        target = snapshot.targets.get(name)
        if target is None:
            raise ModelNotFound(f"there is no target {name!r}", hint=near_names(name, snapshot), param="target")
        if "chat" not in target.can:
            raise InvalidRequest(f"{name!r} cannot chat", hint="choose one that can", param="target")
        self._keep(KeptChoice(name, "chosen by the user", "user"))
        return self.choice

    def _keep(self, choice: KeptChoice) -> None:
        self.choice = choice
        self._fleet.set_default(choice.target)
        with contextlib.suppress(SetupError):  # a full disk costs the memory of the choice, not the service
            write_privately(self._path, msgspec.json.encode(choice))
        if choice.target:
            self._emit(DefaultChosen(target=choice.target, reason=choice.reason))
