"""The configuration in effect, as YAML with the origin of each value."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from turnout.config.document import KeyPath
from turnout.config.loader import LoadedConfig
from turnout.config.schema import RESERVED
from turnout.tiers.registry import decode_model

SECRET_KEY = re.compile(r"(^|[_-])(key|token|secret|password|passwd)$", re.IGNORECASE)
"""``api_key`` but not ``api_key_env``, which only names a variable."""
USER_IN_URL = re.compile(r"://[^/@\s]+@")
HIDDEN = "***"
ENTRIES_BY_NAME = ("models", "aliases", "chains", "providers", "profiles")
COMMENT_COLUMN = 44


class Shown(msgspec.Struct, frozen=True):
    """What is in effect.

    Attributes:
        values: Plain values, secrets hidden.
        origins: Who set each leaf.
    """

    values: dict[str, Any]
    origins: dict[KeyPath, str]


def effective(loaded: LoadedConfig) -> Shown:
    """Return every value in effect, those of the models' engines included.

    Args:
        loaded: The configuration.

    Raises:
        SetupError: A model cannot be decoded.
    """
    values: dict[str, Any] = msgspec.to_builtins(loaded.settings)
    for key, entry in loaded.settings.models.items():
        _, settings = decode_model(key, entry, loaded)
        values["models"][key] = msgspec.to_builtins(settings)
    for key in RESERVED:
        if key not in loaded.merged:
            del values[key]
    values = _without_secrets(values)
    return Shown(values, {path: origin_of(path, loaded) for path in _leaves(values, ())})


def origin_of(path: KeyPath, loaded: LoadedConfig) -> str:
    """Return who set a value: itself, not a neighbour in the same section.

    Args:
        path: Of the value.
        loaded: The configuration.
    """
    if path == ("profile",) and os.environ.get("TURNOUT_PROFILE"):
        return "TURNOUT_PROFILE"
    if path in loaded.origins:
        return loaded.origins[path]
    # A list or an entry is set as a whole; a section's other values, and an engine's other settings, are defaults.
    is_part_of_whole = isinstance(path[-1], int) or (path[0] in ENTRIES_BY_NAME and path[0] != "models")
    return loaded.where(path) if is_part_of_whole else "default"


def spell_yaml(shown: Shown, *, with_origins: bool) -> Iterator[str]:
    """Return the lines of a YAML document.

    Args:
        shown: What is in effect.
        with_origins: Say at the end of each value who set it.
    """
    yield from _spell(shown.values, (), shown.origins if with_origins else {})


def _spell(values: dict[str, Any], path: KeyPath, origins: dict[KeyPath, str]) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in values.items():
        here = (*path, key)
        name = _inline(key)
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _spell(value, here, origins)
            continue
        line = f"{indent}{name}: {_inline(value)}"
        first = next((origins[leaf] for leaf in origins if leaf[: len(here)] == here), "")
        yield f"{line:<{COMMENT_COLUMN}}  # {first}" if first else line


def _inline(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _leaves(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    nested = [leaf for key, item in items for leaf in _leaves(item, (*path, key))]
    if nested or not path:
        yield from nested
    else:
        yield path


def _without_secrets(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    if isinstance(value, str):
        if SECRET_KEY.search(key) and value:
            return HIDDEN
        return USER_IN_URL.sub(f"://{HIDDEN}@", value)
    return value
