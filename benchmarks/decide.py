"""What one decision of the scheduler costs: ``python -m benchmarks.decide``. No daemon, and virtual time.

A thousand callers, each of whom asks again as soon as the last request has ended, for one of twenty models that want
five times the memory there is; foreign programs take and return leases; memory is measured every second. So a thousand
requests wait all the time, most of them for models that are not there. A second part measures what most requests are:
for a model that is ready, with a free slot and nobody before it. Times are processor time of the one thread, so that
other programs do not count.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import random
import statistics
import time
from collections import defaultdict

from turnout.core.memory import GIB, HOST_RAM, PRIORITIES, Device, Lease, LeaseClass, Model, Size, SleepLevel
from turnout.scheduler import messages as m
from turnout.scheduler.decide import Decider

GPU = "host/gpu0"
MODELS = 20
WAITING = 1000
LIMIT_MICROSECONDS = 50.0
"""Of one decision, on average."""


def models() -> list[Model]:
    """Return twenty models of 3 to 14 GiB, two of them for voice, one elastic."""
    made = []
    for number in range(MODELS):
        gib = 3 + number * 11 // (MODELS - 1)
        lease_class: LeaseClass = "voice" if number < 2 else "elastic" if number == 10 else "resident"
        sizes = [Size(devices={GPU: gib * GIB}, name="large", load_seconds=2 + gib / 2, quality=2)]
        if lease_class == "elastic":
            sizes.insert(0, Size(devices={GPU: gib // 2 * GIB}, name="small", load_seconds=3, quality=1))
        levels = (SleepLevel(level=1, devices={GPU: GIB // 2, HOST_RAM: gib * GIB}),) if number % 2 else ()
        made.append(
            Model(
                name=f"local/model{number}",
                sizes=tuple(sizes),
                preferred_size=len(sizes) - 1,
                lease_class=lease_class,
                slots=4 + number % 5,
                queue_limit=WAITING,
                sleep_levels=levels,
                min_residency_seconds=5,
                idle_seconds=60,
            )
        )
    return made


class Load:
    """The thousand callers and their world, on virtual time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        devices = [
            Device(id=GPU, kind="simulated", total_bytes=32 * GIB, headroom_bytes=GIB),
            Device(id=HOST_RAM, kind="ram", total_bytes=64 * GIB, headroom_bytes=8 * GIB),
        ]
        self.decider = Decider(devices, models())
        self.now = 0.0
        self.number = 0
        self.heap: list[tuple[float, int, m.Fact]] = []
        self.nanoseconds: dict[str, list[int]] = defaultdict(list)
        self.effects = 0
        self.refused = 0
        self.loads = 0

    def later(self, seconds: float, fact: m.Fact) -> None:
        """Have a fact happen."""
        self.number += 1
        heapq.heappush(self.heap, (self.now + seconds, self.number, fact))

    def ask(self) -> m.RequestArrived:
        """Return another request: some models are wanted far more often than others."""
        self.number += 1
        number = min(MODELS - 1, int(self.random.expovariate(0.25)))
        return m.RequestArrived(
            ticket=f"req_{self.number}",
            model=f"local/model{number}",
            priority=self.random.choice(PRIORITIES),
            caller=f"caller{self.random.randrange(50)}",
            deadline=self.now + 3600,
            expected_seconds=1.0,
        )

    def ask_lease(self) -> m.LeaseAsked:
        """Return another demand of a foreign program."""
        self.number += 1
        lease = Lease(
            id=f"lease_{self.number}",
            devices={GPU: self.random.randint(2, 12) * GIB},
            lease_class="job",
            holder="render",
        )
        return m.LeaseAsked(lease=lease, ttl_seconds=20, wait_until=self.now + 300)

    def measure(self) -> m.Measured:
        """Return a measurement: what is granted, and sometimes a game."""
        granted = self.decider.view(self.now).devices[0].granted_bytes
        return m.Measured(device=GPU, used_bytes=granted + self.random.choice([0] * 19 + [4]) * GIB)

    def decide(self, fact: m.Fact) -> None:
        """Let one fact be decided, measured, and have its effects end in due time."""
        start = time.thread_time_ns()
        effects = self.decider.decide(fact, self.now)
        self.nanoseconds[type(fact).__name__].append(time.thread_time_ns() - start)
        self.effects += len(effects)
        for effect in effects:
            self.happen(effect)
        if isinstance(fact, m.RequestFinished):
            self.decide(self.ask())

    def happen(self, effect: m.Effect) -> None:
        """Have an effect end."""
        match effect:
            case m.AdmitRequest():
                self.later(self.random.expovariate(1.0), m.RequestFinished(ticket=effect.ticket))
            case m.StartWorker():
                self.loads += 1
                self.later(4.0, m.WorkerReady(model=effect.model, seconds=4.0, order=effect.order))
            case m.WakeWorker() | m.ResizeWorker():
                self.later(1.0, m.WorkerReady(model=effect.model, seconds=1.0, order=effect.order))
            case m.SleepWorker():
                self.later(1.0, m.WorkerAsleep(model=effect.model, level=1, seconds=1.0, order=effect.order))
            case m.StopWorker():
                self.later(0.5, m.WorkerGone(model=effect.model, order=effect.order))
            case m.GrantLease():
                self.later(self.random.uniform(2, 15), m.LeaseReleased(id=effect.id))
            case m.RefuseRequest():
                self.refused += 1
                self.later(1.0, self.ask())
            case _:
                pass

    def run(self, facts: int) -> None:
        """Go through so many facts."""
        for _ in range(WAITING):
            self.decide(self.ask())
        self.later(1.0, self.measure())
        self.later(5.0, self.ask_lease())
        self.nanoseconds.clear()
        for _ in range(facts):
            due = self.decider.next_at()
            if due is not None and due < self.heap[0][0]:
                self.now = max(self.now, due)
                self.decide(m.Ticked())
                continue
            self.now, _, fact = heapq.heappop(self.heap)
            self.decide(fact)
            if isinstance(fact, m.Measured):
                self.later(1.0, self.measure())
            elif isinstance(fact, m.LeaseAsked):
                self.later(self.random.expovariate(0.2), self.ask_lease())


def warm(pairs: int) -> float:
    """Return the microseconds for the arrival and the end of a request for a ready model."""
    decider = Decider(
        [Device(id=GPU, kind="simulated", total_bytes=32 * GIB)],
        [Model(name="local/chat", sizes=(Size(devices={GPU: 16 * GIB}),), slots=8, idle_seconds=300)],
    )
    decider.decide(m.RequestArrived(ticket="req_0", model="local/chat"), 0.0)
    decider.decide(m.WorkerReady(model="local/chat", seconds=4.0), 4.0)
    facts = [
        (m.RequestArrived(ticket=f"req_{n}", model="local/chat", deadline=1e9), m.RequestFinished(ticket=f"req_{n}"))
        for n in range(1, pairs + 1)
    ]
    start = time.thread_time()
    for number, (arrived, finished) in enumerate(facts):
        decider.decide(arrived, 5.0 + number / 1000)
        decider.decide(finished, 5.0 + number / 1000)
    return (time.thread_time() - start) / pairs * 1e6


def main() -> int:
    """Measure, print a table, and fail if a decision costs more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decide", description="What one decision costs.")
    parser.add_argument("--facts", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    load = Load(options.seed)
    gc.collect()
    gc.freeze()
    load.run(options.facts)
    print(f"{'fact':<18}{'count':>9}{'mean µs':>10}{'median':>9}{'p99':>9}{'max':>10}")
    everything = [value for values in load.nanoseconds.values() for value in values]
    rows = [*sorted(load.nanoseconds.items(), key=lambda row: -len(row[1])), ("all", everything)]
    for name, values in rows:
        values.sort()
        print(
            f"{name:<18}{len(values):>9}{statistics.fmean(values) / 1e3:>10.1f}{values[len(values) // 2] / 1e3:>9.1f}"
            f"{values[len(values) * 99 // 100] / 1e3:>9.1f}{values[-1] / 1e3:>10.1f}"
        )
    waiting = len(load.decider.view(load.now).waiting)
    done = f"{load.effects} effects, {load.loads} loads, {load.refused} refused, {load.now:.0f} virtual seconds"
    print(f"{waiting} wait, {MODELS} models, {done}")
    print(f"a warm request (arrival and end together): {warm(100_000):.1f} µs")
    mean = statistics.fmean(everything) / 1e3
    if mean > LIMIT_MICROSECONDS:
        print(f"error: {mean:.1f} µs for one decision; at most {LIMIT_MICROSECONDS:.0f} µs are promised")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
