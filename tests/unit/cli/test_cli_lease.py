"""``turnout lease``: which device is meant, what is said while it waits, and how the lists read."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from turnout.cli import lease as module
from turnout.cli import main as cli
from turnout.cli.checkup_devices import examine_devices
from turnout.cli.lease import Waiting, check_word, put_leases, spell_demand, spell_place, the_card
from turnout.cli.ps import put_devices
from turnout.client import LeaseWaiting, Turnout
from turnout.config.schema import DeviceEntry, Settings
from turnout.core.errors import SetupError
from turnout.core.memory import GIB

Captured = pytest.CaptureFixture[str]


def a_device(id_: str = "host/gpu0", **facts: Any) -> dict[str, Any]:
    return {
        "id": id_, "kind": "nvidia", "name": "Card", "total_bytes": 32 * GIB, "headroom_bytes": 2 * GIB,
        "granted_bytes": 12 * GIB, "measured_bytes": 14 * GIB, "unattributed_bytes": 0, "free_bytes": 18 * GIB,
        "holders": [{"holder": "local/a", "class": "resident", "bytes": 12 * GIB, "lease": "", "phase": "ready",
                     "running": 0}],
        **facts,
    }  # fmt: skip


def a_lease(**facts: Any) -> dict[str, Any]:
    return {
        "id": "lease_1", "devices": {"host/gpu0": 16 * GIB}, "class": "job", "holder": "paint", "priority": "normal",
        "granted_at": 0.0, "expires_at": 9e9, "process": None, **facts,
    }  # fmt: skip


RAM = a_device("host/ram", kind="ram", holders=[], measured_bytes=None)


def test_the_only_card_is_meant_where_none_is_named() -> None:
    assert the_card([a_device(), RAM]) == "host/gpu0"
    with pytest.raises(SetupError, match="there are 2 cards") as raised:
        the_card([a_device(), a_device("host/gpu1"), RAM])
    assert raised.value.hint == "name one: --device host/gpu0 or --device host/gpu1"
    with pytest.raises(SetupError, match="no card") as raised:
        the_card([RAM])
    assert "--device host/ram" in raised.value.hint


def test_a_word_that_is_not_known_is_told_with_the_list() -> None:
    check_word("--class", "job", ("job", "voice"))
    with pytest.raises(SetupError, match="--class 'jobs' is not known") as raised:
        check_word("--class", "jobs", ("job", "voice"))
    assert raised.value.hint == "one of: job, voice"


def test_sizes_and_places_in_words() -> None:
    assert spell_demand({"host/gpu0": 16 * GIB, "host/ram": GIB // 2}) == "16.0 GiB of host/gpu0, 0.5 GiB of host/ram"
    assert spell_place(2, None) == "place 2 in the line"
    assert spell_place(1, 40.2) == "place 1 in the line, about 40 s"


def test_the_waiting_is_said_when_it_changes_and_now_and_then(capsys: Captured) -> None:
    asked = 0

    def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        return httpx2.Response(200, json={"devices": [a_device(), RAM]})

    daemon = Turnout("http://127.0.0.1:9", transport=httpx2.MockTransport(answer))
    waiting = Waiting(daemon, {"host/gpu0": 16 * GIB})
    for seconds in range(40):
        waiting.told(LeaseWaiting(position=2 if seconds < 20 else 1, waited_seconds=float(seconds)))
    lines = capsys.readouterr().err.splitlines()
    assert asked == 1
    assert lines == [
        "  local/a (resident) holds 12.0 GiB of host/gpu0",
        "waiting for 16.0 GiB of host/gpu0: place 2 in the line",
        "waiting for 16.0 GiB of host/gpu0: place 2 in the line",
        "waiting for 16.0 GiB of host/gpu0: place 1 in the line",
        "waiting for 16.0 GiB of host/gpu0: place 1 in the line",
    ]


def test_what_is_on_its_way_out_is_said(capsys: Captured) -> None:
    module.say_holders([{"holder": "local/a", "class": "resident", "devices": {"host/gpu0": GIB}, "phase": "stopping"}])
    assert capsys.readouterr().err == "  local/a (resident) holds 1.0 GiB of host/gpu0 and is stopping\n"


def test_the_table_of_leases(capsys: Captured) -> None:
    put_leases([])
    assert capsys.readouterr().out == ""
    put_leases([a_lease()])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["LEASE", "HOLDER", "CLASS", "HOLDS", "FOR", "ENDS", "IN"]
    assert row.startswith("lease_1  paint   job    16.0 GiB of host/gpu0")


def test_the_table_of_devices(capsys: Captured) -> None:
    put_devices([])
    assert capsys.readouterr().out == ""
    put_devices([a_device(), RAM])
    head, card, ram = capsys.readouterr().out.splitlines()
    assert head.split() == ["DEVICE", "TOTAL", "HELD", "IN", "USE", "FREE", "HOLDERS"]
    assert " ".join(card.split()) == "host/gpu0 32.0 GiB 12.0 GiB 14.0 GiB 18.0 GiB local/a 12.0 GiB"
    assert " ".join(ram.split()) == "host/ram 32.0 GiB 12.0 GiB 18.0 GiB"


def run_cli(*arguments: str) -> int:
    return cli.main(["lease", *arguments])


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["run", "--gib", "16", "--", "no-such-program"], 127, "there is no program 'no-such-program'"),
        (["run", "--gib", "0", "--", "true"], 1, "--gib 0 is no size"),
        (["run", "--gib", "1", "--class", "jobs", "--", "true"], 1, "--class 'jobs' is not known"),
        (["run", "--gib", "1", "--priority", "urgent", "--", "true"], 1, "--priority 'urgent' is not known"),
        (["run", "--", "true"], 1, "gib"),
        (["run", "--gib", "1"], 1, "COMMAND"),
        (["run", "--gib", "1", "--", "true"], 3, "turnout is not running"),
        (["run", "--gib", "1", "true", "--gib"], 3, "turnout is not running"),
        (["ls"], 3, "turnout is not running"),
        (["release", "lease_1"], 3, "turnout is not running"),
    ],
)
def test_what_is_wrong_is_said_before_anything_happens(
    arguments: list[str], status: int, words: str, capsys: Captured
) -> None:
    assert run_cli(*arguments) == status
    assert words in capsys.readouterr().err


def test_alone_it_shows_its_help(capsys: Captured) -> None:
    assert run_cli() == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("run", "ls", "release"))


def findings(settings: Settings | None, status: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    return [(finding.verdict, finding.name, finding.words) for finding in examine_devices(settings, status)]


def test_the_check_up_tells_what_the_daemon_shares() -> None:
    status = {"devices": [a_device(), RAM], "leases": [a_lease()]}
    assert findings(None, status) == [
        ("ok", "host/gpu0", "18.0 GiB of 30.0 GiB free to grant; local/a holds 12.0 GiB"),
        ("ok", "host/ram", "18.0 GiB of 30.0 GiB free to grant"),
        ("ok", "leases", "1 lease: paint (job)"),
    ]
    assert findings(None, {"devices": [], "leases": []}) == []
    assert findings(None, {}) == []


def test_the_check_up_tells_of_strangers_on_a_card_and_not_of_those_in_memory() -> None:
    much: dict[str, Any] = {"unattributed_bytes": 9 * GIB}
    (card, ram) = examine_devices(None, {"devices": [a_device() | much, RAM | much]})
    assert (card.verdict, ram.verdict) == ("warn", "ok")
    assert "9.0 GiB are used by programs without a lease" in card.words
    assert "turnout lease run" in card.mend
    (full,) = examine_devices(None, {"devices": [a_device(free_bytes=0)]})
    assert "make room" in full.mend


def test_the_check_up_without_a_daemon_tells_what_would_be_shared() -> None:
    entries = [DeviceEntry(id="lab/gpu0", kind="simulated", vram_gib=24, headroom_gib=1)]
    found = findings(Settings(devices=entries), None)
    assert ("ok", "lab/gpu0", "24.0 GiB (simulated), 1.0 GiB kept free") in found
    assert any(name == "host/ram" for _, name, _ in found)
    (wrong,) = findings(Settings(devices=[DeviceEntry(id="host/gpu7")]), None)
    assert wrong[:2] == ("fail", "devices")
    assert findings(None, None) == []
