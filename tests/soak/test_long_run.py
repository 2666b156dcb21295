"""Minutes of load with five faults in a hundred requests: nothing leaks, nothing hangs, nothing gets slower.

SOAK_MINUTES says how long (2 if unset; a release wants 30). Half of the rate that a few seconds of closed loop reached
is offered in an open loop, streamed and whole answers by turns, over a chain of two engines which both fail.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import pytest

from soak.load import (
    Caller,
    Memory,
    Told,
    Upstream,
    closed_loop,
    descriptors_of,
    external,
    fault_peer,
    memory_of,
    open_loop,
    percentile,
    simulated,
)
from support.daemon import RunningDaemon, StartDaemon

MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))
CALIBRATION_SECONDS, CALIBRATION_CALLERS = 5.0, 64
MOST_PER_SECOND = 400.0
CONTROL_EVERY = 10
FAULTS_IN_100 = 5
FAR_KINDS = ("error", "cut", "truncate", "error", "cut", "truncate", "error", "stall")
FAR_FAULTS = [
    {"kind": FAR_KINDS[number % len(FAR_KINDS)], "skip": 20 + 20 * number, "times": 1, "after_tokens": 3}
    for number in range(600)
]
"""Each call of the worker looks through the list, so it is short; it lasts for 12,000 calls."""
DEADLINES = {"connect": 2.0, "first_byte": 5.0, "gap": 2.0, "total": 20.0}

GROWTH_KIB_IN_10_MINUTES = 1024.0
NOISE_KIB = 1024.0
"""The allocator's own ups and downs, whatever the length of the run."""
IDLE_SECONDS = 45.0
"""Until the pool's idle connections (30 s) have expired."""
DESCRIPTOR_NOISE = 4
"""Each of the two engines may just be asked how it is, and the test's own client has a connection."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(MINUTES * 60 + 300)]


async def test_a_long_run_with_faults(start_daemon: StartDaemon) -> None:
    async with fault_peer(FAULTS_IN_100) as near, simulated(FAR_FAULTS, **_speed()) as far, fault_peer(0) as control:
        daemon = await start_daemon(
            {
                "models": {"near": external(near), "far": external(far)},
                "chains": {"orchestrator": ["local/near", "local/far"]},
                "deadlines": DEADLINES,
            }
        )
        for target in ("local/near", "local/far"):
            await daemon.until_state(target, "ready")
        per_second = await _calibrate(daemon)
        before = await _idle_descriptors(daemon, most=0)
        told, direct, samples = await _load(daemon, per_second, control)
        after = await _idle_descriptors(daemon, most=before + DESCRIPTOR_NOISE)
        print(f"\n{len(told)} requests in {MINUTES:g} minutes, {per_second:.0f} a second")
        print(f"descriptors at idle: {before} before, {after} after")
        _check_ends(told)
        await _check_faults(told, near)
        _check_latency([one for one in told if one.is_good], direct)
        _check_memory(samples)
        assert abs(after - before) <= DESCRIPTOR_NOISE
        await _check_quiet(daemon, near, far)


def _speed() -> dict[str, Any]:
    return {"slots": 4096, "tokens_per_second": 1000, "prompt_tokens_per_second": 1e6, "reply_tokens": 10}


async def _calibrate(daemon: RunningDaemon) -> float:
    """Return half of the rate that is reached with the slower engine alone; it warms everything up, too."""
    caller = Caller(daemon.url)
    reached: dict[str, float] = {}
    for model in ("local/near", "local/far"):

        async def ask(number: int, model: str = model) -> Told:
            return await caller.ask(is_stream=number % 2 == 0, model=model)

        reached[model] = await closed_loop(CALIBRATION_CALLERS, CALIBRATION_SECONDS, ask)
    await caller.aclose()
    print(f"\nreached {reached} requests a second with {CALIBRATION_CALLERS} callers")
    return min(*reached.values(), 2 * MOST_PER_SECOND) / 2


async def _load(
    daemon: RunningDaemon, per_second: float, control: Upstream
) -> tuple[list[Told], list[Told], list[tuple[float, Memory]]]:
    """Ask for `MINUTES`; return what was told, in the order of asking, and the daemon's memory by the second.

    Args:
        daemon: Whom.
        per_second: How many questions.
        control: Asked directly now and then (the second list): what the machine and this process cost at that time.
    """
    loop = asyncio.get_running_loop()
    caller, past_daemon = Caller(daemon.url), Caller(control.url)
    told: dict[int, Told] = {}
    direct: list[Told] = []
    samples: list[tuple[float, Memory]] = []
    began = loop.time()

    async def ask(number: int, due_at: float) -> None:
        if number % CONTROL_EVERY == 0:
            direct.append(await past_daemon.ask(is_stream=False, due_at=due_at))
            due_at = loop.time()
        told[number] = await caller.ask(is_stream=number % 2 == 0, due_at=due_at)

    async def sample() -> None:
        while True:
            samples.append((loop.time() - began, memory_of(daemon.pid)))
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as tasks:
        sampling = tasks.create_task(sample())
        await open_loop(per_second, MINUTES * 60, ask)
        sampling.cancel()
    await caller.aclose()
    await past_daemon.aclose()
    return [told[number] for number in sorted(told)], direct, samples


async def _idle_descriptors(daemon: RunningDaemon, *, most: int) -> int:
    """Return the number of open descriptors when it is as low as wanted, or no longer falls."""
    lowest = count = descriptors_of(daemon.pid)
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            while count > most:
                await asyncio.sleep(1)
                count = descriptors_of(daemon.pid)
                lowest = min(lowest, count)
    except TimeoutError:
        pass
    return min(lowest, count)


def _check_ends(told: list[Told]) -> None:
    """No request hangs, every stream that began ends with its marker, everything else is a proper answer."""
    hung = [one for one in told if one.code == "hang"]
    assert not hung, f"{len(hung)} requests hung"
    open_ended = [one for one in told if not one.is_ended]
    assert not open_ended, f"{len(open_ended)} answers without an end: {open_ended[:3]}"
    assert not [one for one in told if one.code == "no JSON"]


async def _check_faults(told: list[Told], near: Upstream) -> None:
    """Callers see few of the faults: those behind the first byte of a stream, and those that hit both engines."""
    state = await near.state()
    bad = [one for one in told if not one.is_good]
    bad_whole = [one for one in bad if not one.is_stream]
    print(f"near: {state}")
    print(f"seen by callers: {len(bad)} ({Counter((one.is_stream, one.status, one.code) for one in bad)})")
    assert state["early"]
    assert state["late"]
    whole = sum(1 for one in told if not one.is_stream)
    assert len(bad_whole) <= 0.02 * whole + 1, f"{len(bad_whole)} of {whole} whole answers failed"
    assert len(bad) <= 0.5 * FAULTS_IN_100 / 100 * len(told) + 0.02 * len(told) + 1


def _check_latency(good: list[Told], direct: list[Told]) -> None:
    """The last fifth is as quick as the first one, as far as asking an engine directly is (machines are shared)."""
    slower = [1.0, 1.0]
    rows = {
        "asked directly": [one.seconds for one in direct],
        "first byte": [one.first_seconds for one in good],
        "whole answer": [one.seconds for one in good],
    }
    for name, seconds in rows.items():
        fifth = max(1, len(seconds) // 5)
        first, last = ([1000 * percentile(part, share) for share in (0.5, 0.99)]
                       for part in (seconds[:fifth], seconds[-fifth:]))  # fmt: skip
        print(f"{name}: p50 {first[0]:.1f} -> {last[0]:.1f} ms, p99 {first[1]:.1f} -> {last[1]:.1f} ms")
        if name == "asked directly":
            slower = [max(1.0, now / then) for now, then in zip(last, first, strict=True)]
            continue
        assert last[0] <= 1.5 * slower[0] * first[0] + 10, f"{name}: the median grows"
        assert last[1] <= 2 * slower[1] * first[1] + 200, f"{name}: the 99th percentile grows"


def _check_memory(samples: list[tuple[float, Memory]]) -> None:
    """In the second half memory grows by less than 1 MiB in ten minutes, and the noise."""
    half = samples[len(samples) // 2 :]
    seconds = half[-1][0] - half[0][0]
    for name, values in (("own memory", [m.own for _, m in half]), ("RSS", [m.rss for _, m in half])):
        slope = _slope([at for at, _ in half], values)
        growth = slope * seconds
        print(f"{name}: {values[0]} KiB at half-time, {values[-1]} at the end; "
              f"{slope * 600 / 1024:+.2f} MiB in 10 minutes, {growth:+.0f} KiB in the second half")  # fmt: skip
        assert growth < GROWTH_KIB_IN_10_MINUTES * seconds / 600 + NOISE_KIB, f"{name} grows"


def _slope(times: list[float], values: list[int]) -> float:
    """Return the slope of the straight line through the points (least squares)."""
    mean_time, mean_value = sum(times) / len(times), sum(values) / len(values)
    above = sum((at - mean_time) * (value - mean_value) for at, value in zip(times, values, strict=True))
    return above / sum((at - mean_time) ** 2 for at in times)


async def _check_quiet(daemon: RunningDaemon, *peers: Upstream) -> None:
    """Nothing runs on."""
    assert (await daemon.status())["running_requests"] == 0
    for peer in peers:
        assert (await peer.state())["running"] == 0
