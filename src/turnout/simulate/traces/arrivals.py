"""Everything that arrives in one run, as columns: a million requests are some 40 MB, not a million objects."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from turnout.core.memory import PRIORITIES, Demand, LeaseClass, Priority
from turnout.simulate.profile import Profile, SimulatedModel

Number = TypeVar("Number", int, float)
NO_TOKENS = math.nan
"""In ``first``: what arrives has no first token, because it is no text."""


class LeaseShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a foreign program asks for.

    Attributes:
        holder: Who, in words.
        devices: Bytes on each device.
        lease_class: How it may be treated.
    """

    holder: str
    devices: Demand
    lease_class: LeaseClass = "job"

    @property
    def bytes(self) -> int:
        """Memory on all devices together."""
        return sum(self.devices.values())


Target = SimulatedModel | LeaseShape


class Arrivals(msgspec.Struct, kw_only=True):
    """What arrives, in order of time; entry ``i`` of each column belongs to arrival ``i``.

    Attributes:
        name: Where it came from.
        targets: What can be asked for: the profile's models, then leases.
        roles: Names that ``role`` counts.
        callers: Names that ``caller`` counts.
        at: Seconds since the begin.
        target: Index into ``targets``.
        role: Index into ``roles``.
        priority: Index into ``PRIORITIES``.
        caller: Index into ``callers``.
        first: Seconds from the begin of the work to its first token; ``NO_TOKENS`` where there is none.
        work: Seconds from the begin of the work to its end.
        patience: Seconds that it waits for the begin of the work.
        left_out: Rows of the trace that no model of the profile could serve.
    """

    name: str
    targets: tuple[Target, ...]
    roles: tuple[str, ...]
    callers: tuple[str, ...]
    at: array[float]
    target: array[int]
    role: array[int]
    priority: array[int]
    caller: array[int]
    first: array[float]
    work: array[float]
    patience: array[float]
    left_out: int = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.at)


class ArrivalsBuilder:
    """Collects arrivals in any order.

    Args:
        profile: What can be asked for.
        name: Where they come from.
    """

    def __init__(self, profile: Profile, name: str) -> None:
        self._profile = profile
        self._name = name
        self._targets: list[Target] = list(profile.models)
        self._roles: dict[str, int] = {}
        self._callers: dict[str, int] = {}
        self._at = array("d")
        self._target = array("H")
        self._role = array("H")
        self._priority = array("B")
        self._caller = array("L")
        self._first = array("d")
        self._work = array("d")
        self._patience = array("d")
        self._patience_of = [float(profile.patience_seconds[priority]) for priority in PRIORITIES]
        self.left_out = 0

    def add_lease_shape(self, shape: LeaseShape) -> int:
        """Return the index under which a foreign program's wish can be added."""
        self._targets.append(shape)
        return len(self._targets) - 1

    def add_request(
        self,
        at: float,
        model: int,
        role: str,
        priority: Priority,
        caller: str,
        prompt_tokens: int,
        answer_tokens: int,
        patience: float | None = None,
    ) -> None:
        """Add one request for tokens.

        Args:
            at: Seconds since the begin.
            model: Index of the profile's model.
            role: Under which name it was asked for.
            priority: How urgent.
            caller: Who asked.
            prompt_tokens: To be read.
            answer_tokens: To be written; 0 for embeddings, whose answer is there when all has been read.
            patience: Seconds that it waits; the profile's for its priority if left out.
        """
        timing = self._profile.models[model].timing
        first = timing.seconds_to_first_token(prompt_tokens)
        self._add(
            at, model, role, priority, caller, first, timing.seconds_in_all(prompt_tokens, answer_tokens), patience
        )

    def add_work(
        self,
        at: float,
        target: int,
        role: str,
        priority: Priority,
        caller: str,
        seconds: float,
        patience: float | None = None,
    ) -> None:
        """Add one piece of work whose length is known: a job at a model, or a lease.

        Args:
            at: Seconds since the begin.
            target: Index of the model or of the lease's shape.
            role: Under which name it was asked for.
            priority: How urgent.
            caller: Who asked.
            seconds: How long it takes once it may begin.
            patience: Seconds that it waits; the profile's for its priority if left out.
        """
        self._add(at, target, role, priority, caller, NO_TOKENS, seconds, patience)

    def _add(
        self,
        at: float,
        target: int,
        role: str,
        priority: Priority,
        caller: str,
        first: float,
        work: float,
        patience: float | None,
    ) -> None:
        level = PRIORITIES.index(priority)
        self._at.append(at)
        self._target.append(target)
        self._role.append(self._roles.setdefault(role, len(self._roles)))
        self._priority.append(level)
        self._caller.append(self._callers.setdefault(caller, len(self._callers)))
        self._first.append(first)
        self._work.append(work)
        self._patience.append(self._patience_of[level] if patience is None else patience)

    def __len__(self) -> int:
        """Return how many have been added."""
        return len(self._at)

    def build(self, rate: float = 1.0) -> Arrivals:
        """Return them in order of time, the first at 0.

        Args:
            rate: How many times as fast as recorded they arrive.
        """
        at = self._at
        order: Sequence[int] = range(len(at))
        if any(at[i] > at[i + 1] for i in range(len(at) - 1)):
            order = sorted(order, key=at.__getitem__)
        begin = at[order[0]] if len(at) else 0.0
        return Arrivals(
            name=self._name,
            targets=tuple(self._targets),
            roles=tuple(self._roles),
            callers=tuple(self._callers),
            at=array("d", [(at[index] - begin) / rate for index in order]),
            target=_in_order(self._target, order),
            role=_in_order(self._role, order),
            priority=_in_order(self._priority, order),
            caller=_in_order(self._caller, order),
            first=_in_order(self._first, order),
            work=_in_order(self._work, order),
            patience=_in_order(self._patience, order),
            left_out=self.left_out,
        )


def _in_order(column: array[Number], order: Sequence[int]) -> array[Number]:
    return column if isinstance(order, range) else array(column.typecode, map(column.__getitem__, order))
