"""Foreign leases: asked for, waited for, renewed, given back, expired, adopted after a crash; written down first."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from support.scheduling import CARD, NAP, HandEngine, Shell, SleepyEngine, a_model, a_wish, running
from turnout.core.clock import ManualClock, SystemClock
from turnout.core.errors import Busy, LeaseTooLarge, NotFound, NotGranted, SetupError, ShuttingDown
from turnout.core.events import JournalFailed, LeaseEnded, LeaseGranted
from turnout.core.memory import GIB, Lease
from turnout.scheduler.journal import LeaseJournal, read_entries
from turnout.scheduler.messages import WaitingView

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def written(shell: Shell) -> list[str]:
    """Return the foreign leases that hold according to the file."""
    data = (shell.journal._path).read_bytes()
    return [entry.lease.id for entry in read_entries(data, BOOT).values() if not entry.lease.model]


async def test_a_lease_is_granted_with_its_times_and_written_down(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell:
        before = shell.clock.wall_seconds()
        lease = await shell.loop.leases.ask(a_wish(16, ttl_seconds=30.0))
        assert lease.id.startswith("lease_")
        assert (lease.devices, lease.lease_class, lease.holder) == ({CARD: 16 * GIB}, "job", "painter")
        assert before <= lease.granted_at <= shell.clock.wall_seconds()
        assert lease.expires_at == pytest.approx(lease.granted_at + 30.0)
        assert shell.loop.leases.all() == [lease]
        assert shell.loop.view().leases == (lease,)
        assert written(shell) == [lease.id]
        assert shell.free_gib() == 12
        assert shell.told(LeaseGranted)[0].lease == lease

        assert shell.loop.leases.release(lease.id) == lease
        assert shell.free_gib() == 28
        assert written(shell) == []
        assert shell.told(LeaseEnded)[0].reason == "released"
        with pytest.raises(NotFound, match=lease.id):
            shell.loop.leases.release(lease.id)


async def test_it_is_written_down_before_anybody_is_told(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    shell = Shell(tmp_path)
    shell.bus.subscribe(lambda _: seen.append(written(shell)), LeaseGranted)
    async with running(shell):
        lease = await shell.loop.leases.ask(a_wish())
    assert seen == [[lease.id]]


async def test_a_worker_is_written_down_before_it_starts_and_while_it_lives(tmp_path: Path) -> None:
    at_start: list[list[Lease]] = []

    class Watched(HandEngine):
        def start(self, target: str, size: str, devices: dict[str, int]) -> None:
            entries = read_entries((tmp_path / "leases.journal").read_bytes(), BOOT)
            at_start.append([entry.lease for entry in entries.values()])
            super().start(target, size, devices)

    async with running(Shell(tmp_path, a_model(), engine=Watched)) as shell:
        await shell.loop.requests.load("local/a")
        ((lease,),) = at_start
        assert (lease.model, lease.devices, lease.expires_at) == ("local/a", {CARD: 16 * GIB}, None)
        shell.engine.became("local/a", "cold")
        assert read_entries((tmp_path / "leases.journal").read_bytes(), BOOT) == {}


async def test_without_room_it_says_who_holds_it(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(lease_class="pinned"))) as shell:
        await shell.loop.requests.load("local/a")
        first = await shell.loop.leases.ask(a_wish(8))
        with pytest.raises(NotGranted) as raised:
            await shell.loop.leases.ask(a_wish(8, wait_seconds=0.05))
        error = raised.value
        assert (error.status, error.position) == (409, 1)
        assert [(entry["holder"], entry["class"], entry["lease"]) for entry in error.holders] == [
            ("local/a", "pinned", ""), ("painter", "job", first.id),
        ]  # fmt: skip
        assert error.hint
        assert shell.loop.view().waiting == ()


async def test_more_than_the_card_will_ever_grant_is_the_askers_mistake(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell:
        with pytest.raises(LeaseTooLarge) as raised:
            await shell.loop.leases.ask(a_wish(29, wait_seconds=60))
        assert (raised.value.status, raised.value.retryable) == (422, False)


async def test_an_idle_model_makes_room_for_a_job_and_comes_back(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model())) as shell:
        await shell.loop.requests.load("local/a")
        lease = await shell.loop.leases.ask(a_wish(20, wait_seconds=5))
        assert shell.engine.states["local/a"] == "cold"
        shell.loop.leases.release(lease.id)
        await shell.loop.requests.load("local/a")
        assert [order[0] for order in shell.engine.orders] == ["start", "stop", "start"]


async def test_a_sleeper_that_can_sleeps(tmp_path: Path) -> None:

    shell = Shell(tmp_path, a_model(sleep_levels=(NAP,)), engine=SleepyEngine)
    async with running(shell):
        await shell.loop.requests.load("local/a")
        lease = await shell.loop.leases.ask(a_wish(20, wait_seconds=5))
        assert shell.engine.states["local/a"] == "asleep"
        shell.loop.leases.release(lease.id)
        await shell.loop.requests.load("local/a")
        assert [order[0] for order in shell.engine.orders] == ["start", "sleep", "wake"]


async def test_a_lease_waits_behind_a_job_and_gets_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.scheduler.leases.PROGRESS_SECONDS", 0.001)
    places: list[WaitingView] = []
    in_line = asyncio.Event()

    async def progress(place: WaitingView) -> None:
        places.append(place)
        in_line.set()

    async with running(Shell(tmp_path)) as shell, asyncio.TaskGroup() as tasks:
        job = await shell.loop.leases.ask(a_wish(20))
        waiting = tasks.create_task(shell.loop.leases.ask(a_wish(20, holder="next", wait_seconds=60), progress))
        await in_line.wait()
        (place,) = shell.loop.view().waiting
        assert shell.loop.leases.find(place.id) is not None
        shell.loop.leases.release(job.id)
        lease = await waiting
        assert lease.holder == "next"
        assert shell.loop.leases.all() == [lease]
        assert shell.told(LeaseGranted)[-1].waited_seconds > 0
    assert places[0].position == 1


async def test_whoever_stops_waiting_has_left_the_line(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell, asyncio.TaskGroup() as tasks:
        job = await shell.loop.leases.ask(a_wish(20))
        waiting = tasks.create_task(shell.loop.leases.ask(a_wish(20, wait_seconds=60)))
        while not shell.loop.view().waiting:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert shell.loop.view().waiting == ()
        shell.loop.leases.release(job.id)
        assert shell.loop.leases.all() == []


async def test_whoever_leaves_in_the_moment_of_the_grant_holds_nothing(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell, asyncio.TaskGroup() as tasks:
        job = await shell.loop.leases.ask(a_wish(20))
        waiting = tasks.create_task(shell.loop.leases.ask(a_wish(20, wait_seconds=60)))
        while not shell.loop.view().waiting:
            await asyncio.sleep(0)
        shell.loop.leases.release(job.id)  # grants it to the second, whose task has not run since
        assert len(shell.loop.leases.all()) == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert shell.loop.leases.all() == []
        assert shell.free_gib() == 28
        assert written(shell) == []


async def test_an_expired_lease_is_free_at_once(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell:
        lease = await shell.loop.leases.ask(a_wish(20, ttl_seconds=0.05))
        following = await shell.loop.leases.ask(a_wish(20, wait_seconds=5))
        assert shell.clock.wall_seconds() >= (lease.expires_at or 0)
        assert "expired" in shell.told(LeaseEnded)[0].reason
        assert shell.loop.leases.all() == [following]
        assert written(shell) == [following.id]
        with pytest.raises(NotFound):
            shell.loop.leases.renew(lease.id, 30.0)


async def test_a_renewed_lease_lives_on(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell:
        lease = await shell.loop.leases.ask(a_wish(20, ttl_seconds=0.05))
        renewed = shell.loop.leases.renew(lease.id, 60.0)
        assert (renewed.expires_at or 0) > (lease.expires_at or 0) + 50
        with pytest.raises(NotGranted):
            await shell.loop.leases.ask(a_wish(20, wait_seconds=0.15))
        assert shell.loop.leases.all() == [renewed]
        (entry,) = read_entries(shell.journal._path.read_bytes(), BOOT).values()
        assert entry.lease == renewed


async def test_a_lease_ends_with_the_process_that_it_names(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    async with running(Shell(tmp_path)) as shell:
        lease = await shell.loop.leases.ask(a_wish(20, process=child.pid))
        child.kill()
        await child.wait()
        ended = await shell.heard(LeaseEnded)
        assert (ended.lease.id, ended.reason) == (lease.id, "its process is gone")
        assert shell.free_gib() == 28


async def test_at_the_end_nothing_is_granted_and_what_holds_goes_on(tmp_path: Path) -> None:
    async with running(Shell(tmp_path)) as shell, asyncio.TaskGroup() as tasks:
        lease = await shell.loop.leases.ask(a_wish(20))
        waiting = tasks.create_task(stopped(shell, 60.0))
        while not shell.loop.view().waiting:
            await asyncio.sleep(0)
        shell.loop.stop()
        await waiting
        await stopped(shell, 0.0)
        assert shell.loop.leases.all() == [lease]
    assert written(shell) == [lease.id]


async def stopped(shell: Shell, wait_seconds: float) -> None:
    with pytest.raises(ShuttingDown):
        await shell.loop.leases.ask(a_wish(20, wait_seconds=wait_seconds))


def a_full_disk(descriptor: int, data: bytes) -> int:
    raise OSError(28, "No space left on device")


async def test_what_cannot_be_written_down_is_not_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Shell(tmp_path)) as shell:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", a_full_disk)
            with pytest.raises(Busy, match="No space left on device"):
                await shell.loop.leases.ask(a_wish(20))
        assert shell.loop.leases.all() == []
        assert shell.free_gib() == 28
        assert shell.told(JournalFailed)
        await shell.loop.leases.ask(a_wish(20))


async def test_a_worker_starts_although_it_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Shell(tmp_path, a_model())) as shell:
        lease = await shell.loop.leases.ask(a_wish(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", a_full_disk)
            await shell.loop.requests.load("local/a")
            shell.loop.leases.renew(lease.id, 50.0)
            shell.loop.leases.release(lease.id)
        assert len(shell.told(JournalFailed)) == 3


# After a crash

CLOCK = SystemClock()


def journalled(root: Path, *leases: Lease) -> None:
    journal = LeaseJournal(root / "leases.journal", BOOT)
    journal.open()
    for lease in leases:
        journal.hold(lease)
    journal.close()


def a_held_lease(number: int = 1, gib: int = 20, **facts: object) -> Lease:
    given = {"lease_class": "job", "holder": "painter", "expires_at": CLOCK.wall_seconds() + 60, **facts}
    return Lease(id=f"lease_{number}", devices={CARD: gib * GIB}, **given)  # type: ignore[arg-type]


async def test_a_foreign_lease_that_has_not_expired_is_adopted_and_can_be_renewed(tmp_path: Path) -> None:
    lease = a_held_lease(process=os.getpid())
    journalled(tmp_path, lease)
    async with running(Shell(tmp_path, a_model())) as shell:
        assert shell.loop.leases.all() == [lease]
        (granted,) = shell.told(LeaseGranted)
        assert granted.is_adopted
        assert shell.free_gib() == 8
        with pytest.raises(Busy):
            await shell.loop.requests.admit("1", "local/a", deadline_seconds=0.05)
        shell.loop.leases.renew(lease.id, 30.0)
        shell.loop.leases.release(lease.id)
        await shell.loop.requests.load("local/a")


async def test_an_adopted_lease_expires_when_it_would_have(tmp_path: Path) -> None:
    journalled(tmp_path, a_held_lease(expires_at=CLOCK.wall_seconds() + 0.3))
    async with running(Shell(tmp_path)) as shell:
        assert shell.loop.leases.all()
        await shell.heard(LeaseEnded)
        assert CLOCK.wall_seconds() >= (shell.told(LeaseEnded)[0].lease.expires_at or 0) - 0.01
        assert shell.free_gib() == 28


async def test_what_is_void_is_reclaimed_with_the_reason(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    gone = a_held_lease(1, process=child.pid)
    journalled(
        tmp_path,
        gone,
        a_held_lease(2, expires_at=CLOCK.wall_seconds() - 1),
        a_held_lease(3, model="local/a", expires_at=None),
    )
    child.kill()
    await child.wait()
    async with running(Shell(tmp_path)) as shell:
        assert shell.loop.leases.all() == []
        assert shell.free_gib() == 28
        reasons = {event.lease.id: event.reason for event in shell.told(LeaseEnded)}
        assert reasons == {
            "lease_1": f"its process {gone.process} is gone",
            "lease_2": "it expired while no daemon ran",
            "lease_3": "the worker ended with its daemon",
        }
        assert written(shell) == []


async def test_a_lease_on_a_device_that_was_taken_out_holds_and_harms_nobody(tmp_path: Path) -> None:
    journalled(tmp_path, msgspec.structs.replace(a_held_lease(), devices={"host/gpu7": GIB}))
    async with running(Shell(tmp_path, a_model())) as shell:
        assert len(shell.loop.leases.all()) == 1
        await shell.loop.requests.load("local/a")
        assert len(shell.loop.view().devices) == 2


async def test_two_shells_in_a_row_lose_and_double_nothing(tmp_path: Path) -> None:
    async with running(Shell(tmp_path, a_model(gib=1))) as first:
        await first.loop.requests.load("local/a")
        one = await first.loop.leases.ask(a_wish(8))
        two = await first.loop.leases.ask(a_wish(8))
        first.loop.leases.release(one.id)
    # The first ended without a word, as after a kill.
    async with running(Shell(tmp_path, a_model(gib=1))) as second:
        assert second.loop.leases.all() == [two]
        assert second.free_gib() == 20


def test_a_journal_that_cannot_be_begun_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "leases.journal").mkdir()
    with pytest.raises(SetupError):
        Shell(tmp_path, clock=ManualClock()).loop.begin()
