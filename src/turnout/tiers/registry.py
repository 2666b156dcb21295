"""The one lazy registry: engines by name, found by entry points, imported when first used."""

from __future__ import annotations

import difflib
import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from turnout.config.loader import LoadedConfig, explain
from turnout.core.errors import SetupError
from turnout.core.words import ROLES
from turnout.tiers.base import Engine, ModelSettings

ENGINES_GROUP = "turnout.engines"


@functools.cache
def engine_entry_points() -> dict[str, EntryPoint]:
    """Return the entry point of every installed engine by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=ENGINES_GROUP)}


def find_engine(name: str) -> type[Engine]:
    """Import and return an engine's class.

    Raises:
        SetupError: No such engine, or its module cannot be imported.
    """
    known = engine_entry_points()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed engines: {', '.join(sorted(known))}"
        raise SetupError(f"there is no engine {name!r}", hint=hint)
    try:
        engine: type[Engine] = known[name].load()
    except ImportError as error:
        raise SetupError(f"engine {name!r} cannot be imported: {error}", hint="is its package installed?") from error
    return engine


def decode_model(key: str, entry: dict[str, Any], loaded: LoadedConfig) -> tuple[type[Engine], ModelSettings]:
    """Decode one entry under ``models`` by the engine that it names.

    Args:
        key: The model's key.
        entry: Its plain values.
        loaded: For errors with file and line.

    Raises:
        SetupError: Unknown engine or role, or a setting that the engine does not have.
    """
    path = ("models", key)
    name = entry.get("engine")
    if not isinstance(name, str):
        raise loaded.problem(path, "'engine' is missing", f"one of: {', '.join(sorted(engine_entry_points()))}")
    try:
        engine = find_engine(name)
    except SetupError as error:
        raise loaded.problem((*path, "engine"), error.message, error.hint) from None
    try:
        settings = msgspec.convert(entry, engine.Settings, strict=True)
    except msgspec.ValidationError as error:
        raise explain(error, path, engine.Settings, loaded) from None
    for index, role in enumerate(settings.roles):
        if role not in ROLES:
            raise loaded.problem((*path, "roles", index), f"there is no role {role!r}", f"roles: {', '.join(ROLES)}")
    return engine, settings
