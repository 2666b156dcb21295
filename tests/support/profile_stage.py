"""Two shapes of real llama.cpp workers on one card, and a daemon whose switches can be disturbed at every step."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from support.daemon import RunningDaemon, children_of, launch, until_gone
from support.llama_server import demonstration_model
from turnout.app import Daemon
from turnout.config.kept_profile import ProfileFiles, SwitchNote
from turnout.config.loader import load_config
from turnout.config.paths import Paths
from turnout.console.talk import Talk
from turnout.core.clock import SystemClock
from turnout.core.errors import SetupError, TurnoutError
from turnout.core.events import Event, LoadProgressed, ProfileStep
from turnout.core.memory import GIB
from turnout.tiers.local.process import ProcessEngine
from turnout.tiers.local.restart import RestartPolicy

CARD = "host/gpu0"
PATIENCE_SECONDS = 60.0
MODELS = {"one": ("local/chat", "local/code"), "two": ("local/chat", "local/code", "local/deep")}
STEPS = (
    "draining", "ending chat", "adding chat", "adding deep", "loading local/chat", "asking local/chat",
    "loading local/code", "loading local/deep", "keeping", "done",
)  # fmt: skip
"""Of the switch from one to two."""
LEASE = {
    "devices": {CARD: GIB}, "class": "resident", "holder": "somebody else", "ttl_seconds": 3600, "wait_seconds": 0,
}  # fmt: skip


def two_shapes(folder: Path) -> dict[str, Any]:
    """Return a configuration with the shapes one and two; ``weights_in`` says where their files are.

    Args:
        folder: Takes a link to the weights for each of them.
    """
    for name in MODELS:
        weights_in(folder, name).symlink_to(demonstration_model())

    def llama(shape: str, gib: float, **facts: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "engine": "llamacpp", "source": f"file:{weights_in(folder, shape)}", "context_tokens": 512, "slots": 4,
            "threads": 1, "device": CARD, "vram_gib": gib, "min_residency_seconds": 0,
        }  # fmt: skip
        return given | facts

    code = llama("one", 3, pinned=True)
    return {
        "profile": "one",
        "discover": [],
        "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 16, "headroom_gib": 1}],
        "profiles": {
            "one": {"models": {"chat": llama("one", 8, roles=["orchestrator"]), "code": code}},
            "two": {
                "models": {
                    "chat": llama("two", 6, roles=["orchestrator"], context_tokens=1024),
                    "code": code,
                    "deep": llama("two", 5, pinned=True),
                }
            },
        },
    }


def weights_in(folder: Path, shape: str) -> Path:
    """Return where the weights of a shape's own models are."""
    return folder / f"{shape}.gguf"


class FullDisk(ProfileFiles):
    """A disk on which nothing can be written about a switch at some of its steps.

    Args:
        folder: The state directory.
        is_full: Of the number of a step, from 0, and whether it is the choice that is written.
    """

    def __init__(self, folder: Path, is_full: Callable[[int], bool]) -> None:
        super().__init__(folder)
        self._is_full = is_full
        self._count = -1

    def note(self, note: SwitchNote) -> None:
        """Write a step down, if there is room."""
        self._count += 1
        self._refuse_if_full()
        super().note(note)

    def keep(self, profile: str, configured: str) -> None:
        """Write the choice down, if there is room."""
        self._refuse_if_full()
        super().keep(profile, configured)

    def _refuse_if_full(self) -> None:
        if self._is_full(self._count):
            raise SetupError("no space left on device")


class Stage:
    """A daemon in this process, and what happens at the steps of its switches.

    Args:
        daemon: It.
        paths: Its directories.
        folder: Where the weights are.
    """

    def __init__(self, daemon: Daemon, paths: Paths, folder: Path) -> None:
        self.daemon = daemon
        self.paths = paths
        self.folder = folder
        self.steps: list[str] = []
        self.disturb: Callable[[int, str], None] = lambda _number, _step: None
        """Called at every step, with its number and its words."""
        self.loading: Callable[[str], None] = lambda _target: None
        """Called while a worker loads."""
        self._killed: set[int] = set()
        self._others = children_of(os.getpid())  # what tests before this one started and still share
        daemon.bus.subscribe(self._hear, ProfileStep, LoadProgressed)

    def _hear(self, event: Event) -> None:
        if isinstance(event, LoadProgressed):
            self.loading(event.target)
        elif isinstance(event, ProfileStep):
            self.steps.append(event.step)
            self.disturb(len(self.steps) - 1, event.step)

    def kill_workers(self) -> None:
        """Kill every worker process."""
        for worker in self.daemon.fleet.workers():
            os.kill(worker.pid, signal.SIGKILL)
            self._killed.add(worker.pid)

    def calm(self) -> None:
        """Disturb nothing any more; every worker's record is clean, as after a minute of steady life."""
        self.disturb = lambda _number, _step: None
        self.loading = lambda _target: None
        self.daemon.profiles._files = ProfileFiles(self.paths.state_dir)
        for engine in self.daemon.fleet.engines:
            if isinstance(engine, ProcessEngine):
                engine._restarts = RestartPolicy()
        for shape in MODELS:
            link = weights_in(self.folder, shape)
            if not link.is_symlink():
                link.symlink_to(demonstration_model())

    async def use(self, name: str) -> TurnoutError | None:
        """Switch under whatever disturbs; return the error."""
        self.steps.clear()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.daemon.profiles.use(name)
        except TurnoutError as error:
            return error
        return None

    async def check(self, shape: str) -> None:
        """Assert that a shape is whole: it runs, each of its models gives a real answer, and nobody else lives.

        Args:
            shape: Which.
        """
        self.calm()
        assert self.daemon.profiles.active == shape
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self._killed & {worker.pid for worker in self.daemon.fleet.workers()}:
                await asyncio.sleep(0)  # killed at the very end, and nobody knows yet
        url = self.daemon.url
        async with asyncio.timeout(PATIENCE_SECONDS), httpx2.AsyncClient(base_url=url, timeout=60) as client:
            for model in MODELS[shape]:
                body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
                answer = await client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["choices"][0]["message"]["content"]
            holders = [lease["holder"] for lease in (await client.get("/turnout/v1/leases")).json()["leases"]]
        assert holders == [LEASE["holder"]]
        workers = self.daemon.fleet.workers()
        assert {worker.target for worker in workers} == set(MODELS[shape])
        assert children_of(os.getpid()) - self._others == {worker.pid for worker in workers}


@asynccontextmanager
async def a_stage(folder: Path) -> AsyncIterator[Stage]:
    """Run a daemon with the shape one, ready, and a lease of somebody else's."""
    paths = Paths(config_dir=folder, state_dir=folder / "state", data_dir=folder / "data")
    paths.config_file.write_text(json.dumps({**two_shapes(folder), "server": {"port": 0}}))
    daemon = Daemon(load_config(paths, environment={}), paths, SystemClock(), Talk())
    stage = Stage(daemon, paths, folder)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(daemon.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not daemon.fleet.snapshot.targets["local/chat"].is_loaded:
                await asyncio.sleep(0)
        async with httpx2.AsyncClient(base_url=daemon.url) as client:
            assert (await client.post("/turnout/v1/leases", json=LEASE)).status_code == 201
        try:
            yield stage
        finally:
            daemon.stop()


async def kill_9_at(step: str, folder: Path) -> None:
    """Kill a daemon at a step of a switch, and assert that the next one is whole and says what happened.

    Args:
        step: One of ``STEPS``.
        folder: For everything.
    """
    config = two_shapes(folder)
    daemon = await launch(folder / "home", config)
    try:
        await daemon.until_state("local/chat", "ready")
        assert (await daemon.client.post("/turnout/v1/leases", json=LEASE)).status_code == 201
        orphans = await _kill_at(daemon, step)
    finally:
        await daemon.aclose()
    assert orphans
    await until_gone(orphans)
    again = await launch(folder / "home", config)
    try:
        await _check_after_crash(again, step)
    finally:
        await again.aclose()


async def _kill_at(daemon: RunningDaemon, step: str) -> set[int]:
    """Switch, and kill the daemon when it tells a step; return the processes that it had."""
    had = children_of(daemon.pid)
    url, body, headers = "/turnout/v1/profiles/active", {"profile": "two"}, {"accept": "text/event-stream"}
    async with daemon.client.stream("POST", url, json=body, headers=headers) as events:
        async for line in events.aiter_lines():
            if line.startswith("data: ") and json.loads(line[6:]).get("step") == step:
                had |= children_of(daemon.pid)
                await daemon.stop(signal.SIGKILL)
                return had
    raise AssertionError(f"the switch never came to {step!r}")


async def _check_after_crash(daemon: RunningDaemon, step: str) -> None:
    said = "".join(daemon.output)
    shape = (await daemon.client.get("/turnout/v1/profiles")).json()["active"]
    assert shape == ("two" if "profile two runs since" in said else "one")
    if step != "keeping" or shape == "one":  # the choice is written a moment after that is told: then it was complete
        assert "a switch from profile one to two was interrupted at" in said
    for model in MODELS[shape]:
        answer = await daemon.chat(model, max_tokens=2)
        assert answer.status_code == 200, answer.text
    leases = (await daemon.client.get("/turnout/v1/leases")).json()["leases"]
    assert [lease["holder"] for lease in leases] == [LEASE["holder"]]
    assert len(children_of(daemon.pid)) == len(MODELS[shape])
