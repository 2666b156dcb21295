"""The worker's half of the process protocol, in processes of its own: who owns stdout, and who outlives whom."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

import turnout

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(turnout.__file__).parents[1])}
PATIENCE_SECONDS = 10.0

PRINTS_A_LOT = """
import os, msgspec
from turnout.tiers.local.worker import announce_failed, announce_progress, read_spec
class Spec(msgspec.Struct):
    name: str
name = read_spec(Spec).name
print("python prints")
os.system("echo a child prints")
os.write(1, b"a native library prints")
for _ in range(1000):
    announce_progress("loading", 0.5)
announce_progress("warming", None)
announce_failed("sorry, " + name)
"""

STARTS_A_WORKER = """
import signal, subprocess, sys
subprocess.Popen([sys.executable, "-m", "turnout.tiers.local.simulated.worker"])
signal.pause()
"""


async def test_stdout_carries_the_protocol_and_nothing_else() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PRINTS_A_LOT, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT
    )
    out, err = await process.communicate(b'{"name": "anna"}\n')
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line for line in lines if line.get("progress") != "loading"] == [
        {"progress": "warming", "fraction": None},
        {"failed": "sorry, anna"},
    ]
    assert 1 <= lines.count({"progress": "loading", "fraction": 0.5}) < 20, "at most ten a second"
    for who in (b"python prints", b"a child prints", b"a native library prints"):
        assert who in err
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's; elsewhere only stdin tells")
async def test_a_worker_dies_with_its_parent_even_if_stdin_stays_open() -> None:
    # The worker inherits the parent's stdin and stdout: this test holds the other ends, so stdin does not end when the
    # parent is killed, and stdout does when the worker is gone, too.
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTS_A_WORKER, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=ENVIRONMENT
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(b"{}\n")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "ready" not in json.loads(await parent.stdout.readline()):
                pass
            parent.kill()
            assert await parent.stdout.read() == b""
    finally:
        parent.stdin.close()
        await parent.wait()
