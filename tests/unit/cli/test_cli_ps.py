"""``turnout ps``: the table, the reasons below it, and what ``auto`` means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support.samples import a_target
from turnout.cli.ps import put_targets, spell_auto

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
