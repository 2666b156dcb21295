"""From a configuration to engines: whose model it is, the order of preference, and where an error points."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.samples import a_context, some_paths
from turnout.config.loader import load_config
from turnout.core.errors import SetupError
from turnout.tiers.build import build_engines
from turnout.tiers.scripted_transport import ScriptedTransport


def build(tmp_path: Path, text: str) -> list[tuple[str, str]]:
    """Return the name of every engine with the origin of its targets."""
    paths = some_paths(tmp_path)
    paths.config_dir.mkdir()
    paths.config_file.write_text(text)
    loaded = load_config(paths, environment={})
    engines = build_engines(loaded, a_context(tmp_path, ScriptedTransport()))
    return [(engine.name, next((target.origin for target in engine.targets()), "nothing yet")) for engine in engines]


def test_what_is_configured_comes_before_what_is_found_and_that_before_what_is_built_in(tmp_path: Path) -> None:
    built = build(tmp_path, "profile: cpu\nmodels: {own: {engine: simulated}}")
    assert built == [
        ("own", "configured"), ("found", "nothing yet"), ("found", "nothing yet"), ("ollama", "nothing yet"),
        ("found", "nothing yet"), ("comfyui", "nothing yet"), ("orchestrator", "built-in"), ("embedding", "built-in"),
    ]  # fmt: skip


def test_a_profile_of_the_users_own_is_configuration(tmp_path: Path) -> None:
    text = "profile: mine\ndiscover: []\nprofiles: {mine: {models: {own: {engine: simulated, roles: [orchestrator]}}}}"
    assert build(tmp_path, text) == [("own", "configured")]


def test_a_built_in_model_that_is_replaced_is_configured(tmp_path: Path) -> None:
    text = "profile: cpu\ndiscover: []\nmodels: {orchestrator: {engine: simulated}}"
    assert build(tmp_path, text) == [("orchestrator", "configured"), ("embedding", "built-in")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("discover:\n- {base_url: nonsense}", "turnout.yaml:1: discover: base_url 'nonsense': expected something like"),
        (
            "discover: []\nmodels:\n  m: {engine: external, base_url: 'http://h:port'}",
            "turnout.yaml:3: models.m: base_url",
        ),
        ("discover: []\nmodels:\n  m: {engine: ollama}", "turnout.yaml:3: models.m: 'model' is missing"),
        ("discover: []\nmodels:\n  m: {engine: llamacpp, source: x}", "turnout.yaml:3: models.m: 'x' is not a source"),
    ],
)
def test_a_setting_that_cannot_work_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SetupError) as raised:
        build(tmp_path, text)
    assert told in raised.value.message
