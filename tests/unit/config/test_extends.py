"""Profiles that change other profiles: who wins, what goes away, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.samples import some_paths
from turnout.config.loader import LoadedConfig, load_config
from turnout.core.errors import SetupError


def load(tmp_path: Path, text: str) -> LoadedConfig:
    paths = some_paths(tmp_path)
    paths.config_dir.mkdir(parents=True, exist_ok=True)
    paths.config_file.write_text(text, encoding="utf-8")
    return load_config(paths, environment={})


def test_an_own_profile_changes_a_built_in_one(tmp_path: Path) -> None:
    text = """profile: mine
profiles:
  mine:
    extends: dev
    shape: {card_gib: 24}
    models:
      coding: {engine: simulated}
      vision: null
    chains: {coding: null}
"""
    loaded = load(tmp_path, text)

    assert loaded.settings.profile == "mine"
    assert loaded.settings.models["coding"] == {"engine": "simulated"}
    assert "vision" not in loaded.settings.models
    assert loaded.settings.models["orchestrator"]["engine"] == "vllm", "what it does not say is as it was"
    assert "coding" not in loaded.settings.chains
    assert "reasoning" in loaded.settings.chains
    assert loaded.settings.shape.card_gib == 24
    assert loaded.settings.shape.programs["comfyui"].vram_gib == 16
    assert loaded.where(("models", "coding")).startswith("profile mine (")
    assert loaded.where(("models", "coding")).endswith("turnout.yaml:7)")
    assert loaded.where(("models", "orchestrator")).startswith("profile dev (built in:")
    assert not any(path[:2] == ("models", "vision") for path in loaded.origins)
    assert loaded.warnings == []


def test_a_profile_may_change_the_built_in_one_of_its_own_name(tmp_path: Path) -> None:
    loaded = load(tmp_path, "profile: cpu\nprofiles: {cpu: {extends: cpu, models: {embedding: null}}}")
    assert set(loaded.settings.models) == {"orchestrator"}


def test_the_file_itself_may_take_a_model_away(tmp_path: Path) -> None:
    loaded = load(tmp_path, "profile: cpu\nmodels: {embedding: null}")
    assert set(loaded.settings.models) == {"orchestrator"}


def test_profiles_extend_each_other_in_any_depth(tmp_path: Path) -> None:
    text = """profile: c
profiles:
  a: {server: {port: 1, host: a, max_body_mib: 1}}
  c: {extends: b, server: {port: 3}}
  b: {extends: a, server: {port: 2, host: b}}
"""
    server = load(tmp_path, text).settings.server
    assert (server.port, server.host, server.max_body_mib) == (3, "b", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: a\nprofiles: {a: {extends: b}, b: {extends: a}}", "profiles.b.extends: profile 'a' would extend"),
        ("profile: a\nprofiles:\n  a: {extends: dv}", "turnout.yaml:3: profiles.a.extends: there is no profile 'dv'"),
        ("profile: a\nprofiles: {a: {extends: a}}", "profiles.a.extends: there is no profile 'a'"),
        ("profile: a\nprofiles: {a: {extends: 3}}", "profiles.a.extends: expected the name of a profile"),
        ("profile: cpu\nmodels: {embeding: null}", "models.embeding: expected 'object', got 'null'"),
        ("extends: dev", "extends: there is no such setting"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SetupError) as raised:
        load(tmp_path, text)
    assert message in raised.value.message
