"""What a daemon starts with: the configuration, and the profile that was chosen last."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from turnout.config.document import KeyPath
from turnout.config.kept_profile import ProfileFiles
from turnout.config.loader import LoadedConfig, load_config
from turnout.config.paths import Paths
from turnout.core.errors import SetupError


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a daemon starts with.

    Attributes:
        loaded: The configuration.
        configured: The profile that it names, where another one was chosen by `turnout profile use`.
        flags: Of the command line.
    """

    loaded: LoadedConfig
    configured: str
    flags: dict[KeyPath, Any]


def choose_start(paths: Paths, file: Path | None, flags: dict[KeyPath, Any], say: Callable[[str], None]) -> Start:
    """Return the configuration to start with: with the profile that was chosen last, unless somebody says another.

    Args:
        paths: The installation's directories.
        file: A file named by the user.
        flags: Of the command line.
        say: Tells the person at the terminal.

    Raises:
        SetupError: With file, line and path of what is wrong.
    """
    loaded = load_config(paths, file=file, flags=flags)
    files, configured = ProfileFiles(paths.state_dir), loaded.settings.profile
    if note := files.interrupted():
        say(f"a switch from profile {note.before} to {note.after} was interrupted at '{note.step}'")
    kept = configured if ("profile",) in flags or os.environ.get("TURNOUT_PROFILE") else files.kept(configured)
    if kept != configured:
        try:
            loaded = load_config(paths, file=file, flags={**flags, ("profile",): kept})
        except SetupError as error:
            say(f"warning: profile {kept} cannot be used any more: {error.message}")
        else:
            say(f"profile {kept} runs since `turnout profile use`; the configuration says {configured}")
    others = {path: value for path, value in flags.items() if path != ("profile",)}
    return Start(loaded=loaded, configured=configured, flags=others)
