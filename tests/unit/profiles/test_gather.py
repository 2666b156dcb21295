"""How a configuration becomes a shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.samples import some_paths
from turnout.config.loader import load_config
from turnout.core.errors import SetupError
from turnout.core.memory import GIB
from turnout.profiles.gather import chain_in, roles_of, shape_of
from turnout.profiles.shape import Shape

ORCHESTRATOR = "hf:cyankiwi/Nemotron-Orchestrator-8B-AWQ-4bit"


def shape(tmp_path: Path, text: str) -> Shape:
    paths = some_paths(tmp_path)
    paths.config_dir.mkdir(parents=True, exist_ok=True)
    paths.config_file.write_text(f"profile: p\nprofiles: {{p: {{}}}}\n{text}", encoding="utf-8")
    return shape_of(load_config(paths, environment={}), lambda source: 7 if source == "package:here" else 0)


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ("engine: vllm", "card"),
        ("engine: simulated", "card"),
        ("engine: llamacpp", "memory"),
        ("engine: llamacpp, device: host/gpu0", "card"),
        ("engine: vllm, device: host/ram", "memory"),
        ("engine: ollama, model: m", "elsewhere"),
        ("engine: external, base_url: x", "elsewhere"),
    ],
)
def test_the_engine_and_the_device_say_where(tmp_path: Path, entry: str, place: str) -> None:
    assert shape(tmp_path, f"models: {{m: {{{entry}}}}}").models[0].place == place


def test_a_known_model_needs_no_size(tmp_path: Path) -> None:
    text = f"models: {{m: {{engine: vllm, source: '{ORCHESTRATOR}', context_tokens: 1024, slots: 2}}}}"
    model = shape(tmp_path, text).models[0]
    assert (model.title, model.quantisation, model.load_seconds) == ("Nemotron-Orchestrator-8B", "awq", 20)
    assert model.bytes == model.least_bytes == model.weights_bytes + model.rest_bytes + 1024 * 147_456


def test_what_is_said_counts_more(tmp_path: Path) -> None:
    text = f"models: {{m: {{engine: vllm, source: '{ORCHESTRATOR}', vram_gib: 12, vram_share: 0.5, load_seconds: 3}}}}"
    model = shape(tmp_path, text).models[0]
    assert (model.bytes, model.share, model.load_seconds) == (12 * GIB, None, 3)
    eight_bits = shape(tmp_path, f"models: {{m: {{engine: vllm, source: '{ORCHESTRATOR}', quantisation: fp8}}}}")
    assert eight_bits.models[0].weights_bytes == round(6.95e9 + 2 * 1.24e9)


def test_an_unknown_model_or_quantisation_has_no_parts(tmp_path: Path) -> None:
    text = f"""models:
  a: {{engine: vllm, source: "hf:nobody/nothing"}}
  b: {{engine: vllm, source: "{ORCHESTRATOR}", quantisation: q1}}
"""
    for model in shape(tmp_path, text).models:
        assert (model.bytes, model.weights_bytes) == (0, 0)


def test_files_are_looked_for_only_where_they_are_served_from_memory(tmp_path: Path) -> None:
    text = "models: {a: {engine: llamacpp, source: 'package:here'}, b: {engine: vllm, source: 'package:here'}}"
    assert [model.file_bytes for model in shape(tmp_path, text).models] == [7, 0]


def test_chains_roles_and_bands(tmp_path: Path) -> None:
    given = shape(
        tmp_path,
        """models: {a: {engine: simulated, roles: [vision, coding]}, b: {engine: simulated, roles: [coding]}}
chains: {vision: [x/y, local/a, x/y]}
effort: {1-3: reflex, 9-10: [rented/a, b/c]}
shape: {programs: {p: {title: P, vram_gib: 2, roles: [image]}}, keep_free_gib: 3, compared: {a: 0.5}, card_gib: 8}
""",
    )
    assert roles_of(given) == ("coding", "vision", "image")
    assert chain_in(given, "coding") == ("local/a", "local/b")
    assert chain_in(given, "vision") == ("x/y", "local/a")
    assert chain_in(given, "image") == ()
    assert given.effort == {"1-3": ("reflex",), "9-10": ("rented/a", "b/c")}
    assert (given.keep_free_bytes, given.card_bytes, given.compared) == (3 * GIB, 8 * GIB, {"local/a": 0.5})


def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"turnout.yaml:3: models\.m: expected .*vram_gib"):
        shape(tmp_path, "models: {m: {engine: vllm, vram_gib: much}}")
