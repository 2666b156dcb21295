"""Every fault at every step of a switch between real llama.cpp workers, on the way there and on the way back.

And `kill -9` of the daemon at each step: the next one runs one of the two shapes, and says what happened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.profile_stage import STEPS, FullDisk, Stage, a_stage, kill_9_at, weights_in

WAY_BACK = (
    "going back", "ending chat", "ending deep", "adding chat", "loading local/chat", "asking local/chat",
    "loading local/code",
)  # fmt: skip
"""After two's first model could not be loaded."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("step", STEPS)
async def test_every_fault_at_every_step(tmp_path: Path, step: str) -> None:
    async with a_stage(tmp_path) as stage:
        for name, fault in FAULTS.items():
            fault(stage, STEPS.index(step))
            error = await stage.use("two")
            assert error is None or error.code != "profile_lost", f"{name}: {error}"
            print(f"{name} at {step!r}: {'one' if error else 'two'} runs")
            await stage.check("one" if error else "two")
            if error is None:
                assert await stage.use("one") is None
                await stage.check("one")


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
            told = tuple(stage.steps[begin : number + 1])
            assert told == WAY_BACK[: len(told)], "the fault was meant for this step"
            await stage.check("one")


@pytest.mark.parametrize("step", [step for step in STEPS if step != "done"])
async def test_kill_9_of_the_daemon_at_every_step(tmp_path: Path, step: str) -> None:
    await kill_9_at(step, tmp_path)


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
    """Nothing can be written into the journal of leases until the switch ends: workers start all the same."""
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
