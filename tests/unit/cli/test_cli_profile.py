"""``turnout profile``: list, show, plan and compose, without a daemon and with one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.parts import is_there, need
from turnout.cli import main as cli
from turnout.cli.group import COMMANDS
from turnout.config.loader import built_in_profiles

Captured = pytest.CaptureFixture[str]
OWN = """profile: mine
discover: []
devices: [{id: host/gpu0, kind: simulated, vram_gib: 20, headroom_gib: 2}, {id: lab/gpu1, kind: simulated, vram_gib: 4}]
profiles:
  mine:
    extends: dev
    shape: {about: "Mine"}
    models: {reasoning: null, vision: null, small: {engine: simulated, vram_gib: 3, load_seconds: 2, roles: [reflex]}}
    chains: {reasoning: null, judge: null}
  broken: {extends: nothing}
"""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))


def run(tmp_path: Path, *arguments: str, text: str = OWN) -> int:
    file = tmp_path / "turnout.yaml"
    file.write_text(text)
    return cli.main(["profile", *arguments, "--config", str(file)])


def test_list_shows_built_in_and_own_profiles_and_which_is_configured(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path, "list") == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert set(lines) == {*built_in_profiles(), "mine", "broken"}
    assert lines["mine"].split()[1] == "*"
    assert lines["mine"].endswith("Mine")
    assert "there is no profile 'nothing'" in lines["broken"], "one broken profile does not hide the others"
    assert run(tmp_path, "list", "--json") == 0
    told = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert told["mine"]["is_configured"]
    assert told["mine"]["origin"] == "turnout.yaml"
    assert told["dev"]["card"] == "32 GiB"
    assert "local/orchestrator" in told["dev"]["models"]


def test_show_prints_yaml_with_the_changes(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path, "show") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["shape"]["about"] == "Mine"
    assert set(shown["models"]) >= {"orchestrator", "small"}
    assert "vision" not in shown["models"]
    assert run(tmp_path, "show", "creative", "--origin") == 0
    assert "# profile creative (built in:" in capsys.readouterr().out


def test_the_plan_is_for_the_largest_card_of_the_configuration(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path, "plan") == 0
    out = capsys.readouterr().out
    assert out.startswith("mine on host/gpu0 (simulated device, 20.0 GiB, the largest of 2 devices)\nMine\n")
    assert "20.0 GiB - 2.0 GiB that nobody gets" in out
    assert "not known: turnout is not running" in out


def test_the_plan_as_json(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path, "plan", "dev", "--vram-gib", "32", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["profile"], told["fits"], told["leaving_now"]) == ("dev", True, None)
    verdicts = {entry["model"]["name"]: entry["verdict"] for entry in told["plan"]["models"]}
    assert (verdicts["local/orchestrator"], verdicts["local/coding"]) == ("stays", "swaps")
    assert "auto" not in told
    assert run(tmp_path, "plan", "auto", "--vram-gib", "32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["auto"]["candidates"]


def test_what_does_not_fit_is_no_failure(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path, "plan", "dev", "--vram-gib", "4", "--json") == 0
    assert not json.loads(capsys.readouterr().out)["fits"]


def test_an_unknown_profile_is_told(tmp_path: Path, capsys: Captured) -> None:
    assert run(tmp_path, "plan", "dv") == 1
    error = capsys.readouterr().err
    assert "there is no profile 'dv'" in error
    assert "dev" in error


def test_a_model_that_nobody_knows_is_told(tmp_path: Path, capsys: Captured) -> None:
    text = "profile: p\nprofiles: {p: {}}\nmodels: {m: {engine: vllm, source: 'hf:nobody/nothing'}}\n"
    assert run(tmp_path, "plan", "--vram-gib", "8", text=text) == 0
    assert "add vram_gib to models.m" in capsys.readouterr().out


def test_the_summary_is_that_of_the_help(capsys: Captured) -> None:
    assert cli.main(["profile"]) == 0
    assert COMMANDS["profile"].summary in capsys.readouterr().out


def compose(tmp_path: Path, capsys: Captured, *arguments: str, text: str = OWN) -> tuple[dict[str, Any], str, str]:
    assert run(tmp_path, "compose", *arguments, text=text) == 0
    captured = capsys.readouterr()
    return yaml.safe_load(captured.out), captured.out, captured.err


def test_compose_writes_servers_on_loopback_that_start_one_after_the_other(tmp_path: Path, capsys: Captured) -> None:
    document, _, error = compose(tmp_path, capsys, "dev", "--vram-gib", "32")
    services = document["services"]
    assert set(services) == {"orchestrator", "embedding", "reasoning", "coding", "vision"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    assert services["orchestrator"]["ports"] == ["127.0.0.1:8120:8000"]
    assert "depends_on" not in services["orchestrator"]
    assert services["embedding"]["depends_on"] == {"orchestrator": {"condition": "service_healthy"}}
    assert services["reasoning"]["depends_on"] == {"embedding": {"condition": "service_healthy"}}
    assert services["coding"]["profiles"] == ["coding"]
    assert "profiles" not in services["reasoning"]
    words = services["orchestrator"]["command"]
    assert words[words.index("--gpu-memory-utilization") + 1] == "0.3531"
    assert words[words.index("--max-model-len") + 1] == "32768"
    assert run(tmp_path, "compose", "dev", "--vram-gib", "32", "--json") == 0
    assert json.loads(capsys.readouterr().out) == document
    assert "ollama-orchestrator" in error
    assert "coding and vision" in error


def test_the_head_of_the_file_is_what_turnout_yaml_needs(tmp_path: Path, capsys: Captured) -> None:
    _, text, _ = compose(tmp_path, capsys, "dev", "--vram-gib", "32")
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#   ")]
    file = tmp_path / "used.yaml"
    file.write_text("\n".join(lines))
    assert cli.main(["config", "check", "--config", str(file)]) == 0
    models = yaml.safe_load(file.read_text())["models"]
    assert models["embedding"]["can"] == ["embedding"]
    assert "vision" in models["vision"]["can"]


def test_folders_variables_and_dollars(tmp_path: Path, capsys: Captured) -> None:
    text = """profile: p
profiles: {p: {}}
models:
  mine: {engine: vllm, source: "file:/data/$x", vram_gib: 4, environment: {A: "$b"}, image: "mine:1", roles: [coding]}
"""
    document, _, _ = compose(tmp_path, capsys, "--vram-gib", "8", text=text)
    service = document["services"]["mine"]
    assert "volumes" not in document
    assert service["volumes"] == ["/data/$$x:/models/mine:ro"]
    assert service["environment"] == ["HF_TOKEN", "A=$$b"]
    assert service["image"] == "mine:1"
    assert service["ports"] == ["127.0.0.1:8210:8000"], "a port of its own where none is said"


@pytest.mark.parametrize("profile", ["dev", "production", "creative", "elastic"])
def test_docker_compose_accepts_it(tmp_path: Path, capsys: Captured, profile: str) -> None:
    need("docker-compose", is_there("docker-compose"))
    _, text, _ = compose(tmp_path, capsys, profile, "--vram-gib", "32")
    (tmp_path / "compose.yaml").write_text(text)
    command = ["docker-compose", "-f", str(tmp_path / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1" in done.stdout
