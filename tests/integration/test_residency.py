"""Load, unload, pin and keep-alive through a real daemon with real workers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from support.daemon import RunningDaemon, StartDaemon

SIM = {"engine": "simulated", "vram_gib": 16, "tokens_per_second": 1000, "min_residency_seconds": 0}
CONFIG: dict[str, Any] = {
    "devices": [{"id": "host/gpu0", "kind": "simulated", "vram_gib": 32, "headroom_gib": 4}],
    "models": {"a": SIM, "b": SIM, "fixed": {**SIM, "vram_gib": 1, "pinned": True}},
}


async def turnout(daemon: RunningDaemon, *words: str) -> tuple[int, str, str]:
    """Run the command line against a daemon; return status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "turnout.cli.main", "--url", daemon.url, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def worker_of(daemon: RunningDaemon, target: str) -> dict[str, Any]:
    targets = {entry["name"]: entry for entry in (await daemon.status())["targets"]}
    worker: dict[str, Any] = targets[target]["worker"]
    return worker


async def test_a_pin_holds_against_others_and_over_a_restart(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = await start_daemon(CONFIG, home=tmp_path / "home")
    assert (await turnout(daemon, "models", "pin", "a"))[0] == 0
    code, out, _ = await turnout(daemon, "models", "load", "local/a", "--json")
    assert (code, json.loads(out)["worker"]["is_pinned"]) == (0, True)
    code, _, err = await turnout(daemon, "models", "load", "b")
    assert code == 1
    assert "it wants 16.0 GiB of host/gpu0, of which 28.0 GiB can be granted, 16.0 GiB are pinned" in err
    assert (await daemon.chat("local/b")).status_code == 502
    assert await daemon.stop() == 0

    daemon = await start_daemon(CONFIG, home=tmp_path / "home")
    assert (await worker_of(daemon, "local/a"))["is_pinned"]
    assert (await daemon.chat("local/a")).status_code == 200
    assert (await turnout(daemon, "models", "unpin", "a"))[0] == 0
    assert (await daemon.chat("local/b")).status_code == 200


async def test_an_answer_that_runs_ends_before_its_model_is_unloaded(start_daemon: StartDaemon) -> None:
    slow = {**SIM, "tokens_per_second": 40, "reply_tokens": 40}
    daemon = await start_daemon(CONFIG | {"models": {"a": slow}})
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(daemon.chat("local/a"))
        while not (await worker_of(daemon, "local/a"))["running"]:
            pass  # each look is a round trip
        code, _, err = await turnout(daemon, "models", "unload", "a")
        assert (code, "local/a is unloaded" in err) == (0, True), err
        assert asked.done()
        assert asked.result().json()["usage"]["completion_tokens"] == 40
    assert await daemon.state_of("local/a") == "cold"
    assert (await daemon.chat("local/a", max_tokens=1)).status_code == 200, "the next request loads it again"


@pytest.mark.parametrize("way", ["body", "header"])
async def test_a_request_that_keeps_nothing_unloads_its_model(start_daemon: StartDaemon, way: str) -> None:
    daemon = await start_daemon(CONFIG)
    if way == "body":
        answer = await daemon.chat("local/a", keep_alive=0)
    else:
        daemon.client.headers["x-turnout-keep-alive"] = "0"
        answer = await daemon.chat("local/a")
    assert answer.status_code == 200
    await daemon.until_state("local/a", "cold")


async def test_what_is_kept_makes_way_and_what_is_pinned_by_the_file_stays(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    assert (await daemon.chat("local/a", keep_alive="1h")).status_code == 200
    assert 3590 < (await worker_of(daemon, "local/a"))["put_away_in_seconds"] <= 3600
    assert (await daemon.chat("local/b", keep_alive=-1)).status_code == 200
    assert await daemon.state_of("local/a") == "cold"
    assert (await worker_of(daemon, "local/b"))["idle_seconds"] is None
    code, _, err = await turnout(daemon, "models", "unpin", "fixed")
    assert (code, "the configuration pins 'local/fixed'" in err) == (1, True), err
    bad = await daemon.chat("local/a", keep_alive="soon")
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "keep_alive")
