"""Better models: every line of advice has to work when it is typed."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from support.samples import some_paths
from turnout.config.loader import load_config
from turnout.console.advice import FoundEngine, better_models
from turnout.tiers.local.devices.nvml import Card
from turnout.tiers.local.weights.source import parse_source
from turnout.tiers.registry import decode_model


def card(gib: float) -> Card:
    size = int(gib * 2**30)
    return Card(index=0, name="Card X", total_bytes=size, free_bytes=size, driver="1")


def yaml_blocks(lines: list[str]) -> list[str]:
    blocks: list[str] = []
    for before, line in itertools.pairwise(lines):
        if before.strip() == "models:":
            blocks.append(f"{before.removeprefix('    ')}\n{line.removeprefix('    ')}\n")
    return blocks


@pytest.mark.parametrize("gib", [4, 8, 12, 16, 24, 31.8, 80])
def test_the_lines_for_a_card_are_a_valid_configuration(gib: float, tmp_path: Path) -> None:
    blocks = yaml_blocks(better_models([card(gib)], []))
    assert len(blocks) == (2 if gib >= 5.5 else 1)
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        loaded = load_config(some_paths(tmp_path), file=file, environment={})
        (key,) = [path[1] for path, origin in loaded.origins.items() if origin == f"{file}:2" and len(path) == 2]
        decode_model(str(key), loaded.settings.models[str(key)], loaded)


@pytest.mark.parametrize(("gib", "size"), [(6, "4b"), (8, "4b"), (10, "8b"), (16, "14b"), (24, "32b"), (80, "32b")])
def test_the_model_fits_the_card(gib: float, size: str) -> None:
    assert f"ollama pull qwen3:{size}" in "\n".join(better_models([card(gib)], []))


def test_the_largest_card_counts() -> None:
    assert "qwen3:32b" in "\n".join(better_models([card(4), card(24)], []))


def test_without_a_card() -> None:
    lines = better_models([], [])
    source = re.search(r"turnout models pull (\S+)`", "\n".join(lines))
    assert source is not None
    assert parse_source(source[1]).kind == "hf"
    assert "ollama pull" in "\n".join(lines)
    assert "vllm serve" not in "\n".join(lines)


def test_what_runs_already_comes_first_and_is_not_advised_again() -> None:
    found = [
        FoundEngine(engine="vllm", base_url="http://127.0.0.1:8000/v1", models=("m",)),
        FoundEngine(engine="ollama", base_url="http://127.0.0.1:11434"),
    ]
    lines = better_models([card(24)], found)
    assert "turnout models default local/vllm/m" in lines[0]
    assert "has no model yet" in lines[1]
    assert "vllm serve" not in "\n".join(lines)
    assert "the Ollama that runs" in "\n".join(lines)
