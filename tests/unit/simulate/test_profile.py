"""Profiles: footprints from their parts, what does not fit, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.samples import some_paths
from turnout.config.document import parse_document
from turnout.core.errors import SetupError
from turnout.core.memory import GIB
from turnout.simulate.finding import find_profile, simulation_profiles
from turnout.simulate.profile import PATIENCE_SECONDS, Profile, parse_profile


def built_in(name: str, root: Path) -> Profile:
    return find_profile(name, some_paths(root)).profile


@pytest.mark.parametrize("name", ["dev", "mixed", "small"])
def test_the_models_of_a_built_in_profile_do_not_all_fit_but_each_does(name: str, tmp_path: Path) -> None:
    profile = built_in(name, tmp_path)
    sizes = [entry.bytes for entry in profile.models]
    assert max(sizes) <= profile.usable_bytes < sum(sizes)
    assert profile.about
    assert all(profile.model_index(mix.role) is not None for mix in profile.mix)


def test_all_built_in_profiles_are_tested() -> None:
    assert simulation_profiles() == ["dev", "mixed", "small"]


def test_a_footprint_is_weights_and_kv_cache_and_overhead(tmp_path: Path) -> None:
    profile = built_in("dev", tmp_path)
    sizes = {entry.model.name: entry.bytes for entry in profile.models}
    # 36 layers, 8 heads, 128 numbers, keys and values, 2 bytes each, 32,768 tokens: 4.5 GiB.
    assert sizes["local/orchestrator"] == round(6.8 * GIB) + 2 * 36 * 8 * 128 * 2 * 32768
    # Beside the pinned orchestrator and the embeddings there is room for one of the others, and for any one.
    always = sizes.pop("local/orchestrator") + sizes.pop("local/embedding")
    assert always + max(sizes.values()) <= profile.usable_bytes
    assert always + sum(sorted(sizes.values())[:2]) > profile.usable_bytes


def test_shares_of_the_card_that_are_smaller_than_the_weights_are_not_used(tmp_path: Path) -> None:
    profile = built_in("dev", tmp_path)
    total = profile.devices[0].total_bytes
    share = {entry.roles[0]: entry.bytes / total for entry in profile.models}
    assert share["coding"] > 0.18
    assert share["vision"] > 0.12


def test_another_size_of_the_card_keeps_its_headroom(tmp_path: Path) -> None:
    found = find_profile("dev", some_paths(tmp_path), vram_gib=80)
    device = found.profile.devices[0]
    assert device.total_bytes == 80 * GIB
    assert device.headroom_bytes == round(6.4 * GIB)


def test_patience_that_is_not_said_is_the_default() -> None:
    text = "devices: [{vram_gib: 8}]\nmodels: {m: {vram_gib: 1}}\npatience_seconds: {normal: 7}\n"
    profile = parse_profile(parse_document(text, "p.yaml"), "p")
    assert profile.patience_seconds == PATIENCE_SECONDS | {"normal": 7}
    assert [mix.role for mix in profile.mix] == ["local/m"]  # nobody said who asks: everybody, for everything


GOOD = """\
devices: [{vram_gib: 8}]
models:
  a: {vram_gib: 2, roles: [coding]}
mix:
  - {role: coding}
"""


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (("vram_gib: 2", "vram_gib: two"), "p.yaml:3: models.a.vram_gib: expected"),
        (("vram_gib: 2, ", ""), "p.yaml:3: models.a: a footprint is needed"),
        (("roles: [coding]", "rolls: [coding]"), "p.yaml:3: models.a.rolls: there is no such setting"),
        (("role: coding}", "role: vision}"), "p.yaml:5: mix.0.role: no model has the role 'vision'"),
        (
            ("role: coding}", "role: coding, priorities: {normal: 0}}"),
            "p.yaml:5: mix.0.priorities: at least one",
        ),
        (("{vram_gib: 8}", ""), "p.yaml:1: devices: at least one device"),
        (
            ("roles: [coding]", "device: x, roles: [coding]"),
            "p.yaml:3: models.a.device: there is no device 'x'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(change: tuple[str, str], where: str) -> None:
    parse_profile(parse_document(GOOD, "p.yaml"), "p")
    with pytest.raises(SetupError) as caught:
        parse_profile(parse_document(GOOD.replace(*change), "p.yaml"), "p")
    assert str(caught.value).startswith(where)
    assert caught.value.hint


def test_an_unknown_name_has_near_ones(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        find_profile("smal", some_paths(tmp_path))
    assert "there is no profile 'smal'" in str(caught.value)
    assert caught.value.hint == "did you mean small?"
    with pytest.raises(SetupError) as caught:
        find_profile("qqqqq", some_paths(tmp_path))
    assert "dev, mixed, small" in caught.value.hint


CONFIG = """\
profiles:
  mine:
    devices: [{id: host/gpu0, kind: simulated, vram_gib: 12, headroom_gib: 2}]
    models:
      chat: {engine: simulated, vram_gib: 6, load_seconds: 4, tokens_per_second: 50, slots: 3, roles: [orchestrator],
             pinned: true}
      ear: {engine: simulated, vram_gib: 3, roles: [transcription]}
      other: {engine: external, base_url: "http://127.0.0.1:9001/v1"}
"""


def test_the_users_own_profiles_work_too(tmp_path: Path) -> None:
    paths = some_paths(tmp_path)
    paths.config_dir.mkdir()
    paths.config_file.write_text(CONFIG)
    found = find_profile("mine", paths)
    profile = found.profile
    assert found.left_out == ("local/other",)
    assert [entry.model.name for entry in profile.models] == ["local/chat", "local/ear"]
    chat, ear = profile.models
    assert (chat.model.lease_class, ear.model.lease_class) == ("pinned", "voice")
    assert (chat.bytes, chat.timing.load_seconds, chat.model.slots) == (6 * GIB, 4.0, 3)
    assert profile.usable_bytes == 10 * GIB
    assert {mix.role for mix in profile.mix} == {"orchestrator", "transcription"}


def test_a_file_of_either_shape_works(tmp_path: Path) -> None:
    own = tmp_path / "card.yaml"
    own.write_text(GOOD)
    assert find_profile(str(own), some_paths(tmp_path)).profile.usable_bytes == 8 * GIB
    config = tmp_path / "turnout.yaml"
    config.write_text("models: {chat: {engine: simulated, vram_gib: 6}}\n")
    with pytest.raises(SetupError, match="how large the card is"):
        find_profile(str(config), some_paths(tmp_path))
    assert find_profile(str(config), some_paths(tmp_path), vram_gib=8).profile.usable_bytes == 8 * GIB


def test_a_profile_without_footprints_says_so(tmp_path: Path) -> None:
    config = tmp_path / "turnout.yaml"
    config.write_text("devices: [{id: host/gpu0, vram_gib: 8}]\nmodels: {chat: {engine: simulated}}\n")
    with pytest.raises(SetupError, match="no model with a footprint") as caught:
        find_profile(str(config), some_paths(tmp_path))
    assert "vram_gib" in caught.value.hint
