"""The part of the check-up that looks at the embedded engine: its packages, its weights, and whether they are whole."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from turnout.cli.embedded import DEMONSTRATION_SOURCES, PACKAGES, install_line, missing_packages
from turnout.cli.findings import Finding
from turnout.cli.terminal import spell_bytes
from turnout.config.schema import Settings
from turnout.core.errors import SetupError
from turnout.tiers.local.weights.source import list_pulled, locate, parse_source, verify


def examine_embedded(settings: Settings, data_dir: Path) -> Iterator[Finding]:
    """Return what is to be said about the embedded engine.

    Args:
        settings: The configuration.
        data_dir: The directory that holds ``models/``.
    """
    if missing := missing_packages(settings):
        yield Finding("warn", "embedded engine", f"{', '.join(missing)} not installed", f"`{install_line()}`")
    elif versions := _versions():
        yield Finding("ok", "embedded engine", versions)
    sources = {
        str(entry["source"]): f"models.{key}"
        for key, entry in settings.models.items()
        if entry.get("engine") in PACKAGES and entry.get("source")
    }
    if any(entry.get("engine") == "onnx" for entry in settings.models.values()):
        sources.setdefault(DEMONSTRATION_SOURCES[-1], "the tokenizer for embeddings")
    for text, what in sources.items():
        yield _weights(text, what, data_dir)
    for model in list_pulled(data_dir):
        if model.problem:
            yield Finding("warn", "weights", f"{model.name}: {model.problem}", f"`turnout models rm {model.name}`")


def _weights(text: str, what: str, data_dir: Path) -> Finding:
    try:
        file = locate(parse_source(text), data_dir)
        if file is None:
            return Finding("warn", "weights", f"{text} ({what}) is not here", f"`turnout models pull {text}`")
        verify(file)
    except SetupError as error:
        return Finding("fail", "weights", error.message, error.hint)
    check = "matches its pin" if file.sha256 else "has no pin"
    return Finding("ok", "weights", f"{text} ({what}), {spell_bytes(file.bytes)}, {check}")


def _versions() -> str:
    found = []
    for package in (name for names in PACKAGES.values() for name in names):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
