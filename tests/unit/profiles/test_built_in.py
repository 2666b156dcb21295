"""The built-in profiles: their figures add up, and what they name is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.samples import some_paths
from turnout.config.catalogue import BYTES_PER_NUMBER, catalogue, find_known
from turnout.config.loader import LoadedConfig, built_in_profiles, load_config
from turnout.core.memory import GIB
from turnout.core.words import ROLES
from turnout.profiles.gather import chain_in, roles_of, shape_of
from turnout.profiles.planner import plan_card
from turnout.profiles.shape import Card
from turnout.simulate.finding import find_profile
from turnout.tiers.local.devices.base import default_headroom

TENTH = GIB // 10
A_32 = Card(total_bytes=32 * GIB, headroom_bytes=default_headroom("nvidia", 32 * GIB))


def load(tmp_path: Path, name: str) -> LoadedConfig:
    return load_config(some_paths(tmp_path), flags={("profile",): name}, environment={})


@pytest.mark.parametrize("name", built_in_profiles())
def test_every_figure_is_the_sum_of_its_parts(tmp_path: Path, name: str) -> None:
    for model in shape_of(load(tmp_path, name)).models:
        if model.place != "card":
            continue
        assert model.weights_bytes, f"{model.name} is not in the catalogue"
        wants = model.bytes_on(A_32)
        assert model.least_bytes <= wants, f"{model.name} cannot start with {wants / GIB:.2f} GiB"
        if model.share is None:
            assert wants < model.least_bytes + 1.5 * TENTH, f"{model.name} takes more than it needs"


@pytest.mark.parametrize("name", built_in_profiles())
def test_what_a_profile_names_is_there(tmp_path: Path, name: str) -> None:
    loaded = load(tmp_path, name)
    shape = shape_of(loaded)
    targets = {model.name for model in shape.models}
    ports = [entry["port"] for entry in loaded.settings.models.values() if "port" in entry]
    assert len(ports) == len(set(ports))
    assert shape.about
    assert not set(shape.compared) - targets
    for model in shape.models:
        assert set(model.roles) <= set(ROLES)
    for role in roles_of(shape):
        for target in chain_in(shape, role):
            tier, _, rest = target.partition("/")
            assert rest
            assert tier != "local" or target in targets
    for targets_of_band in shape.effort.values():
        for target in targets_of_band:
            assert target in ROLES or "/" in target


@pytest.mark.parametrize("name", ["dev", "production", "creative", "elastic"])
def test_each_fits_the_card_that_it_is_made_for(tmp_path: Path, name: str) -> None:
    shape = shape_of(load(tmp_path, name))
    assert shape.card_bytes == 32 * GIB
    plan = plan_card(shape, A_32)
    assert plan.fits
    assert "local/orchestrator" in plan.groups[0]
    assert next(entry for entry in plan.models if entry.model.name == "local/orchestrator").verdict == "stays"


def test_elastic_keeps_the_small_one_and_has_room_for_the_large_one(tmp_path: Path) -> None:
    plan = plan_card(shape_of(load(tmp_path, "elastic")), A_32)
    assert {entry.model.name: entry.verdict for entry in plan.models} == {
        "local/orchestrator": "stays", "local/reflex": "stays", "local/reasoning": "beside",
    }  # fmt: skip


def test_creative_has_its_room_for_programs(tmp_path: Path) -> None:
    shape = shape_of(load(tmp_path, "creative"))
    plan = plan_card(shape, A_32)
    free = A_32.total_bytes - A_32.headroom_bytes - plan.wanted_bytes
    assert free >= shape.keep_free_bytes == 19 * GIB
    fits = {entry.program.name: (entry.fits, entry.makes_way) for entry in plan.programs}
    assert fits["comfyui"] == fits["hunyuan3d"] == (True, ())
    assert fits["hunyuan3d-21"] == (False, ())


def test_production_has_64_sequences_and_a_cache_for_them(tmp_path: Path) -> None:
    entry = next(iter(plan_card(shape_of(load(tmp_path, "production")), A_32).models))
    assert (entry.model.slots, entry.model.context_tokens, entry.model.share) == (64, 32768, 0.92)
    assert entry.cache_tokens > 64 * 2048


def test_the_simulators_dev_has_the_same_figures(tmp_path: Path) -> None:
    ours = {model.name: model for model in shape_of(load(tmp_path, "dev")).models if model.place == "card"}
    theirs = find_profile("dev", some_paths(tmp_path)).profile.models
    assert {entry.model.name for entry in theirs} == set(ours)
    for entry in theirs:
        assert abs(entry.bytes - ours[entry.model.name].least_bytes) < TENTH
        assert entry.model.sizes[0].load_seconds == ours[entry.model.name].load_seconds


def test_the_catalogue_is_whole() -> None:
    sources = [source for model in catalogue().values() for source in model.sources]
    assert len(sources) == len(set(sources))
    for source in sources:
        found = find_known(source)
        assert found is not None
        model, quantisation = found
        assert quantisation in BYTES_PER_NUMBER
        assert model.weights_bytes(quantisation) > 0
    assert find_known("hf:nobody/nothing") is None
    # AWQ in groups of 128: 4 bits, and 20 bits for each group.
    assert BYTES_PER_NUMBER["awq"] == pytest.approx(0.5195, abs=1e-4)


def test_attention_decides_the_cache() -> None:
    known = catalogue()
    assert known["nemotron-orchestrator-8b"].cache_bytes_per_token == 2 * 36 * 8 * 128 * 2
    assert known["deepseek-coder-v2-lite"].cache_bytes_per_token == 27 * (512 + 64) * 2
    assert known["nomic-embed-text-v1.5"].cache_bytes_per_token == 0
    assert known["nemotron-elastic-6b"].rest_bytes(8) == round(1.1 * GIB + 8 * 140 * (1 << 20))
