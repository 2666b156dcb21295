"""Where files are, who may read them, how the daemon is found, and that there is only one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from support.samples import some_paths
from turnout.config.daemon_file import DaemonFile, process_birth, read_daemon_file, write_daemon_file
from turnout.config.files import write_privately
from turnout.config.lock import hold_lock
from turnout.config.paths import find_paths
from turnout.config.secrets import parse_env, secret_reader
from turnout.core.errors import SetupError

NOBODY = 2**22 + 7
"""Above the highest pid that Linux hands out (proc(5), pid_max)."""


def a_daemon_file(**facts: object) -> DaemonFile:
    pid = os.getpid()
    base = DaemonFile(url="http://u", pid=pid, birth=process_birth(pid), token="t", version="1", started_at=1.0)
    return msgspec.structs.replace(base, **facts)


def test_private_files_are_the_owners_alone_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"

    write_privately(path, b"one")
    before = path.stat()
    with path.open("rb") as reader:
        write_privately(path, b"two two")
        assert reader.read() == b"one", "who reads the old file must not see half of the new one"

    assert path.read_bytes() == b"two two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_ino != before.st_ino
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SetupError, match="cannot write"):
        write_privately(tmp_path / "folder", b"x")  # a folder stands where the file should be
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError, match="cannot write"):
        write_privately(tmp_path / "file" / "below", b"x")

    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


def test_the_daemon_is_found_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    write_daemon_file(path, a_daemon_file())

    assert read_daemon_file(path) == a_daemon_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "facts", [{"birth": "1"}, {"pid": NOBODY}, {"pid": NOBODY, "birth": ""}, {"pid": -1, "birth": ""}]
)
def test_a_pid_of_somebody_else_or_nobody_is_no_daemon(tmp_path: Path, facts: dict[str, object]) -> None:
    path = tmp_path / "daemon.json"
    write_daemon_file(path, a_daemon_file(**facts))

    assert read_daemon_file(path) is None


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"url": "\xff"}', b"[" * 100_000])
def test_a_broken_daemon_file_is_no_daemon(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "daemon.json"
    assert read_daemon_file(path) is None
    path.write_bytes(data)
    assert read_daemon_file(path) is None


def test_birth_tells_processes_apart() -> None:
    assert process_birth(os.getpid()) == process_birth(os.getpid()) != ""
    assert process_birth(os.getpid()) != process_birth(1)  # the parent may have been born in the same hundredth
    assert process_birth(NOBODY) == ""


def test_only_one_holds_the_lock_and_the_other_learns_who(tmp_path: Path) -> None:
    paths = some_paths(tmp_path)
    with hold_lock(paths):
        with pytest.raises(SetupError, match=r"already running$"), hold_lock(paths):
            pass
        write_daemon_file(paths.daemon_file, a_daemon_file(url="http://127.0.0.1:1"))
        with pytest.raises(SetupError, match=rf"at http://127\.0\.0\.1:1 \(pid {os.getpid()}\)"), hold_lock(paths):
            pass
    with hold_lock(paths):
        pass


def test_a_state_directory_that_cannot_be_made_says_how_to_move_it(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    with pytest.raises(SetupError) as raised, hold_lock(some_paths(tmp_path)):
        pass
    assert "XDG_STATE_HOME" in raised.value.hint


def test_paths_follow_the_xdg_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind))
    paths = find_paths()

    assert paths.config_file == tmp_path / "CONFIG/turnout/turnout.yaml"
    assert paths.keys_file.parent == paths.config_dir
    assert paths.daemon_file == tmp_path / "STATE/turnout/daemon.json"
    assert paths.data_dir == tmp_path / "DATA/turnout"


def test_a_relative_xdg_variable_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind in ("CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", "some/where")
    paths = find_paths()

    assert all(path.is_absolute() and "some" not in path.parts for path in (paths.config_dir, paths.state_dir))
    assert paths.data_dir.is_relative_to(tmp_path)


def test_engine_logs_stay_in_their_folder(tmp_path: Path) -> None:
    paths = some_paths(tmp_path)

    assert paths.engine_log("qwen2.5").name == "qwen2.5.log"
    assert paths.engine_log("../../etc/x y").parent == paths.log_dir


def test_env_files_are_read_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(
        "\ufeffFIRST=1\n# COMMENT=no\n\nexport A=b\nQ=\"x y\"\nS='z'\nEQ=a=b==\n  SPACED = v  \nEMPTY=\nNOTHING\n"
        'HASH=a#b\n"=\n',
        encoding="utf-8",
    )
    found = parse_env(path)

    assert found == {
        "FIRST": "1", "A": "b", "Q": "x y", "S": "z", "EQ": "a=b==", "SPACED": "v", "EMPTY": "", "HASH": "a#b", '"': "",
    }  # fmt: skip


def test_an_env_file_that_is_no_text_has_no_secrets(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    assert parse_env(tmp_path / ".env") == {}
    assert parse_env(tmp_path / "none") == {}
    assert parse_env(tmp_path) == {}


def test_secrets_come_from_the_environment_first_then_the_file_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("A_KEY=file\nB_KEY=file\n")
    monkeypatch.setenv("A_KEY", "environment")
    monkeypatch.delenv("B_KEY", raising=False)
    read = secret_reader(tmp_path / "turnout.yaml")

    assert (read("A_KEY"), read("B_KEY"), read("C_KEY")) == ("environment", "file", None)
    assert secret_reader(None)("B_KEY") is None
    (tmp_path / ".env").write_text("B_KEY=changed\n")
    assert read("B_KEY") == "changed"
