"""``turnout logs``: the right file, its last lines, and every new line across its turning over."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.samples import some_paths
from turnout.cli import main as cli
from turnout.cli.logs import find_log, follow_lines, last_lines
from turnout.config.paths import find_paths
from turnout.core.errors import SetupError


class EnoughError(Exception):
    """Ends a log that is followed."""


def script(*steps: Callable[[], object]) -> Callable[[], None]:
    """Return a `wait` that does a step each time there is nothing new."""
    left: Iterator[Callable[[], object]] = iter(steps)

    def wait() -> None:
        step = next(left, None)
        if step is None:
            raise EnoughError
        step()

    return wait


def collect(path: Path, count: int, *steps: Callable[[], object]) -> list[str]:
    got: list[str] = []
    with contextlib.suppress(EnoughError):
        got.extend(follow_lines(path, count, script(*steps)))
    return got


def append(path: Path, text: str) -> Callable[[], object]:
    def step() -> None:
        with path.open("a") as file:
            file.write(text)

    return step


def test_the_last_lines_reach_back_over_the_turn(tmp_path: Path) -> None:
    (tmp_path / "a.log.1").write_text("1\n2\n")
    (tmp_path / "a.log").write_text("3\n")
    assert last_lines(tmp_path / "a.log", 2) == ["2", "3"]
    assert last_lines(tmp_path / "a.log", 0) == []


def test_new_lines_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("1\n2\n3\n")
    assert collect(path, 2, append(path, "4\nhal"), append(path, "f\n")) == ["2", "3", "4", "half"]
    assert collect(path, 0, append(path, "x\n")) == ["x"]


def test_no_line_is_lost_when_the_log_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("1\n")

    def turn() -> None:
        with path.open("a") as file:
            file.write("2\nunfinished")
            path.rename(tmp_path / "a.log.1")
            path.write_text("3\n")

    assert collect(path, 9, turn, append(path, "4\n")) == ["1", "2", "unfinished", "3", "4"]


def test_a_log_that_is_cut_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("a long line\n")
    assert collect(path, 0, lambda: path.write_text("b\n")) == ["b"]


def test_a_log_between_two_names_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("1\n")
    got = collect(path, 9, lambda: path.rename(tmp_path / "a.log.1"), lambda: path.write_text("2\n"))
    assert got == ["1", "2"]


def test_logs_by_key_and_by_target(tmp_path: Path) -> None:
    paths = some_paths(tmp_path)
    paths.log_dir.mkdir(parents=True)
    for name in ("daemon", "tiny", "llamacpp_some"):
        (paths.log_dir / f"{name}.log").write_text("")
    for given, file in (
        ("daemon", "daemon"),
        ("tiny", "tiny"),
        ("local/tiny", "tiny"),
        ("local/llamacpp/some", "llamacpp_some"),
    ):
        assert find_log(given, paths).stem == file
    for given in ("nobody", "../tiny", "local/"):
        with pytest.raises(SetupError) as caught:
            find_log(given, paths)
        assert caught.value.hint == "logs: daemon, llamacpp_some, tiny"


def test_without_any_log_the_hint_is_to_start(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        find_log("daemon", some_paths(tmp_path))
    assert "turnout up" in caught.value.hint


def test_a_log_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    folder = find_paths().log_dir
    folder.mkdir(parents=True)
    (folder / "daemon.log").write_text("1\n2\n3\n")
    assert cli.main(["logs", "-n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"log": str(folder / "daemon.log"), "lines": ["2", "3"]}
    assert cli.main(["logs", "-n", "1"]) == 0
    assert capsys.readouterr().out == "3\n"
