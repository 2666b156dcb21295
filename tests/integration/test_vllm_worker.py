"""A vLLM of ours asleep and awake, one start at a time, its load, and its end with the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from support.vllm import is_real
from support.vllm_stage import NAME, PATIENCE_SECONDS, a_running_vllm
from turnout.core.errors import ConnectFailed, LoadFailed
from turnout.core.events import LoadProgressed
from turnout.tiers.local.machine import parent_of
from turnout.tiers.local.server.runtime import descendants
from turnout.tiers.local.vllm.metrics import EngineLoad

pytestmark = pytest.mark.timeout(600 if is_real() else 60)
DAEMON = """\
import asyncio, pathlib, sys
sys.path.insert(0, {tests!r})
from support.samples import a_context
from support.vllm import vllm_settings
from turnout.core.clock import SystemClock
from turnout.tiers.local.vllm.engine import VllmEngine
from turnout.tiers.routed_transport import RoutedTransport

async def main():
    root = pathlib.Path(sys.argv[1])
    engine = VllmEngine("one", vllm_settings(root), a_context(root, RoutedTransport(), clock=SystemClock()))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        await engine.ready("local/one")
        print("ready", flush=True)

asyncio.run(main())
"""
double_only = pytest.mark.double


@pytest.mark.parametrize("level", [1, 2])
async def test_it_sleeps_and_wakes_and_answers_again(tmp_path: Path, level: int) -> None:
    async with a_running_vllm(tmp_path, sleep=True, sleep_level=level) as stage:
        await stage.ready()
        assert await stage.chat() == 200
        stage.engine.sleep(NAME, level)
        await stage.until_state("asleep")
        (worker,) = stage.engine.workers()
        stage.engine.wake(NAME)
        await stage.until_state("ready")
        assert await stage.chat() == 200
        assert stage.engine.workers() == (worker,), "the same process"
        assert stage.states == ["loading", "ready", "draining", "asleep", "loading", "ready"]


@double_only
async def test_after_level_two_the_weights_are_read_again_and_the_cache_forgotten(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, sleep=True, sleep_level=2) as stage:
        await stage.ready()
        stage.engine.sleep(NAME, 2)
        await stage.until_state("asleep")
        await stage.ready()  # nobody else decides: it is woken
        called = [path for path in (await stage.seen())["called"] if path not in ("/health", "/double")]
        assert called == [
            "/sleep",
            "/is_sleeping",
            "/wake_up",
            "/collective_rpc",
            "/reset_prefix_cache",
            "/is_sleeping",
        ]


@double_only
async def test_no_request_ever_meets_a_sleeper(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, sleep=True) as stage:
        await stage.ready()
        stage.engine.sleep(NAME, 1)
        with pytest.raises(ConnectFailed, match="sleeps"):  # from the order on, not from its end on
            await stage.chat()
        await stage.until_state("asleep")
        with pytest.raises(ConnectFailed, match="sleeps"):
            await stage.chat()
        stage.engine.wake(NAME)
        with pytest.raises(ConnectFailed, match="sleeps"):
            await stage.chat()
        await stage.until_state("ready")
        assert await stage.chat() == 200
        assert (await stage.seen())["met_a_sleeper"] == 0


async def test_an_order_that_has_come_to_its_end_is_told_again(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, sleep=True) as stage:
        await stage.ready()
        stage.engine.wake(NAME)
        await stage.until(lambda: stage.states == ["loading", "ready", "ready"])
        stage.engine.sleep(NAME, 1)
        await stage.until_state("asleep")
        stage.engine.sleep(NAME, 1)
        await stage.until(lambda: stage.states[-2:] == ["asleep", "asleep"])


@double_only
async def test_one_that_does_not_fall_asleep_stays_in_service_and_says_so(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, sleep=True, environment={"DOUBLE_FAULT": "no-sleep"}) as stage:
        await stage.ready()
        stage.engine.sleep(NAME, 1)
        await stage.until(lambda: stage.states[-1:] == ["ready"] and len(stage.states) > 2)
        (target,) = stage.engine.targets()
        assert "did not fall asleep" in target.detail
        assert await stage.chat() == 200


@double_only
async def test_one_that_does_not_wake_up_is_ended_rather_than_trusted(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, sleep=True, environment={"DOUBLE_FAULT": "no-wake"}) as stage:
        await stage.ready()
        (worker,) = stage.engine.workers()
        stage.engine.sleep(NAME, 1)
        await stage.until_state("asleep")
        stage.engine.wake(NAME)
        await stage.until_state("failed")
        (target,) = stage.engine.targets()
        assert "CUDA out of memory" in target.detail
        assert not Path(f"/proc/{worker.pid}").exists()


async def test_a_sleeper_can_be_stopped(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, sleep=True) as stage:
        await stage.ready()
        (worker,) = stage.engine.workers()
        stage.engine.sleep(NAME, 1)
        await stage.until_state("asleep")
        stage.engine.stop(NAME)
        await stage.until_state("cold")
        assert stage.engine.workers() == ()
        assert not Path(f"/proc/{worker.pid}").exists()


@double_only
async def test_without_sleep_there_are_no_development_routes(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path) as stage:
        await stage.ready()
        stage.engine.sleep(NAME, 1)
        await stage.until(lambda: stage.states[-1:] == ["ready"] and len(stage.states) > 2)
        assert await stage.chat() == 200


async def test_its_load_is_told(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path) as stage:
        assert await stage.engine.load() is None
        await stage.ready()
        assert await stage.engine.load() == EngineLoad(running=0, waiting=0, cache_use=0.0)
        async with asyncio.TaskGroup() as tasks:
            talk = tasks.create_task(stage.chat(max_tokens=7000, ignore_eos=True))
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (load := await stage.engine.load()) is None or load.running < 1:
                    pass
            talk.cancel()


async def test_loading_is_told_from_its_log(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path) as stage:
        await stage.ready()
        told = [(event.stage, event.fraction) for event in stage.events if isinstance(event, LoadProgressed)]
        assert ("loading weights", None) in told
        assert [stage for stage, _ in told if not stage.startswith("pid")] == [stage for stage, _ in told]
        log = (stage.engine.context.paths.engine_log("one")).read_text()
        assert "Starting to load model" in log
        assert "\r" not in log, "a bar that draws itself anew is no line"


@double_only
async def test_two_never_load_at_once(tmp_path: Path) -> None:
    slow = {"DOUBLE_LOAD_SECONDS": "0.5"}
    async with a_running_vllm(tmp_path, environment=slow) as first:
        first.engine.wish(NAME)
        await first.until(lambda: first.engine.pid is not None)
        async with a_running_vllm(tmp_path, environment=slow) as second:
            second.engine.wish(NAME)
            await first.until_state("ready")
            assert second.engine.pid is None
            await second.until_state("ready")


@double_only
async def test_one_that_waits_for_its_turn_can_be_stopped(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, environment={"DOUBLE_LOAD_SECONDS": "30"}) as first:
        first.engine.wish(NAME)
        await first.until(lambda: first.engine.pid is not None)
        async with a_running_vllm(tmp_path) as second:
            second.engine.wish(NAME)
            await asyncio.sleep(0)
            second.engine.stop(NAME)
            await second.until_state("cold")
            first.engine.stop(NAME)
            await first.until_state("cold")
            await second.ready()


async def test_the_key_is_nowhere_where_others_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    async with a_running_vllm(tmp_path) as stage:
        await stage.ready()
        assert stage.engine.pid is not None
        servers = descendants(stage.engine.pid)
        assert servers
        for pid in (stage.engine.pid, *servers):
            assert stage.engine._key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"sk-of-the-user" not in Path(f"/proc/{pid}/environ").read_bytes()


@double_only
async def test_a_server_that_dies_takes_its_keeper_along_and_the_signal_is_told(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path) as stage:
        await stage.ready()
        assert stage.engine.pid is not None
        (server,) = descendants(stage.engine.pid)
        os.kill(server, signal.SIGSEGV)
        await stage.until_state("failed")
        (target,) = stage.engine.targets()
        assert "SIGSEGV" in target.detail


@double_only
async def test_a_keeper_that_dies_takes_its_server_along(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path) as stage:
        await stage.ready()
        assert stage.engine.pid is not None
        (server,) = descendants(stage.engine.pid)
        os.kill(stage.engine.pid, signal.SIGKILL)
        await stage.until_state("failed")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while Path(f"/proc/{server}").exists() and parent_of(server) > 1:
                await asyncio.sleep(0)


@double_only
async def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with a_running_vllm(tmp_path, port=port) as stage:
            with pytest.raises(LoadFailed, match=f"port {port}"):
                await stage.ready()


@double_only
async def test_another_server_on_its_port_is_not_taken_for_it(tmp_path: Path) -> None:
    async with a_running_vllm(tmp_path, command=[sys.executable, str(_write_impostor(tmp_path)), "serve"]) as stage:
        with pytest.raises(LoadFailed, match="does not serve 'one' to us"):
            await stage.ready()


def _write_impostor(root: Path) -> Path:
    """A server that is healthy and serves something else."""
    path = root / "impostor.py"
    path.write_text(
        "import http.server, sys\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        '        self.wfile.write(b\'{"data": [{"id": "another"}]}\')\n'
        "port = int(sys.argv[sys.argv.index('--port') + 1])\n"
        "http.server.HTTPServer(('127.0.0.1', port), Handler).serve_forever()\n"
    )
    return path


@double_only
@pytest.mark.parametrize("is_keeper_killed_first", [False, True])
async def test_nothing_is_left_when_the_daemon_is_killed(tmp_path: Path, is_keeper_killed_first: bool) -> None:
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON.format(tests=str(Path(__file__).parents[1])))
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await daemon.stdout.readline() == b"ready\n"
        family = descendants(daemon.pid)
        assert len(family) == 2, "keeper and server"
        if is_keeper_killed_first:
            daemon.send_signal(signal.SIGSTOP)  # so that it cannot tidy up
            os.kill(next(pid for pid in family if parent_of(pid) == daemon.pid), signal.SIGKILL)
        daemon.kill()
        await daemon.wait()
        while any(_lives(pid) for pid in family):
            await asyncio.sleep(0)


def _lives(pid: int) -> bool:
    """Return whether a process is there and no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
