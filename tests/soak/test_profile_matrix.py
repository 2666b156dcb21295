"""Every fault at every step of a switch between real llama.cpp workers, on the way there and on the way back.

And `kill -9` of the daemon at each step: the next one runs one of the two shapes, and says what happened.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from support.daemon import RunningDaemon, children_of, launch, until_gone
from support.profile_stage import LEASE, MODELS, STEPS, FullDisk, Stage, a_stage, two_shapes, weights_in

WAY_BACK = (
    "going back", "ending chat", "ending deep", "adding chat", "loading local/chat", "asking local/chat",
    "loading local/code",
)  # fmt: skip
"""After two's first model could not be loaded."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


async def test_every_fault_at_every_step(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        told: list[str] = []
        for number, step in enumerate(STEPS):
            for name, fault in FAULTS.items():
                fault(stage, number)
                error = await stage.use("two")
                shape = "one" if error else "two"
                assert error is None or error.code != "profile_lost", f"{name} at {step}: {error}"
                await stage.check(shape)
                told.append(f"{name} at {step!r}: {shape} runs")
                print(told[-1])
                if shape == "two":
                    assert await stage.use("one") is None
                    await stage.check("one")
        assert any(line.endswith("one runs") for line in told)
        assert any(line.endswith("two runs") for line in told)


@pytest.mark.parametrize("is_disk", [False, True], ids=["workers killed", "disk full"])
async def test_a_second_fault_at_every_step_of_the_way_back(tmp_path: Path, is_disk: bool) -> None:
    begin = STEPS.index("loading local/chat") + 1
    async with a_stage(tmp_path) as stage:
        for number in range(begin, begin + len(WAY_BACK)):

            def disturb(now: int, step: str, number: int = number) -> None:
                if step == "adding deep":
                    weights_in(stage.folder, "two").unlink()
                if now == number and not is_disk:
                    stage.kill_workers()

            stage.disturb = disturb
            if is_disk:
                _fill_disk_for_ever(stage, number)
            error = await stage.use("two")
            assert error is not None
            assert error.code == "profile_failed", f"step {number - begin} of the way back: {error}"
            assert tuple(stage.steps[begin : number + 1]) == WAY_BACK[: number + 1 - begin], (
                "it was meant for this step"
            )
            await stage.check("one")


@pytest.mark.parametrize("step", [step for step in STEPS if step != "done"])
async def test_kill_9_of_the_daemon_at_every_step(tmp_path: Path, step: str) -> None:
    config = two_shapes(tmp_path)
    daemon = await launch(tmp_path / "home", config)
    try:
        await daemon.until_state("local/chat", "ready")
        assert (await daemon.client.post("/turnout/v1/leases", json=LEASE)).status_code == 201
        orphans = children_of(daemon.pid)
        orphans |= await _kill_at(daemon, step)
    finally:
        await daemon.aclose()
    await until_gone(orphans)
    again = await launch(tmp_path / "home", config)
    try:
        await check_daemon(again, step)
    finally:
        await again.aclose()


async def check_daemon(daemon: RunningDaemon, step: str) -> None:
    """Assert that a daemon after a crash is whole: a shape, its models, the lease, and what it said."""
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


async def _kill_at(daemon: RunningDaemon, step: str) -> set[int]:
    """Switch, and kill the daemon when it tells a step; return the processes that it had."""
    headers = {"accept": "text/event-stream"}
    url, body = "/turnout/v1/profiles/active", {"profile": "two"}
    async with daemon.client.stream("POST", url, json=body, headers=headers) as events:
        async for line in events.aiter_lines():
            if line.startswith("data: ") and json.loads(line[6:]).get("step") == step:
                had = children_of(daemon.pid)
                await daemon.stop(signal.SIGKILL)
                return had
    raise AssertionError(f"the switch never came to {step!r}")


def _kill(stage: Stage, number: int) -> None:
    stage.disturb = lambda now, _: stage.kill_workers() if now == number else None


def _kill_loading(stage: Stage, number: int) -> None:
    def disturb(now: int, _: str) -> None:
        if now == number:
            stage.loading = kill_once

    def kill_once(_: str) -> None:
        stage.loading = lambda _: None
        stage.kill_workers()

    stage.disturb = disturb


def _lose_weights(stage: Stage, number: int) -> None:
    stage.disturb = lambda now, _: weights_in(stage.folder, "two").unlink() if now == number else None


def _fill_disk(stage: Stage, number: int) -> None:
    stage.daemon.profiles._files = FullDisk(stage.paths.state_dir, lambda now: now == number)


def _fill_disk_for_ever(stage: Stage, number: int) -> None:
    stage.daemon.profiles._files = FullDisk(stage.paths.state_dir, lambda now: now >= number)


def _fill_journal(stage: Stage, number: int) -> None:
    """Nothing can be written into the journal of leases until somebody goes back: no worker may start."""
    journal: Any = stage.daemon.scheduling._journal

    def disturb(now: int, step: str) -> None:
        if now == number and step != "done":
            journal.close()
        elif step in ("going back", "done"):
            journal.open()

    stage.disturb = disturb


FAULTS = {
    "workers killed": _kill,
    "killed while loading": _kill_loading,
    "weights gone": _lose_weights,
    "disk full once": _fill_disk,
    "disk full": _fill_disk_for_ever,
    "journal full": _fill_journal,
}
