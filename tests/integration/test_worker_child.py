"""One worker process from the parent's side: odd lines, early ends, and children that do not want to go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from support.samples import a_context
from turnout.core.clock import SystemClock
from turnout.core.errors import LoadFailed
from turnout.core.events import Event, WorkerChanged, WorkerCrashed
from turnout.tiers.local import child as child_module
from turnout.tiers.local.child import Child, EngineLog, spawn_worker
from turnout.tiers.local.simulated.engine import SimulatedEngine, SimulatedSettings
from turnout.tiers.scripted_transport import ScriptedTransport

PATIENCE_SECONDS = 20.0
READY = 'print(\'{"ready": true, "url": "http://127.0.0.1:1"}\', flush=True)\n'


class Nothing(msgspec.Struct):
    """A spec without settings."""


@contextlib.asynccontextmanager
async def worker(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> AsyncIterator[tuple[Child, EngineLog]]:
    """Start a worker made of some code; its log is pumped as an engine does."""
    (folder / "odd_worker.py").write_text("import os, signal, subprocess, sys, time\nsys.stdin.readline()\n" + code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    log = EngineLog(folder / "odd.log")
    child = await spawn_worker("odd_worker", Nothing(), log, {})
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.pump_log())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                yield child, log
        finally:
            await child.stop()


async def test_lines_that_are_not_understood_go_into_the_log_and_nothing_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "print('hello')\n"
        'sys.stdout.buffer.write(b\'{"progress": "\\xff"}\\n\')\n'
        "print('[' * 100_000)\n"
        "print('x' * 3_000_000)\n"
        'print(\'{"progress": "loading", "fraction": 0.5}\')\n'
        "sys.stderr.write('y' * 3_000_000 + '\\nlast words\\n'); sys.stderr.flush()\n"
    )
    heard: list[tuple[str, float | None]] = []
    async with worker(tmp_path, monkeypatch, code + READY + "sys.stdin.read()\n") as (child, log):
        url = await child.started(lambda stage, fraction: heard.append((stage, fraction)))
        while "last words" not in log.last_lines:
            await asyncio.sleep(0)

    assert url == "http://127.0.0.1:1"
    assert ("loading", 0.5) in heard
    assert "not understood: hello" in log.last_lines


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ('print(\'{"failed": "no such weights"}\', flush=True)\nsys.exit(1)\n', "no such weights"),
        ("sys.stderr.write('out of memory\\n')\nsys.exit(3)\n", "exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)\n", "signal SIGSEGV"),
        ("sys.exit(0)\n", "exit status 0"),
    ],
)
async def test_an_end_before_ready_is_a_failed_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    async with worker(tmp_path, monkeypatch, code) as (child, _):
        with pytest.raises(LoadFailed, match=told):
            await child.started(lambda stage, fraction: None)


async def test_who_ignores_sigterm_is_killed_with_all_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "STOP_SECONDS", 0.2)
    code = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "quiet = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], **quiet)\n"
        "print('{\"progress\": \"' + str(grandchild.pid) + '\"}', flush=True)\n"
    )
    pids: list[int] = []
    async with worker(tmp_path, monkeypatch, code + READY + "sys.stdin.read()\n") as (child, _):
        await child.started(lambda stage, fraction: pids.append(int(stage)))
        pids.append(child.pid)
        await child.stop()

    assert len(pids) == 2
    try:
        async with asyncio.timeout(PATIENCE_SECONDS / 4):
            while any(_runs(pid) for pid in pids):
                await asyncio.sleep(0)
    finally:
        for pid in filter(_runs, pids):
            os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_failed_load_is_told_after_one_load_with_the_time_of_the_next(tmp_path: Path) -> None:
    events: list[Event] = []
    context = a_context(tmp_path, ScriptedTransport(), emit=events.append, clock=SystemClock())
    engine = SimulatedEngine("m", SimulatedSettings(engine="simulated", load_error="no such weights"), context)
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        life = tasks.create_task(engine.run())
        with pytest.raises(LoadFailed, match=r"local/m: no such weights$"):
            await engine.ready("local/m")
        life.cancel()

    states = [event.state for event in events if isinstance(event, WorkerChanged)]
    assert states == ["loading", "failed", "cold"]
    assert [event.exit_code for event in events if isinstance(event, WorkerCrashed)] == [None]
    assert [event.retry_in_seconds for event in events if isinstance(event, WorkerChanged)] == [None, 0.5, None]


async def test_a_load_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    context = a_context(tmp_path, ScriptedTransport(), clock=SystemClock())
    context = msgspec.structs.replace(context, deadlines=msgspec.structs.replace(context.deadlines, load=0.5))
    engine = SimulatedEngine("m", SimulatedSettings(engine="simulated", load_seconds=1000), context)
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        life = tasks.create_task(engine.run())
        with pytest.raises(LoadFailed, match=r"not loaded after 0\.5 s"):
            await engine.ready("local/m")
        life.cancel()
    assert engine.pid is None
