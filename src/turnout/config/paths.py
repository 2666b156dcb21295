"""Where turnout keeps its files: the XDG base directories, by platformdirs.

config: ``turnout.yaml``, ``keys.json`` · state: daemon file, logs, traces, leases · data: pulled models.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from platformdirs import PlatformDirs


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """The directories of one installation; none needs to exist yet."""

    config_dir: Path
    state_dir: Path
    data_dir: Path

    @property
    def config_file(self) -> Path:
        """The configuration that is read when no other is named."""
        return self.config_dir / "turnout.yaml"

    @property
    def keys_file(self) -> Path:
        """The hashes of the API keys."""
        return self.config_dir / "keys.json"

    @property
    def daemon_file(self) -> Path:
        """How the CLI finds the running daemon."""
        return self.state_dir / "daemon.json"

    @property
    def default_model_file(self) -> Path:
        """The target that was chosen for ``auto``."""
        return self.state_dir / "default_model.json"

    @property
    def traces_file(self) -> Path:
        """The trace store."""
        return self.state_dir / "traces.sqlite3"

    @property
    def leases_file(self) -> Path:
        """The journal of leases: beside the daemon's lock, so that there is one writer."""
        return self.state_dir / "leases.journal"

    @property
    def log_dir(self) -> Path:
        """Logs of the daemon and of every engine."""
        return self.state_dir / "logs"

    def engine_log(self, name: str) -> Path:
        """Return the log file of one engine.

        Args:
            name: The key under ``models``; anything that is not a letter, a digit, ``.``, ``_`` or ``-`` becomes ``_``.
        """
        return self.log_dir / ("".join(c if c.isalnum() or c in "._-" else "_" for c in name) + ".log")


def find_paths() -> Paths:
    """Return this user's directories; ``XDG_*`` variables are honoured on every platform."""
    dirs = PlatformDirs("turnout", appauthor=False)

    def pick(variable: str, fallback: str) -> Path:
        base = os.environ.get(variable)
        return Path(base) / "turnout" if base and Path(base).is_absolute() else Path(fallback)

    return Paths(
        config_dir=pick("XDG_CONFIG_HOME", dirs.user_config_dir),
        state_dir=pick("XDG_STATE_HOME", dirs.user_state_dir),
        data_dir=pick("XDG_DATA_HOME", dirs.user_data_dir),
    )
