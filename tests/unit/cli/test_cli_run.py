"""``turnout run``: where the prompt comes from, and the line below an answer."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from turnout.cli import main as cli
from turnout.cli import run
from turnout.cli.run import read_prompt, spell_facts
from turnout.client import AnswerFacts

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("words", "piped", "prompt"),
    [
        (["join", "this"], "", "join this"),
        (["join", "this"], "and that\n", "join this\n\nand that"),
        ([], "only\nthat\n", "only\nthat"),
        ([], " \n", ""),
    ],
)
def test_arguments_and_pipe_are_joined(
    words: list[str], piped: str, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
    assert read_prompt(words) == prompt


def test_a_pipe_that_stays_silent_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(run, "PIPE_SECONDS", 0.0)
    read, write = os.pipe()
    with os.fdopen(read) as stdin, os.fdopen(write, "w"):
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(stdin, "read", lambda: "late", raising=False)
        assert read_prompt(["a"]) == "a\n\nlate"
    assert "</dev/null" in capsys.readouterr().err


def test_a_closed_stdin_is_no_prompt(monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompt(["a"]) == "a"
    assert cli.main(["run", "--url", "http://127.0.0.1:9"]) == 1
    assert "error: there is no prompt" in capsys.readouterr().err


def test_the_line_below_an_answer() -> None:
    facts = AnswerFacts(
        request_id="req_1", served_model="local/a", tier="local", attempts=1, completion_tokens=1043,
        first_token_seconds=0.21, total_seconds=8.21, finish_reason="stop",
    )  # fmt: skip
    assert spell_facts(facts) == "local/a · 1,043 tokens · 130 tok/s · 0.21 s to first token · req_1"


def test_the_line_says_what_was_unusual() -> None:
    facts = AnswerFacts(request_id="req_1", served_model="local/b", tier="local", attempts=2, finish_reason="length")
    assert spell_facts(facts) == "local/b · attempt 2 · cut at the token limit · req_1"
