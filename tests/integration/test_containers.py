"""Servers in containers on a real Docker Engine: published on loopback, limited, taken over, removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from support.docker_engine import IMAGE, containers, mounts_of_this_machine
from support.vllm_stage import NAME, PATIENCE_SECONDS, Stage, a_running_vllm
from turnout.core.errors import LoadFailed
from turnout.core.events import WorkerCrashed
from turnout.core.memory import HOST_RAM
from turnout.tiers.local.server.container_note import INSTALLATION_LABEL, MODEL_LABEL, installation_id

IN_CONTAINER: dict[str, Any] = {
    "runtime": "docker", "image": IMAGE, "mounts": mounts_of_this_machine(), "device": HOST_RAM,
}  # fmt: skip
DAEMON = """\
import asyncio, json, pathlib, sys
sys.path.insert(0, {tests!r})
from support.vllm_stage import a_running_vllm

async def main():
    async with a_running_vllm(pathlib.Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3])) as stage:
        await stage.ready()
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def only_container(host: str) -> Any:
    (found,) = containers(host)
    return found


async def test_it_answers_is_labelled_and_is_gone_when_it_is_stopped(tmp_path: Path, docker_host: str) -> None:
    async with a_running_vllm(tmp_path, docker_host, **IN_CONTAINER) as stage:
        await stage.ready()
        assert await stage.chat() == 200
        found = only_container(docker_host)
        assert found.labels[MODEL_LABEL] == "one"
        assert found.labels[INSTALLATION_LABEL] == installation_id(stage.engine.context.paths)
        (worker,) = stage.engine.workers()
        assert worker.pid == found.attrs["State"]["Pid"], "whose memory counts is no child of ours"
        stage.engine.stop(NAME)
        await stage.until_state("cold")
        assert containers(docker_host) == []
        assert stage.engine.workers() == ()


async def test_a_keeper_that_does_not_get_to_its_end_leaves_no_container(tmp_path: Path, docker_host: str) -> None:
    async with a_running_vllm(tmp_path, docker_host, **IN_CONTAINER) as stage:
        await stage.ready()
        assert stage.engine.pid is not None
        os.kill(stage.engine.pid, signal.SIGSTOP)  # it will be killed for its silence
        stage.engine.stop(NAME)
        await stage.until_state("cold")
        assert containers(docker_host) == []
        await stage.ready()
        assert await stage.chat() == 200


async def test_its_port_is_published_on_loopback_only(tmp_path: Path, docker_host: str) -> None:
    async with a_running_vllm(tmp_path, docker_host, **IN_CONTAINER) as stage:
        await stage.ready()
        published = only_container(docker_host).attrs["HostConfig"]["PortBindings"]
        assert [entry["HostIp"] for entries in published.values() for entry in entries] == ["127.0.0.1"]


async def test_on_the_hosts_network_it_listens_on_loopback_itself(tmp_path: Path, docker_host: str) -> None:
    async with a_running_vllm(tmp_path, docker_host, network="host", sleep=True, **IN_CONTAINER) as stage:
        await stage.ready()
        assert await stage.chat() == 200
        stage.engine.sleep(NAME, 1)
        await stage.until_state("asleep")
        stage.engine.wake(NAME)
        await stage.until_state("ready")
        arguments = only_container(docker_host).attrs["Config"]["Cmd"]
        assert arguments[arguments.index("--host") + 1] == "127.0.0.1"


async def test_a_lack_of_memory_is_told_as_that(tmp_path: Path, docker_host: str) -> None:
    hungry = {"DOUBLE_FAULT": "hungry", "DOUBLE_LOAD_SECONDS": "0"}
    async with a_running_vllm(tmp_path, docker_host, memory_gib=0.0625, environment=hungry, **IN_CONTAINER) as stage:
        with pytest.raises(LoadFailed, match=r"out of memory: the container may use 0\.0625 GiB"):
            await stage.ready()
        assert containers(docker_host) == []


async def test_a_lack_of_memory_in_the_middle_of_its_work_is_told_as_that(tmp_path: Path, docker_host: str) -> None:
    hungry = {"DOUBLE_FAULT": "hungry-later"}
    async with a_running_vllm(tmp_path, docker_host, memory_gib=0.25, environment=hungry, **IN_CONTAINER) as stage:
        await stage.ready()
        with contextlib.suppress(Exception):
            await stage.engine.ask("GET", "/double", seconds=5)
        await stage.until_state("failed")
        (target,) = stage.engine.targets()
        assert "out of memory: the container may use 0.25 GiB" in target.detail
        assert any(isinstance(event, WorkerCrashed) for event in stage.events)


async def test_a_crash_in_the_container_is_told_with_its_signal(tmp_path: Path, docker_host: str) -> None:
    async with a_running_vllm(tmp_path, docker_host, **IN_CONTAINER) as stage:
        await stage.ready()
        (worker,) = stage.engine.workers()
        os.kill(worker.pid, signal.SIGKILL)
        await stage.until_state("failed")
        (target,) = stage.engine.targets()
        assert "SIGKILL" in target.detail
        await stage.ready()
        assert await stage.chat() == 200


async def test_an_image_that_is_missing_is_named_and_not_fetched(tmp_path: Path, docker_host: str) -> None:
    missing = IN_CONTAINER | {"image": "turnout-test:missing"}
    async with a_running_vllm(tmp_path, docker_host, **missing) as stage:
        with pytest.raises(LoadFailed, match="docker pull turnout-test:missing"):
            await stage.ready()


async def test_a_card_that_docker_cannot_give_is_told(tmp_path: Path, docker_host: str) -> None:
    async with a_running_vllm(tmp_path, docker_host, **(IN_CONTAINER | {"device": "host/gpu0"})) as stage:
        stage.engine.start(NAME, "", {"host/gpu0": 1 << 30})
        await stage.until_state("failed")
        (target,) = stage.engine.targets()
        assert "NVIDIA Container Toolkit" in target.detail
        assert containers(docker_host) == []


async def test_an_engine_that_does_not_answer_is_told(tmp_path: Path, docker_host: str) -> None:
    async with a_running_vllm(tmp_path, f"unix://{tmp_path}/nobody.sock", **IN_CONTAINER) as stage:
        with pytest.raises(LoadFailed, match="Docker Engine does not answer"):
            await stage.ready()


async def start_and_kill_a_daemon(root: Path, docker_host: str, settings: dict[str, Any]) -> None:
    """Have another daemon start a container, and end that daemon without a word."""
    script = root / "daemon.py"
    script.write_text(DAEMON.format(tests=str(Path(__file__).parents[1])))
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(root), docker_host, json.dumps(settings), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await daemon.stdout.readline() == b"ready\n"
        daemon.kill()
        await daemon.wait()


async def test_a_container_outlives_a_crash_of_the_daemon_and_is_taken_over(tmp_path: Path, docker_host: str) -> None:
    await start_and_kill_a_daemon(tmp_path, docker_host, IN_CONTAINER)
    before = only_container(docker_host)
    async with a_running_vllm(tmp_path, docker_host, **IN_CONTAINER) as stage:
        (left,) = stage.engine.workers()
        assert left.pid == before.attrs["State"]["Pid"], "its memory is ours before it is taken over"
        await stage.until_state("ready")  # nobody had to ask for it
        assert only_container(docker_host).id == before.id
        assert await stage.chat() == 200
    assert containers(docker_host) == []


async def test_a_container_that_nobody_takes_over_is_gone_with_the_next_daemon(
    tmp_path: Path, docker_host: str
) -> None:
    await start_and_kill_a_daemon(tmp_path, docker_host, IN_CONTAINER)
    assert len(containers(docker_host)) == 1
    missing = IN_CONTAINER | {"source": f"file:{tmp_path}/nowhere"}
    async with a_running_vllm(tmp_path, docker_host, **missing) as stage:
        await stage.until_state("failed")
        assert len(containers(docker_host)) == 1
    assert containers(docker_host) == []


async def test_a_container_with_other_settings_is_not_taken_over(tmp_path: Path, docker_host: str) -> None:
    await start_and_kill_a_daemon(tmp_path, docker_host, IN_CONTAINER)
    before = only_container(docker_host)
    async with a_running_vllm(tmp_path, docker_host, **(IN_CONTAINER | {"slots": 2})) as stage:
        await stage.until_state("ready")
        assert only_container(docker_host).id != before.id


async def test_an_end_while_it_loads_leaves_no_container(tmp_path: Path, docker_host: str) -> None:
    slow = IN_CONTAINER | {"environment": {"DOUBLE_LOAD_SECONDS": "60"}}
    async with a_running_vllm(tmp_path, docker_host, **slow) as stage:
        stage.engine.wish(NAME)
        await stage.until(lambda: _has_begun(stage))
        assert len(containers(docker_host)) == 1
    assert containers(docker_host) == []


def _has_begun(stage: Stage) -> bool:
    return any(getattr(event, "stage", "") == "loading weights" for event in stage.events)
