"""Secrets by the name of their variable: the environment first, then ``.env`` beside the configuration file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def secret_reader(config_file: Path | None) -> Callable[[str], str | None]:
    """Return a function that looks a variable up; values are read when asked for and never kept elsewhere.

    Args:
        config_file: The file beside which ``.env`` may lie.
    """
    env_file = config_file.parent / ".env" if config_file else None

    def read(name: str) -> str | None:
        if value := os.environ.get(name):
            return value
        return parse_env(env_file).get(name) if env_file else None

    return read


def parse_env(path: Path) -> dict[str, str]:
    """Return the variables of a ``.env`` file: ``NAME=value`` lines, quotes optional, ``#`` begins a comment line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found[name.strip()] = value
    return found
