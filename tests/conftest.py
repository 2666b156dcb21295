"""What all tests share: the list of skips that are allowed, and the line that says what was left out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.daemon import RunningDaemon, StartDaemon, launch
from support.docker_engine import can_have_docker, docker_engine
from support.llama_server import LlamaServer, find_llama_server, real_llama_server, write_plain_model
from support.parts import OPTIONAL_PARTS, is_allowed_skip, is_there, need


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the packaged llama-server can run on any processor."""
    return write_plain_model(tmp_path_factory.mktemp("model") / "plain.gguf")


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """Where a Docker Engine listens that has the image of nothing."""
    need("docker", can_have_docker())
    with docker_engine() as host:
        yield host


@pytest.fixture
async def llama_server(plain_model: Path, tmp_path: Path) -> AsyncIterator[LlamaServer]:
    """A running llama-server."""
    binary = find_llama_server()
    need("llama-server", binary)
    assert binary is not None
    async with real_llama_server(binary, plain_model, tmp_path / "llama-server.log") as server:
        yield server


@pytest.fixture
async def start_daemon(tmp_path: Path) -> AsyncIterator[StartDaemon]:
    """A function that starts daemons; all end with the test."""
    running: list[RunningDaemon] = []

    async def drain(daemon: RunningDaemon) -> None:
        assert daemon.process.stderr is not None
        async for line in daemon.process.stderr:
            daemon.output.append(line.decode())

    async with asyncio.TaskGroup() as tasks:

        async def start(config: dict[str, Any] | None = None, **options: Any) -> RunningDaemon:
            home = options.pop("home", tmp_path / f"daemon{len(running)}")
            daemon = await launch(home, config or {}, **options)
            running.append(daemon)
            tasks.create_task(drain(daemon))
            return daemon

        try:
            yield start
        finally:
            for daemon in running:
                await daemon.aclose()


@pytest.fixture(autouse=True)
def _own_directories(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test ever sees the user's files or settings."""
    base = tmp_path_factory.mktemp("xdg")
    for kind in ("CONFIG", "STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(base / kind.lower()))
    for name in [name for name in os.environ if name.startswith("TURNOUT_")]:
        monkeypatch.delenv(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the soak out unless it was asked for by `-m soak`."""
    if "soak" in str(config.getoption("-m")):
        return
    kept = [item for item in items if item.get_closest_marker("soak") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Fail a skip that is not on the list, or whose part is required."""
    report = yield
    if report.skipped and call.excinfo is not None and not is_allowed_skip(str(call.excinfo.value)):
        report.outcome = "failed"
        report.longrepr = item.repr_failure(call.excinfo)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    for part, text in OPTIONAL_PARTS.items():
        if not is_there(part):
            terminalreporter.write_line(f"left out: {text}")
    terminalreporter.write_line("left out: long runs (`make soak`)")
