"""A worker's check of a model file before it loads it: there, whole, and what its pin says."""

from __future__ import annotations

from pathlib import Path

from turnout.core.errors import SetupError
from turnout.tiers.local.weights.source import WeightsFile, begins_as, verify
from turnout.tiers.local.worker import announce_failed, announce_progress


def check_weights(path: Path, sha256: str) -> None:
    """Announce the check's progress; end the worker with a ``failed`` line where the file is wrong.

    Args:
        path: The file.
        sha256: What it has to hash to; empty if that is not known.
    """
    try:
        size = path.stat().st_size
        if not begins_as(path.name, path):
            announce_failed(f"{str(path)!r} is not a GGUF file; remove the model and pull it again")
        verify(
            WeightsFile(path, size, "file", sha256), lambda done: announce_progress("checking", min(done / size, 1.0))
        )
    except OSError as error:
        announce_failed(f"cannot read {str(path)!r}: {error.strerror}; pull the model again, or correct its path")
    except SetupError as error:
        announce_failed(f"{error.message}; {error.hint}" if error.hint else error.message)
