"""The profile that was chosen, and the note of a switch: what is kept, and when it no longer counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnout.config.kept_profile import ProfileFiles, SwitchNote
from turnout.core.errors import SetupError


def test_a_choice_counts_while_the_configuration_says_the_same(tmp_path: Path) -> None:
    files = ProfileFiles(tmp_path / "state")
    assert files.kept("auto") == "auto"
    files.keep("dev", "auto")
    assert files.kept("auto") == "dev"
    assert files.kept("cpu") == "cpu", "somebody has changed it since then"
    assert ProfileFiles(tmp_path / "state").kept("auto") == "dev"


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"profile": 3}', b"[]"])
def test_a_file_that_cannot_be_read_is_no_choice(tmp_path: Path, text: bytes) -> None:
    for name in ("profile.json", "profile-switch.json"):
        (tmp_path / name).write_bytes(text)
    assert ProfileFiles(tmp_path).kept("auto") == "auto"
    assert ProfileFiles(tmp_path).interrupted() is None


def test_an_interrupted_switch_is_told_once(tmp_path: Path) -> None:
    files, note = ProfileFiles(tmp_path), SwitchNote(before="a", after="b", step="ending x")
    files.note(note)
    assert ProfileFiles(tmp_path).interrupted() == note
    assert ProfileFiles(tmp_path).interrupted() is None
    files.note(note)
    files.over()
    files.over()
    assert files.interrupted() is None


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = ProfileFiles(tmp_path / "file")
    with pytest.raises(SetupError, match="cannot write"):
        files.keep("a", "b")
    with pytest.raises(SetupError, match="cannot write"):
        files.note(SwitchNote(before="a", after="b", step="c"))
