"""Watching a daemon start: its words are passed on, a traceback is not, and its end is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from support.samples import some_paths
from turnout.cli.detach import Tail, start_detached

Captured = pytest.CaptureFixture[str]


def test_words_are_passed_on_line_by_line_and_a_traceback_is_not(tmp_path: Path, capsys: Captured) -> None:
    log = tmp_path / "up.log"
    log.write_text("old\n")
    with log.open("ab", buffering=0) as output, log.open("rb") as words:
        words.seek(0, 2)
        tail = Tail(words)
        output.write(b"one\nhal")
        tail.pass_on()
        assert capsys.readouterr().err == "one\n"
        output.write("f …\n".encode())
        output.write(b"  + Exception Group Traceback (most recent call last):\n  | File x\n")
        tail.pass_on()
        assert capsys.readouterr().err == "half …\n"
        assert tail.has("half")
        assert not tail.has("old")


def started(tmp_path: Path, script: str) -> int:
    with pytest.raises(typer.Exit) as caught:
        start_detached([sys.executable, "-c", script], some_paths(tmp_path), 1.0, False)
    return int(caught.value.exit_code)


def test_a_daemon_that_says_why_it_ends_is_not_talked_over(tmp_path: Path, capsys: Captured) -> None:
    script = "import sys; print('error: no\\nhint:  do', file=sys.stderr); sys.exit(1)"
    assert started(tmp_path, script) == 1
    assert capsys.readouterr().err == "error: no\nhint:  do\n"


def test_a_daemon_that_crashes_is_a_bug_without_a_wall_of_text(tmp_path: Path, capsys: Captured) -> None:
    assert started(tmp_path, "raise ValueError(3)") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: the daemon ended with status 1 while it started"
    assert said[1] == f"hint:  its last words are in {some_paths(tmp_path).log_dir / 'up.log'}"
    assert len(said) == 2
    assert "ValueError: 3" in (some_paths(tmp_path).log_dir / "up.log").read_text()


def test_a_long_log_is_turned_over(tmp_path: Path) -> None:
    folder = some_paths(tmp_path).log_dir
    folder.mkdir(parents=True)
    with (folder / "up.log").open("wb") as log:
        log.truncate(5_000_001)
    assert started(tmp_path, "raise SystemExit(1)") == 2
    assert (folder / "up.log.1").stat().st_size == 5_000_001
    assert (folder / "up.log").stat().st_size == 0


def test_the_child_has_a_session_of_its_own(tmp_path: Path) -> None:
    script = "import os, pathlib; pathlib.Path(%r).write_text(str(os.getsid(0) == os.getpid()))"
    started(tmp_path, script % str(tmp_path / "own"))
    assert (tmp_path / "own").read_text() == "True"
