"""How commands end: exit codes, error lines, bugs, pipes, interruptions."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from turnout.cli import main as cli
from turnout.cli.failures import end_of
from turnout.cli.group import COMMANDS, load_command
from turnout.client import ApiError, DaemonNotReachable
from turnout.config.paths import find_paths
from turnout.core.errors import NotFound, SetupError

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (typer.Exit(0), 0),
        (SystemExit(None), 0),
        (SystemExit("words"), 1),
        (BrokenPipeError(), 0),
        (SetupError("m"), 1),
        (NotFound("m"), 1),
        (ApiError("m", code="model_not_found"), 1),
        (ApiError("m", code="internal_error"), 2),
        (ApiError("m", code="budget_exceeded"), 4),
        (DaemonNotReachable("m"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (ValueError("m"), 2),
    ],
)
def test_every_end_has_its_code(error: BaseException, code: int) -> None:
    assert end_of(error) == code


def test_an_error_is_two_lines_on_stderr(capsys: Captured) -> None:
    end_of(SetupError("it is so", hint="do this"))
    captured = capsys.readouterr()
    assert captured.err == "error: it is so\nhint:  do this\n"
    assert captured.out == ""


def test_a_bug_is_one_line_and_leaves_its_traceback_in_a_file(capsys: Captured) -> None:
    with pytest.raises(ValueError, match="bad") as caught:
        raise ValueError("bad\nthing")
    assert end_of(caught.value) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: ValueError: bad thing: this is a bug in turnout"
    path = Path(said[1].removeprefix("hint:  the traceback is in "))
    assert len(said) == 2
    assert path.is_relative_to(find_paths().state_dir)
    assert "Traceback" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_bug_is_told_even_where_nothing_can_be_written(capsys: Captured, tmp_path: Path) -> None:
    find_paths().state_dir.parent.mkdir(parents=True, exist_ok=True)
    find_paths().state_dir.write_text("a file in the way")
    assert end_of(ValueError("x")) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "no such option"),
        (["ps", "--nonsense"], "no such option"),
        (["up", "--port", "x"], "valid integer"),
        (["up", "--port", "99999"], "65535"),
        (["why", "a", "b"], "unexpected extra argument"),
        (["keys", "create"], "missing argument"),
        (["keys", "crate"], "no such command"),
        (["pss"], "there is no command 'pss'"),
    ],
)
def test_usage_errors_end_with_1(arguments: list[str], words: str, capsys: Captured) -> None:
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said.lower()
    assert "\nhint:  " in said
    assert len(said.splitlines()) == 2


def test_a_misspelt_command_gets_the_right_one(capsys: Captured) -> None:
    cli.main(["dotcor"])
    assert "did you mean `turnout doctor`?" in capsys.readouterr().err


def test_the_version(capsys: Captured) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("turnout ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["keys"], ["config"]])
def test_help_goes_to_stdout(arguments: list[str], capsys: Captured) -> None:
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Usage: turnout")
    assert captured.err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summaries_are_those_of_the_commands(name: str) -> None:
    assert load_command(name).help.splitlines()[0] == COMMANDS[name].summary


def every_command() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in COMMANDS:
        inner = getattr(load_command(name), "commands", {})
        found += [(name,), *((name, other) for other in inner)]
    return found


def command_at(path: tuple[str, ...]) -> object:
    command = load_command(path[0])
    return command.commands[path[1]] if len(path) > 1 else command


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_every_command_takes_a_configuration_file(path: tuple[str, ...]) -> None:
    command = command_at(path)
    options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
    assert "--config" in options
    needs_daemon = (("models",), ("models", "default"), ("profile", "plan"))
    if path[0] in ("ps", "down", "run", "why", "doctor", "lease") or path in needs_daemon:
        assert "--url" in options
    if path not in (("down",), ("keys",), ("config",), ("profile",), ("lease",), ("lease", "run")):
        assert "--json" in options


def test_options_count_before_and_after_the_command(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "a.yaml").write_text("server: {port: 1111}")
    (tmp_path / "b.yaml").write_text("server: {port: 2222}")
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    for arguments, port in (
        (["--config", a, "config", "show"], 1111),
        (["config", "--config", a, "show"], 1111),
        (["config", "show", "--config", a], 1111),
        (["--config", a, "config", "show", "--config", b], 2222),
    ):
        assert cli.main(arguments) == 0
        assert f"port: {port}" in capsys.readouterr().out


def test_an_url_before_the_command_counts(capsys: Captured) -> None:
    assert cli.main(["--url", "nonsense", "ps"]) == 1
    assert "not the address of a daemon" in capsys.readouterr().err


def test_without_a_daemon_the_code_is_3(capsys: Captured) -> None:
    assert cli.main(["ps"]) == 3
    assert "`turnout up`" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_interruptions_and_closed_pipes_are_quiet(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def run(_: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "run", run)
    assert cli.main([]) == (130 if error is KeyboardInterrupt else 0)
    assert capsys.readouterr().err == ""


def test_a_reader_who_leaves_is_no_error() -> None:
    script = "import sys; from turnout.cli.main import main; sys.exit(main(['config', 'schema']))"
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, timeout=30)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_full_disk_is_the_users_to_mend() -> None:
    script = "import sys; from turnout.cli.main import main; sys.exit(main(['config', 'schema']))"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0].startswith("error: ")
    assert len(ended.stderr.splitlines()) == 2


def test_closed_streams_are_no_bug() -> None:
    script = "import sys; from turnout.cli.main import main; sys.exit(main(['ps']))"
    ended = subprocess.run(
        ["/bin/sh", "-c", f'{sys.executable} -c "{script}" 2>&-'], stdout=subprocess.PIPE, timeout=30
    )
    assert (ended.returncode, ended.stdout) == (3, b"")


def test_an_engines_words_cannot_steer_the_terminal(capsys: Captured) -> None:
    end_of(ApiError("one\ntwo \x1b[2J"))
    assert capsys.readouterr().err == "error: one two �[2J\n"


def test_completion_knows_commands_and_options() -> None:
    def complete(words: str) -> set[str]:
        environment = {"_TURNOUT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        script = "import sys; from turnout.cli.main import main; sys.exit(main())"
        ended = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, timeout=30
        )
        return set(ended.stdout.split())

    assert complete("turnout ") >= {"up", "run", "why"}
    assert complete("turnout d") == {"down", "doctor"}
    assert "create" in complete("turnout keys ")
    assert "--detach" in complete("turnout up --")


def test_help_imports_the_commands_summaries_and_nothing_else_of_ours() -> None:
    script = "import sys; from turnout.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    loaded = set(ended.stderr.split())
    ours = {name for name in loaded if name.startswith("turnout")}
    assert ours == {
        "turnout", "turnout.core", "turnout.core.errors", "turnout.cli", "turnout.cli.main", "turnout.cli.failures",
        "turnout.cli.group", "turnout.cli.options", "turnout.cli.terminal",
    }  # fmt: skip
    assert not loaded & {"rich", "asyncio", "yaml", "httpx2", "platformdirs"}


def test_typer_itself_can_run_the_app() -> None:
    # Documentation tools and CliRunner take the Typer object; it has to stay a usable one.
    assert "Daemon:" in CliRunner().invoke(cli.app, ["--help"]).output
