"""A switch between two shapes of real llama.cpp workers that something goes wrong with; `make soak` has every step."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from support.profile_stage import STEPS, FullDisk, Stage, a_stage, kill_9_at, weights_in

pytestmark = pytest.mark.timeout(180)


async def test_a_switch_that_is_disturbed_leaves_one_of_the_two_shapes_whole(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        assert await stage.use("two") is None
        assert tuple(stage.steps) == STEPS, "the faults below are meant for these steps"
        await stage.check("two")
        assert await stage.use("one") is None
        await _worker_dies_before_its_question(stage)
        await _weights_vanish_forth_and_once_back(stage)
        await _disk_is_full_from_the_choice_on(stage)
        await _disk_is_full_at_the_very_end(stage)


async def _worker_dies_before_its_question(stage: Stage) -> None:
    stage.disturb = lambda number, _: stage.kill_workers() if number == STEPS.index("asking local/chat") else None
    error = await stage.use("two")
    assert error is not None
    assert error.code == "profile_failed"
    await stage.check("one")


async def _weights_vanish_forth_and_once_back(stage: Stage) -> None:
    def disturb(_: int, step: str) -> None:
        tries_back = stage.steps.count("going back")
        if step == "adding chat" and tries_back < 2:
            weights_in(stage.folder, "one" if tries_back else "two").unlink()
        if step == "going back" and tries_back == 2:
            stage.calm()

    stage.disturb = disturb
    error = await stage.use("two")
    assert error is not None
    assert error.code == "profile_failed", error
    assert stage.steps.count("going back") == 2
    await stage.check("one")


async def _disk_is_full_from_the_choice_on(stage: Stage) -> None:
    begin = STEPS.index("keeping")
    stage.daemon.profiles._files = FullDisk(stage.paths.state_dir, lambda number: number >= begin)
    error = await stage.use("two")
    assert error is not None
    assert "no space left" in error.message
    assert "profile 'one' runs as before" in error.message
    await stage.check("one")


async def _disk_is_full_at_the_very_end(stage: Stage) -> None:
    end = STEPS.index("keeping")
    stage.daemon.profiles._files = FullDisk(stage.paths.state_dir, lambda number: number > end)
    assert await stage.use("two") is None, "the choice was written: the switch is complete"
    await stage.check("two")


async def test_an_answer_that_does_not_end_keeps_the_old_shape(tmp_path: Path) -> None:
    body = {"model": "local/chat", "messages": [{"role": "user", "content": "Count to 500"}], "stream": True}
    async with a_stage(tmp_path) as stage, httpx2.AsyncClient(base_url=stage.daemon.url, timeout=60) as client:
        stage.daemon.profiles._drain_seconds = 0.05
        async with client.stream("POST", "/v1/chat/completions", json={**body, "max_tokens": 100}) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            error = await stage.use("two")
            assert error is not None
            assert error.code == "not_drained"
            assert [line async for line in lines if line][-1] == "data: [DONE]", "and it is not cut"
        await stage.check("one")


async def test_fifty_callers_lose_no_answer_to_a_switch_that_fails(tmp_path: Path) -> None:
    is_over = asyncio.Event()
    answers: list[tuple[int, str]] = []
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}

    async def caller(client: httpx2.AsyncClient) -> None:
        while not is_over.is_set():
            answer = await client.post("/v1/chat/completions", json=body)
            answers.append((answer.status_code, answer.headers["x-turnout-served-model"]))

    limits = httpx2.Limits(max_connections=None)
    async with (
        a_stage(tmp_path) as stage,
        httpx2.AsyncClient(base_url=stage.daemon.url, timeout=60, limits=limits) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(50):
            tasks.create_task(caller(client))
        stage.disturb = lambda number, _: stage.kill_workers() if number == STEPS.index("asking local/chat") else None
        error = await stage.use("two")
        assert error is not None
        assert error.code == "profile_failed"
        stage.calm()
        assert await stage.use("two") is None
        is_over.set()
    assert len(answers) >= 100, "everybody asked before and after"
    assert set(answers) == {(200, "local/chat")}


async def test_kill_9_of_the_daemon_while_the_new_shape_is_loaded(tmp_path: Path) -> None:
    await kill_9_at("loading local/chat", tmp_path)
