"""What is printed where: colour, tables, sizes, and words that must not steer a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from turnout.cli.terminal import paint, printable, put_json, put_table, spell_bytes, spell_seconds

Captured = pytest.CaptureFixture[str]


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_terminal_gets_colour() -> None:
    assert paint("x", "error", Screen()) == "\x1b[1;31mx\x1b[0m"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_can_be_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert paint("x", "error", Screen()) == "x"


def test_a_pipe_gets_no_colour() -> None:
    assert paint("x", "error", io.StringIO()) == "x"


def test_a_pipe_gets_whole_words(capsys: Captured) -> None:
    long = "local/ollama/" + "x" * 200
    put_table(("TARGET", "SIZE"), [(long, "1 GB")], right=("SIZE",))
    head, row = capsys.readouterr().out.splitlines()
    assert row == f"{long}  1 GB"
    assert head.split() == ["TARGET", "SIZE"]


def test_a_narrow_terminal_folds_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    put_table(("TARGET", "STATE"), [("local/" + "abcdefgh" * 6, "ready")])
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert "".join(line.split()[0] for line in lines[1:]) == "local/" + "abcdefgh" * 6
    assert "\x1b" not in screen.getvalue()


def test_brackets_are_text_and_escapes_are_not(capsys: Captured) -> None:
    put_table(("A",), [("[red]x[/red] :smile: \x1b[2J",)])
    assert "[red]x[/red] :smile: �[2J" in capsys.readouterr().out
    assert printable("a\nb\t\x07é·") == "a\nb\t�é·"


def test_json_is_one_document_in_readable_letters(capsys: Captured) -> None:
    put_json({"b": frozenset({"x"}), "a": "é"})
    assert capsys.readouterr().out == '{\n  "b": [\n    "x"\n  ],\n  "a": "é"\n}\n'


def test_sizes_and_times() -> None:
    assert [spell_bytes(n) for n in (None, 0, 999, 466_247, 98_362_432, 5_030_000_000)] == [
        "", "0 B", "999 B", "466 kB", "98 MB", "5.0 GB",
    ]  # fmt: skip
    assert [spell_seconds(n) for n in (0.4, 99, 100, 3600, 7500, 200_000)] == [
        "0 s", "99 s", "2 min", "1 h 0 min", "2 h 5 min", "2 d 7 h",
    ]  # fmt: skip
