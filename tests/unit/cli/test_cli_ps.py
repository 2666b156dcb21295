"""``turnout ps``: the table, the reasons below it, and what ``auto`` means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support.samples import a_target
from turnout.cli.ps import put_targets, put_workers, spell_auto, spell_time, spell_until
from turnout.core.memory import GIB, HOST_RAM

Captured = pytest.CaptureFixture[str]


def status(*chain: str, **default: str) -> dict[str, Any]:
    return {"auto": list(chain), "default": {"target": "", "reason": "", **default}}


def test_the_reason_of_a_failed_target_stands_below(capsys: Captured) -> None:
    failed = a_target("local/bad", state="failed", detail="no such weights", size_bytes=98_362_432)
    put_targets(msgspec.to_builtins([a_target("local/tiny", context_tokens=8192, roles=("coding",)), failed]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["local/tiny", "simulated", "coding", "ready", "8,192"]
    assert lines[2].split() == ["local/bad", "simulated", "failed", "98", "MB"]
    assert lines[3] == "  local/bad is failed: no such weights"


def test_without_targets_it_says_how_to_get_one(capsys: Captured) -> None:
    put_targets([])
    assert "turnout models pull" in capsys.readouterr().out


def test_what_auto_means() -> None:
    assert spell_auto(status()) == "auto means nothing yet: there is no chat model"
    assert spell_auto(status("local/a")) == "auto means local/a"
    assert spell_auto(status("local/a", "local/b", target="local/a", reason="loaded")) == (
        "auto means local/a (loaded), then local/b"
    )
    assert spell_auto(status("local/a", target="local/z", reason="gone")) == "auto means local/a"


def shown(name: str = "local/a", phase: str = "ready", *, target: dict[str, Any] | None = None, **facts: Any) -> Any:
    worker = {
        "phase": phase, "reserved": {"host/gpu0": 12 * GIB}, "measured": {}, "running": 0, "waiting": 0,
        "is_pinned": False, "is_unloading": False, "idle_seconds": None, "put_away_in_seconds": None, **facts,
    }  # fmt: skip
    return {**msgspec.to_builtins(a_target(name, **{"is_loaded": True, **(target or {})})), "worker": worker}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (shown(), "until needed"),
        (shown(phase="cold"), ""),
        (shown(phase="asleep"), "asleep"),
        (shown(phase="asleep", idle_seconds=60.0, put_away_in_seconds=45.0), "45 seconds from now"),
        (shown(idle_seconds=300.0, put_away_in_seconds=240.2), "4 minutes from now"),
        (shown(idle_seconds=300.0, running=1), "5 minutes after use"),
        (shown(idle_seconds=0.0, running=1), "end of answer"),
        (shown(is_pinned=True), "pinned"),
        (shown(is_pinned=True, is_unloading=True), "unloading"),
        ({**shown(), "worker": None}, "not managed"),
        ({**shown(target={"is_loaded": False}), "worker": None}, ""),
        ({**shown(target={"tier": "frontier"}), "worker": None}, ""),
    ],
)
def test_how_long_a_model_stays_in_words(target: dict[str, Any], words: str) -> None:
    assert spell_until(target) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 seconds"), (1, "1 second"), (89, "89 seconds"), (90, "2 minutes"), (3600, "60 minutes"),
     (86_400, "24 hours"), (7 * 86_400, "7 days")],
)  # fmt: skip
def test_a_time_in_one_unit(seconds: float, words: str) -> None:
    assert spell_time(seconds) == words


TARGETS = [
    shown("local/orchestrator", measured={"host/gpu0": 13 * GIB}, running=3, waiting=2, idle_seconds=300.0,
          target={"size_bytes": 12_900_000_000}),
    shown("local/tiny", reserved={HOST_RAM: 4 * GIB}, put_away_in_seconds=240.0),
    shown("local/both", reserved={HOST_RAM: 3 * GIB, "host/gpu0": GIB}, is_pinned=True),
    shown("local/bad", "failed", reserved={}, target={"state": "failed", "detail": "no such weights"}),
]  # fmt: skip


def test_the_table_has_what_ollamas_users_know_and_more(capsys: Captured) -> None:
    put_workers(TARGETS, 200)
    head, *lines, reason = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "TIER", "SIZE", "PROCESSOR", "STATE", "RESERVED", "MEASURED", "QUEUE", "UNTIL"]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert cells == [
        ["local/orchestrator", "local", "12.9 GB", "100% GPU", "ready", "12.0 GiB", "13.0 GiB", "3 run, 2 wait",
         "5 minutes after use"],
        ["local/tiny", "local", "100% CPU", "ready", "4.0 GiB", "4 minutes from now"],
        ["local/both", "local", "75%/25% CPU/GPU", "ready", "4.0 GiB", "pinned"],
        ["local/bad", "local", "failed"],
    ]  # fmt: skip
    assert reason == "  local/bad is failed: no such weights"


def test_what_an_engine_tells_of_itself_is_in_the_queue(capsys: Captured) -> None:
    ours = {**shown(running=1), "load": {"running": 9, "waiting": 9, "cache_use": 0.414}}
    theirs = {**shown("local/theirs"), "worker": None, "load": {"running": 2, "waiting": 5, "cache_use": None}}
    put_workers([ours, theirs], 200)
    _, first, second = capsys.readouterr().out.splitlines()
    assert "1 run, KV 41%" in first
    assert "2 run, 5 wait" in second


@pytest.mark.parametrize("width", [80, 100, 120])
def test_on_a_narrow_terminal_it_leaves_out_what_matters_least(capsys: Captured, width: int) -> None:
    put_workers(TARGETS, width)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert {"NAME", "STATE", "RESERVED", "UNTIL"} <= set(lines[0].split())


def test_columns_with_nothing_in_them_are_left_out(capsys: Captured) -> None:
    put_workers([shown(phase="cold", reserved={}, target={"state": "cold"})], 120)
    assert capsys.readouterr().out.splitlines()[0].split() == ["NAME", "TIER", "STATE"]


def test_without_targets_the_new_table_says_the_same(capsys: Captured) -> None:
    put_workers([], 80)
    assert "turnout models pull" in capsys.readouterr().out
