"""Leases around real processes: `turnout lease run`, killed holders, killed daemons, whoever waits for its turn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.daemon import RunningDaemon, StartDaemon, children_of, until_gone
from turnout.client import LeaseNotGranted, Turnout

TURNOUT = str(Path(sys.executable).with_name("turnout"))
SECONDS = 30.0
CARD = "host/gpu0"
GIB = 1 << 30
CONFIG: dict[str, Any] = {
    "profile": "none",
    "profiles": {"none": {}},
    "devices": [{"id": CARD, "kind": "simulated", "vram_gib": 32, "headroom_gib": 4}],
}
MODEL: dict[str, Any] = {"engine": "simulated", "tokens_per_second": 5000, "min_residency_seconds": 0}
WAITS = ("sh", "-c", "echo began; read line; exit 7")
"""A command that says that it runs, and ends when its stdin does or it is told to."""


class LeaseRun:
    """A running `turnout lease run`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.talk: list[str] = []

    async def says(self, words: str) -> None:
        """Return once these words were said on stderr."""
        assert self.process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while not any(words in line for line in self.talk):
                line = await self.process.stderr.readline()
                assert line, f"it ended without {words!r}: {self.talk}"
                self.talk.append(line.decode())

    async def began(self) -> int:
        """Return the command's process once it runs."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            assert await self.process.stdout.readline() == b"began\n"
        (command,) = children_of(self.process.pid)
        return command

    async def end(self, number: int | None = None) -> int:
        """Let the command end, or send a signal; return the exit status."""
        assert self.process.stdin is not None
        if number is None:
            self.process.stdin.close()
        else:
            self.process.send_signal(number)
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def lease_run(
    daemon: RunningDaemon, *options: str, gib: int = 20, command: tuple[str, ...] = WAITS
) -> AsyncIterator[LeaseRun]:
    """Run a command under a lease; it is killed if the test leaves it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TURNOUT_", "XDG_"))}
    kept |= {f"XDG_{kind}_HOME": str(daemon.home / kind.lower()) for kind in ("CONFIG", "STATE", "DATA")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        TURNOUT, "lease", "run", "--gib", str(gib), *options, "--", *command,
        stdin=pipe, stdout=pipe, stderr=pipe, env=kept,
    )  # fmt: skip
    try:
        yield LeaseRun(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def leases(daemon: RunningDaemon) -> list[dict[str, Any]]:
    return list((await daemon.client.get("/turnout/v1/leases")).json()["leases"])


async def until_leases(daemon: RunningDaemon, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(SECONDS):
        while len(found := await leases(daemon)) != count:
            pass  # each look is a round trip
    return found


async def ask(daemon: RunningDaemon, **changes: Any) -> httpx2.Response:
    body = {"devices": {CARD: 20 * GIB}, "class": "job", "holder": "test", "ttl_seconds": 30, **changes}
    return await daemon.client.post("/turnout/v1/leases", json=body)


async def test_a_command_runs_under_a_lease_and_its_status_comes_back(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    async with lease_run(daemon, "--holder", "training", "--priority", "interactive") as run:
        command = await run.began()
        await run.says("holding 20.0 GiB of host/gpu0 (lease_")
        (lease,) = await leases(daemon)
        assert (lease["holder"], lease["class"], lease["priority"]) == ("training", "job", "interactive")
        assert (lease["devices"], lease["process"]) == ({CARD: 20 * GIB}, run.process.pid)
        status = await daemon.status()
        assert status["leases"] == [lease]
        assert status["devices"][0]["holders"][0]["holder"] == "training"
        assert await run.end() == 7
    assert await leases(daemon) == []
    await until_gone({command})


@pytest.mark.parametrize(
    ("command", "status"),
    [(("true",), 0), (("sh", "-c", "exit 3"), 3), (("sh", "-c", "kill -9 $$"), 128 + signal.SIGKILL)],
)
async def test_it_ends_as_the_command_ends(start_daemon: StartDaemon, command: tuple[str, ...], status: int) -> None:
    daemon = await start_daemon(CONFIG)
    async with lease_run(daemon, command=command) as run:
        assert await run.process.wait() == status
    assert await leases(daemon) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
async def test_signals_reach_the_command(start_daemon: StartDaemon, number: int) -> None:
    daemon = await start_daemon(CONFIG)
    trap = ("sh", "-c", "trap 'exit 42' TERM INT HUP USR1; echo began; while :; do sleep 0.01; done")
    async with lease_run(daemon, command=trap) as run:
        assert run.process.stdout is not None
        assert await run.process.stdout.readline() == b"began\n"
        await run.says("holding")
        assert await run.end(number) == 42
    assert await leases(daemon) == []


async def test_a_killed_lease_run_takes_its_command_along_and_frees_the_card(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    async with lease_run(daemon) as run:
        command = await run.began()
        assert len(await leases(daemon)) == 1
        await run.end(signal.SIGKILL)
        await until_gone({command})
    await until_leases(daemon, 0)  # long before the lease would have expired
    assert (await ask(daemon)).status_code == 201


async def test_a_killed_daemon_comes_back_and_knows_the_lease(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    async with lease_run(daemon) as run:
        await run.began()
        before = await leases(daemon)
        await daemon.stop(signal.SIGKILL)
        again = await start_daemon(CONFIG, home=daemon.home)
        assert await leases(again) == before
        refused = await ask(again)
        assert refused.status_code == 409
        assert refused.json()["error"]["holders"][0]["lease"] == before[0]["id"]
        assert await run.end() == 7, "it finds the daemon again, which has another address now"
        assert await leases(again) == []
    assert any("goes on holding 20.0 GiB of host/gpu0" in line for line in again.output)


async def test_a_holder_that_died_while_no_daemon_ran_holds_nothing(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    async with lease_run(daemon) as run:
        await run.began()
        await daemon.stop(signal.SIGKILL)
        await run.end(signal.SIGKILL)
    again = await start_daemon(CONFIG, home=daemon.home)
    assert await leases(again) == []
    assert any("is gone" in line for line in again.output)
    assert (await ask(again)).status_code == 201


async def test_a_lease_waits_behind_a_job_and_gets_its_turn(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(lease_run(daemon, "--holder", "first"))
        await first.began()
        second = await stack.enter_async_context(lease_run(daemon, "--holder", "second"))
        await second.says("place 1 in the line")
        assert any("first (job) holds 20.0 GiB of host/gpu0" in line for line in second.talk)
        waiting = (await daemon.client.get("/turnout/v1/leases")).json()["waiting"]
        assert [(place["holder"], place["position"]) for place in waiting] == [("second", 1)]
        await first.end()
        await second.began()
        assert [lease["holder"] for lease in await leases(daemon)] == ["second"]
        assert await second.end() == 7


async def test_whoever_waits_keeps_waiting_over_a_restart_of_the_daemon(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(lease_run(daemon, "--holder", "first"))
        await first.began()
        second = await stack.enter_async_context(lease_run(daemon, "--holder", "second"))
        await second.says("place 1 in the line")
        await daemon.stop(signal.SIGKILL)
        again = await start_daemon(CONFIG, home=daemon.home)
        await second.says("asking again")
        async with asyncio.timeout(SECONDS):
            while not (await again.client.get("/turnout/v1/leases")).json()["waiting"]:
                pass
        await first.end()
        await second.began()
        assert await second.end() == 7


async def test_one_that_waits_in_vain_says_who_holds_it(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    await ask(daemon)
    async with lease_run(daemon, "--wait", "0.2") as run:
        assert await run.process.wait() == 1
        await run.says("error: ")
        assert any("test (job) holds 20.0 GiB" in line for line in run.talk)


async def test_ctrl_c_while_it_waits_leaves_the_line(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    await ask(daemon)
    async with lease_run(daemon) as run:
        await run.says("place 1 in the line")
        assert await run.end(signal.SIGINT) == 130
    async with asyncio.timeout(SECONDS):
        while (await daemon.client.get("/turnout/v1/leases")).json()["waiting"]:
            pass


async def test_an_expired_lease_is_free_at_once(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    first = (await ask(daemon, ttl_seconds=1)).json()
    second = await ask(daemon, wait_seconds=20)
    assert second.status_code == 201
    late = second.json()["granted_at"] - first["expires_at"]
    assert -0.05 < late < 0.5  # two clocks
    gone = await daemon.client.post(f"/turnout/v1/leases/{first['id']}/renew", json={"ttl_seconds": 5})
    assert gone.status_code == 404


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_caller_who_disconnects_while_it_waits_leaves_the_line(start_daemon: StartDaemon, accept: str) -> None:
    daemon = await start_daemon(CONFIG)
    await ask(daemon)
    body = {"devices": {CARD: 20 * GIB}, "class": "job", "holder": "leaver", "ttl_seconds": 30, "wait_seconds": 60}

    async def use() -> None:
        async with httpx2.AsyncClient(base_url=daemon.url, timeout=60) as client:
            await client.post("/turnout/v1/leases", json=body, headers={"accept": accept})

    async def waiting() -> list[dict[str, Any]]:
        return list((await daemon.client.get("/turnout/v1/leases")).json()["waiting"])

    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        using = tasks.create_task(use())
        while not await waiting():
            pass
        using.cancel()
        while await waiting():
            pass


async def test_a_program_holds_a_lease_by_the_client(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    with Turnout(daemon.url) as client:
        async with client.lease({CARD: 20 * GIB}, holder="program", ttl_seconds=1) as lease:
            # Three renewals in a second: it lives longer than it would without them.
            expiry = lease.granted.expires_at
            async with asyncio.timeout(SECONDS):
                while lease.granted.expires_at < expiry + 1.2:
                    await asyncio.sleep(0)
            assert [entry["id"] for entry in await leases(daemon)] == [lease.id]
            with pytest.raises(LeaseNotGranted) as raised:
                async with client.lease({CARD: 20 * GIB}):
                    pass
            assert raised.value.holders[0]["holder"] == "program"
    assert await leases(daemon) == []


async def test_a_lease_that_was_taken_away_is_asked_for_anew_and_told(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    troubles: list[str] = []
    with Turnout(daemon.url) as client:
        async with client.lease({CARD: 20 * GIB}, ttl_seconds=1, on_trouble=troubles.append) as lease:
            first = lease.id
            client.release_lease(first)
            async with asyncio.timeout(SECONDS):
                while lease.id == first:
                    await asyncio.sleep(0)
    assert troubles == [f"the daemon no longer knew {first}; it was granted anew as {lease.id}"]


async def test_an_idle_model_makes_room_for_a_job_and_comes_back(start_daemon: StartDaemon) -> None:
    models = {"a": {**MODEL, "vram_gib": 16}, "small": {**MODEL, "vram_gib": 2}}
    daemon = await start_daemon({**CONFIG, "models": models})
    for name in models:
        assert (await daemon.chat(f"local/{name}")).status_code == 200
    granted = await ask(daemon, wait_seconds=20)
    assert granted.status_code == 201, granted.text
    assert (await daemon.state_of("local/a"), await daemon.state_of("local/small")) == ("cold", "ready")
    assert len(children_of(daemon.pid)) == 1, "its process is gone, not only its entry"
    await daemon.client.request("DELETE", f"/turnout/v1/leases/{granted.json()['id']}", json={})
    assert (await daemon.chat("local/a")).status_code == 200
    assert await daemon.state_of("local/a") == "ready"


async def test_the_journal_survives_many_kills(start_daemon: StartDaemon) -> None:
    home: Path | None = None
    held: dict[str, Any] = {}
    for round_ in range(3):
        daemon = await start_daemon(CONFIG, **({"home": home} if home else {}))
        home = daemon.home
        assert {lease["id"] for lease in await leases(daemon)} == set(held)
        lease = (await ask(daemon, devices={CARD: GIB}, ttl_seconds=600, holder=f"round {round_}")).json()
        held[lease["id"]] = lease
        if round_ == 1:
            gone = next(iter(held))
            await daemon.client.request("DELETE", f"/turnout/v1/leases/{gone}", json={})
            del held[gone]
        await daemon.stop(signal.SIGKILL)


async def test_the_lists(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    lease = (await ask(daemon, holder="painter")).json()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TURNOUT_", "XDG_"))}
    kept |= {f"XDG_{kind}_HOME": str(daemon.home / kind.lower()) for kind in ("CONFIG", "STATE", "DATA")}

    async def turnout(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            TURNOUT, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=kept
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out
        return out.decode()

    listed = await turnout("lease", "ls")
    assert lease["id"] in listed
    assert "painter" in listed
    shown = await turnout("ps")
    assert "host/gpu0" in shown
    assert "painter 20.0 GiB" in shown
    assert "8.0 GiB of 28.0 GiB free to grant; painter holds 20.0 GiB" in await turnout("doctor")
    assert "painter no longer holds 20.0 GiB of host/gpu0" in await turnout("lease", "release", lease["id"])
    assert "no leases" in await turnout("lease", "ls")
