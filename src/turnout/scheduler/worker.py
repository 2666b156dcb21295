"""One model's worker as the scheduler sees it: its phase, who runs and waits, and what it has learnt."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from turnout.core.memory import Demand, Model, Size, SleepLevel
from turnout.scheduler.evict import Move
from turnout.scheduler.intent import KnownPlan, Patience
from turnout.scheduler.learn import Interest, LearntSeconds
from turnout.scheduler.messages import Effect, WorkerPhase
from turnout.scheduler.pool import Holder
from turnout.scheduler.queue import LOWEST, OVERDUE, Line, Waiter
from turnout.scheduler.settings import SchedulerSettings

if TYPE_CHECKING:
    from turnout.scheduler.claims import Claim

OPEN = LOWEST
"""Gate of a worker that admits everybody."""
CLOSED = OVERDUE - 1
"""Gate of a worker that admits nobody."""

MOVING: frozenset[WorkerPhase] = frozenset({"loading", "falling_asleep", "waking", "resizing", "stopping"})
"""An order is under way."""
STARTING: frozenset[WorkerPhase] = frozenset({"loading", "waking", "resizing"})
"""An order is under way that takes memory: so many at once on a device."""
MANY_RUNS = 16
MOST_LOAD = 5.0
MOST_BUSY_SECONDS = 120.0
LINGER = 0.2
"""What has run longer than expected is likely to go on for this share of the time that it has run."""


class Run:
    """One admitted request."""

    __slots__ = ("expected_seconds", "since")

    def __init__(self, since: float, expected_seconds: float | None) -> None:
        self.since = since
        self.expected_seconds = expected_seconds


class Worker:
    """A model and its worker, if there is one.

    Attributes:
        phase: Where it is.
        before: The phase to return to if the order under way fails.
        size: Index of the size that is loaded, or being loaded.
        quality: Of that size.
        level: Index of the sleep level, while asleep or falling asleep; -1 otherwise.
        order: The order under way.
        order_number: Counts orders, so that a timer knows its own.
        start_number: That of the order that started it.
        ordered_at: When it went out first.
        goal: Index that the order under way leads to: a size, or a sleep level.
        gate: The lowest level that is admitted: ``OPEN``, ``CLOSED`` or between.
        gated_for: The claim that it drains for.
        ready_at: Since when it is ready.
        start_seconds: What its last start, wake or switch of size took.
        idle_since: Since when nothing runs.
        left_at: When it last stopped being ready.
        retry_at: Before this there is no start.
        failure: Why only a person can help, until ``retry_at``.
        short_since: Since when only measured memory is in the way of its waiters.
        patience: A decision to let others be for now.
        plan: The last plan to make room for its waiters.
        start_claim: The claim of its waiters while it is cold, if it has one size; made once.
        lingers_until_waiting: If that many wait, it is time to look again whether others should make way for it; or 0.
        keep_seconds: What the last request that said so wants instead of the model's ``idle_seconds``; below 0 it is
            not put away for being idle.
        idle_seconds: What comes of both: how long it stays while nobody uses it; None if only who needs room decides.
        idle_look_at: When a look at whether it is idle for too long is due; infinite if none is.
        cannot_sleep: It failed to, and is not asked again until it was started anew; likewise the others.
        is_removed: Its model was taken away.
        next_model: New words that it does not fit: it ends when it is idle, and they hold for the next one.
        is_unloading: Somebody wants it to end; its own words are the ``next_model`` then, unless newer ones came.
        is_exempt: It fits only if it may use the room for voice.
    """

    def __init__(self, model: Model, settings: SchedulerSettings) -> None:
        self._settings = settings
        self.model = model
        self.name = model.name
        self.holder: Holder = ("model", model.name)
        self.phase: WorkerPhase = "cold"
        self.before: WorkerPhase = "cold"
        self.size = 0
        self.quality = 0
        self.level = -1
        self.order: Effect | None = None
        self.order_number = 0
        self.start_number = 0
        self.ordered_at = 0.0
        self.goal = 0
        self.gate = OPEN
        self.gated_for: Holder | None = None
        self.ready_at = 0.0
        self.start_seconds = 0.0
        self.idle_since = 0.0
        self.left_at = float("-inf")
        self.retry_at = 0.0
        self.failure = ""
        self.short_since: float | None = None
        self.patience: Patience | None = None
        self.plan: KnownPlan | None = None
        self.start_claim: Claim | None = None
        self.lingers_until_waiting = 0
        self.keep_seconds: float | None = None
        self.idle_seconds: float | None = None
        self.idle_look_at = math.inf
        self.cannot_sleep = False
        self.cannot_wake = False
        self.cannot_resize = False
        self.is_removed = False
        self.next_model: Model | None = None
        self.is_unloading = False
        self.is_exempt = False
        self.running: dict[str, Run] = {}
        self.interest = Interest(settings.rate_seconds)
        self.service = LearntSeconds(1.0)
        self._load: dict[str, LearntSeconds] = {}
        self._resize: LearntSeconds = LearntSeconds(model.resize_seconds)
        self._wake: dict[int, LearntSeconds] = {}
        self._sleep: dict[int, LearntSeconds] = {}
        self.lines: list[Line] = []
        self.waiting = 0
        self.set_model(model)

    def set_model(self, model: Model) -> None:
        """Take words in, for a worker that is not there or fits them; keeps what was learnt. Nobody may wait."""
        old = self.model
        if self.phase in {"cold", "failed"}:
            self.size = 0
        else:
            self.size = next(i for i, size in enumerate(model.sizes) if _is_same(size, old.sizes[self.size]))
            self.goal = self.size if self.phase == "loading" else self.goal
        self.model = model
        self.quality = model.sizes[self.size].quality
        self.next_model = None
        self.slots = float("inf") if model.slots is None else model.slots
        self.is_voice = model.lease_class == "voice"
        self.is_pinned = model.lease_class == "pinned"
        self.keep(self.keep_seconds)
        for size in model.sizes:
            self._load.setdefault(size.name, LearntSeconds(size.load_seconds))
        for level in model.sleep_levels:
            self._wake.setdefault(level.level, LearntSeconds(level.wake_seconds))
            self._sleep.setdefault(level.level, LearntSeconds(level.sleep_seconds))
        self.lines = [Line(self._settings.aging_seconds) for _ in model.sizes]
        self.waiting = 0

    def keep(self, seconds: float | None) -> None:
        """Be kept for so long while nobody uses it: below 0 without an end, None as its model's words say."""
        self.keep_seconds = seconds
        idle = self.model.idle_seconds if seconds is None else seconds
        self.idle_seconds = None if idle is None or idle < 0 or self.is_pinned else idle

    def fits(self, model: Model) -> bool:
        """Whether the present worker may go on under new words."""
        if self.phase in {"cold", "failed"}:
            return True
        if self.model.lease_class != model.lease_class and "voice" in {self.model.lease_class, model.lease_class}:
            return False  # it counts against other accounts
        if self.phase == "resizing" and self.model.sizes != model.sizes:
            return False
        if self.phase in {"falling_asleep", "asleep", "waking"} and self.model.sleep_levels != model.sleep_levels:
            return False
        return any(_is_same(size, self.model.sizes[self.size]) for size in model.sizes)

    # What it holds

    @property
    def devices(self) -> Demand:
        """Bytes by device while it is ready in its present size."""
        return self.model.sizes[self.size].devices

    @property
    def sleeps_at(self) -> SleepLevel:
        """The level at which it sleeps."""
        return self.model.sleep_levels[self.level]

    def set_size(self, size: int) -> None:
        """Be of a size from now on."""
        self.size = size
        self.quality = self.model.sizes[size].quality

    def sizes_from(self, need: int) -> list[int]:
        """Return in which sizes it may start, best first.

        Args:
            need: Index of the smallest size that is good enough.
        """
        preferred = self.model.preferred_size
        if need > preferred:
            return list(range(need, len(self.model.sizes)))
        return list(range(preferred, need - 1, -1))

    # Who waits

    def least_size(self, least_quality: int) -> int | None:
        """Return the index of the smallest size that is good enough, or None."""
        for index, size in enumerate(self.model.sizes):
            if size.quality >= least_quality:
                return index
        return None

    def head(self, now: float) -> Waiter | None:
        """Return who is to be admitted next in the present size and through the gate, or None."""
        if len(self.lines) == 1:
            line = self.lines[0]
            line.age(now)
            return line.head(self.gate)
        best: Waiter | None = None
        for line in self.lines[: self.size + 1]:
            line.age(now)
            head = line.head(self.gate)
            if head is not None and (best is None or line.urgency_of(head) < best.line.urgency_of(best)):
                best = head
        return best

    def best_line(self, now: float, above: int = -1) -> tuple[int, Line] | None:
        """Return the most urgent of the lines above a size, with its index; None if nobody waits there."""
        if len(self.lines) == 1:
            line = self.lines[0]
            if above >= 0 or not line:
                return None
            line.age(now)
            return 0, line
        best: tuple[int, Line] | None = None
        for index in range(above + 1, len(self.lines)):
            line = self.lines[index]
            if line:
                line.age(now)
                if best is None or line.urgency() < best[1].urgency():
                    best = index, line
        return best

    def best_level(self) -> int | None:
        """Return the best level of those who could be admitted in the present size."""
        levels = [level for line in self.lines[: self.size + 1] if (level := line.level()) is not None]
        return min(levels, default=None)

    # What it has learnt

    def load_seconds(self, size: int | None = None) -> float:
        """Return how long a load from cold takes."""
        return self._load[self.model.sizes[self.size if size is None else size].name].seconds

    def wake_seconds(self, level: int) -> float:
        """Return how long waking from a level takes."""
        return self._wake[self.model.sleep_levels[level].level].seconds

    def sleep_seconds(self, level: int) -> float:
        """Return how long falling asleep takes."""
        return self._sleep[self.model.sleep_levels[level].level].seconds

    def resize_seconds(self) -> float:
        """Return how long a switch of size takes."""
        return self._resize.seconds

    def learn_start(self, seconds: float) -> None:
        """Take in how long a start, a wake or a switch of size took, by the phase that it was in."""
        if self.phase == "loading":
            learnt = self._load[self.model.sizes[self.size].name]
        elif self.phase == "waking":
            learnt = self._wake[self.sleeps_at.level]
        else:
            learnt = self._resize
        learnt.learn(seconds)
        self.start_seconds = learnt.seconds

    def learn_sleep(self, seconds: float) -> None:
        """Take in how long falling asleep took."""
        self._sleep[self.model.sleep_levels[self.goal].level].learn(seconds)

    # What may be done with it

    @property
    def can_resize(self) -> bool:
        """Whether it can be switched to another size while it runs."""
        return self.model.resizes_live and not self.cannot_resize

    def can(self, move: Move) -> bool:
        """Whether it has not failed to do so since its start."""
        return not (self.cannot_sleep if move == "sleep" else self.cannot_resize if move == "resize" else False)

    def stays_until(self, *, is_idle: bool) -> float:
        """Return until when a ready worker keeps its place against others."""
        seconds = self.model.min_residency_seconds
        if not is_idle:
            seconds = max(seconds, self._settings.residency_per_load * self.start_seconds)
        return self.ready_at + seconds

    def remaining_seconds(self, now: float) -> float:
        """Return how long the running requests are likely to go on: until the last one has ended."""
        if len(self.running) > MANY_RUNS:
            return self.service.seconds  # somebody has just begun; looking at each would cost more than it tells
        return max((self.remaining_of(run, now) for run in self.running.values()), default=0.0)

    def start_rest_seconds(self, now: float) -> float:
        """Return how long the start, wake or switch of size under way is likely to go on."""
        match self.phase:
            case "loading":
                usual = self.load_seconds()
            case "waking":
                usual = self.wake_seconds(self.level)
            case _:
                usual = self.resize_seconds()
        return max(0.0, usual - (now - self.ordered_at))

    def busy_seconds(self, now: float, *, is_closing: bool) -> float:
        """Return how long it is likely to take until nothing runs.

        While others are still admitted this is the busy period of an M/M/inf queue, (exp(rate x service) - 1) / rate.

        Args:
            now: Monotonic seconds.
            is_closing: Nobody is admitted any more.
        """
        rest = self.remaining_seconds(now)
        if is_closing:
            return rest
        service = self.service.seconds
        rest += service * self.waiting / min(self.slots, MANY_RUNS)
        rate = self.interest.requests_within(1.0, now)
        if rate <= 0.0:
            return rest
        return rest + min(MOST_BUSY_SECONDS, math.expm1(min(MOST_LOAD, rate * service)) / rate)

    def next_end_seconds(self, now: float) -> float:
        """Return how long it is likely to take until a slot becomes free."""
        if not self.running:
            return self.service.seconds
        runs = islice(self.running.values(), MANY_RUNS)  # the oldest ones
        return min(self.remaining_of(run, now) for run in runs)

    def remaining_of(self, run: Run, now: float) -> float:
        """Return how long one request is likely to go on."""
        expected = self.service.seconds if run.expected_seconds is None else run.expected_seconds
        elapsed = now - run.since
        return max(expected - elapsed, LINGER * elapsed)

    def put_away_seconds(self) -> float:
        """Return how long it is likely to take to put it away."""
        if self.model.sleep_levels and not self.cannot_sleep:
            return self.sleep_seconds(0)
        return 1.0


def _is_same(one: Size, other: Size) -> bool:
    return one.name == other.name and one.devices == other.devices
