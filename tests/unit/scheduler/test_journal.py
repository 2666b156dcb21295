"""Leases on disk: whatever byte a crash cuts them off at, none is lost that was granted, and none is there twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.daemon_file import process_birth
from turnout.config.files import write_privately
from turnout.core.errors import SetupError
from turnout.core.memory import Lease
from turnout.scheduler import journal as module
from turnout.scheduler.journal import LeaseJournal, read_boot, read_entries

BOOT = "boot-1"


def a_lease(number: int, **facts: object) -> Lease:
    given = {"holder": f"holder {number} with an ümlaut\n", "expires_at": 100.0 + number, **facts}
    return Lease(id=f"lease_{number}", devices={"host/gpu0": number}, lease_class="job", **given)  # type: ignore[arg-type]


def opened(path: Path, boot: str = BOOT) -> tuple[LeaseJournal, list[Lease]]:
    journal = LeaseJournal(path, boot)
    return journal, [entry.lease for entry in journal.open()]


def test_what_holds_is_there_after_a_crash_and_what_ended_is_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "leases"
    journal, before = opened(path)
    assert before == []
    for number in range(3):
        journal.hold(a_lease(number))
    journal.renew("lease_0", 500.0)
    journal.end("lease_1")
    journal.end("lease_77")  # nobody knows it

    # No close: the process was killed.
    _, after = opened(path)
    assert after == [a_lease(0, expires_at=500.0), a_lease(2)]
    _, again = opened(path)
    assert again == after, "a start changes nothing"


def test_a_lease_that_is_held_again_is_replaced(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path / "leases")
    journal.hold(a_lease(1))
    journal.hold(a_lease(1, holder="another size"))
    _, after = opened(tmp_path / "leases")
    assert [lease.holder for lease in after] == ["another size"]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path / "leases")
    journal.hold(a_lease(1))
    assert (tmp_path / "leases").stat().st_mode & 0o077 == 0


def history(path: Path) -> tuple[bytes, list[dict[str, float | None]]]:
    """Write a history and return the file with what held after each of its lines."""
    journal, _ = opened(path)
    held: dict[str, float | None] = {}
    states = [dict(held)]
    for number in range(4):
        journal.hold(a_lease(number))
        held[f"lease_{number}"] = 100.0 + number
        states.append(dict(held))
        if number % 2:
            journal.renew(f"lease_{number}", 900.0)
            held[f"lease_{number}"] = 900.0
            states.append(dict(held))
    journal.end("lease_2")
    del held["lease_2"]
    states.append(dict(held))
    return path.read_bytes(), states


def test_cut_off_at_any_byte_it_says_what_held_after_the_last_whole_line(tmp_path: Path) -> None:
    data, states = history(tmp_path / "leases")
    for cut in range(data.index(b"\n") + 1, len(data) + 1):
        whole_lines = data[:cut].count(b"\n") - 1
        found = {id_: entry.lease.expires_at for id_, entry in read_entries(data[:cut], BOOT).items()}
        assert found == states[whole_lines], f"cut at byte {cut}"


@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_one_wrong_byte_costs_one_line_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    data, _ = history(tmp_path_factory.mktemp("journal") / "leases")
    lines = data.split(b"\n")
    damaged = bytearray(data)
    damaged[at % len(data)] = byte
    found = read_entries(bytes(damaged), BOOT)
    hit = data[: at % len(data)].count(b"\n")
    without = b"\n".join(lines[:hit] + lines[hit + 1 :])
    joined = b"\n".join(lines[:hit] + lines[hit + 2 :])  # the byte was the end of a line: two became one
    possible = [read_entries(data, BOOT), read_entries(without, BOOT), read_entries(joined, BOOT)]
    assert found in possible


def test_a_write_after_a_torn_one_begins_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    journal, _ = opened(path)
    journal.hold(a_lease(1))
    path.write_bytes(path.read_bytes() + b"0123abcd {half a li")
    journal, before = opened(path)
    assert before == [a_lease(1)]
    journal.hold(a_lease(2))
    assert opened(path)[1] == [a_lease(1), a_lease(2)]


def test_after_another_boot_nothing_holds(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path / "leases")
    journal.hold(a_lease(1))
    assert opened(tmp_path / "leases", "boot-2")[1] == []
    assert opened(tmp_path / "leases")[1] == [], "the file belongs to the new boot now"


def test_where_nobody_can_tell_the_boot_leases_hold_until_they_expire(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path / "leases", "")
    journal.hold(a_lease(1))
    assert opened(tmp_path / "leases", "")[1] == [a_lease(1)]
    assert opened(tmp_path / "leases")[1] == [a_lease(1)]


def test_this_machine_tells_its_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert read_boot() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    monkeypatch.setattr(module, "BOOT_ID", tmp_path / "none")
    assert read_boot() == ""


def test_it_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 2000)
    path = tmp_path / "leases"
    journal, _ = opened(path)
    journal.hold(a_lease(0))
    for number in range(1, 300):
        journal.hold(a_lease(number))
        journal.renew("lease_0", float(number))
        journal.end(f"lease_{number}")
        assert path.stat().st_size < 2000 + 3 * 2000
        assert read_entries(path.read_bytes(), BOOT)["lease_0"].lease.expires_at == float(number)
    assert opened(path)[1] == [a_lease(0, expires_at=299.0)]


def test_many_leases_are_not_written_again_for_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 100)
    rewrites = 0

    def counted(path: Path, data: bytes) -> None:
        nonlocal rewrites
        rewrites += 1
        write_privately(path, data)

    monkeypatch.setattr("turnout.scheduler.journal.write_privately", counted)
    journal, _ = opened(tmp_path / "leases")
    for number in range(500):
        journal.hold(a_lease(number))
    assert rewrites < 20
    assert len(opened(tmp_path / "leases")[1]) == 500


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "leases"
    journal, _ = opened(path)
    journal.hold(a_lease(1))
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:20]))
    with pytest.raises(SetupError, match="no space left"):
        journal.hold(a_lease(2))
    monkeypatch.undo()
    assert opened(path)[1] == [a_lease(1)]
    journal.hold(a_lease(3))


def test_a_disk_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = opened(tmp_path / "leases")

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(SetupError, match="No space left on device"):
        journal.hold(a_lease(1))
    assert journal.lost_holders() == []


def test_a_closed_one_refuses_to_write(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path / "leases")
    journal.close()
    journal.close()
    with pytest.raises(SetupError, match="is not open"):
        journal.hold(a_lease(1))


def test_a_journal_that_cannot_be_read_or_begun_is_told(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    with pytest.raises(SetupError, match="cannot read"):
        opened(tmp_path / "leases")


def test_a_holder_whose_process_has_gone_is_known(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path / "leases")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        journal.hold(a_lease(1, process=child.pid))
        journal.hold(a_lease(2))
        journal.hold(a_lease(3, process=os.getpid()))
        assert journal.lost_holders() == []
        child.kill()
        child.wait()
    assert journal.lost_holders() == ["lease_1"]
    journal.hold(a_lease(4, process=child.pid))
    assert journal.lost_holders() == ["lease_1", "lease_4"], "one that died before it was written down is lost as well"
    fresh = LeaseJournal(tmp_path / "leases", BOOT)
    entries = {entry.lease.id: entry for entry in fresh.open()}
    assert entries["lease_1"].has_lost_its_process
    assert not entries["lease_2"].has_lost_its_process
    assert entries["lease_3"].birth == process_birth(os.getpid())


WRITER = """
import sys
from pathlib import Path
from turnout.core.memory import Lease
from turnout.scheduler.journal import LeaseJournal
journal = LeaseJournal(Path(sys.argv[1]), "boot-1")
journal.open()
for number in range(10**6):
    lease = Lease(id=f"lease_{number}", devices={"host/gpu0": 1}, lease_class="job", holder="x" * 3000)
    journal.hold(lease)
    print(number, flush=True)
    if number % 3 == 0:
        journal.end(lease.id)
        print(-number - 1, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 250])
def test_a_writer_that_is_killed_has_written_all_that_it_said(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "leases"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(lines)]
        writer.kill()
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
    held = {number for number in said if number >= 0} - {-number - 1 for number in said if number < 0}
    found = {int(lease.id.removeprefix("lease_")) for lease in opened(path)[1]}
    assert len(found ^ held) <= 1, "at most the act that nobody had heard of yet"
