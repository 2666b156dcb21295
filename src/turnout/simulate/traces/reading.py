"""Finds out what kind of trace a file is, and reads it."""

from __future__ import annotations

from pathlib import Path

from turnout.config.document import read_document
from turnout.core.errors import SetupError
from turnout.simulate.profile import Profile
from turnout.simulate.traces.arrivals import Arrivals
from turnout.simulate.traces.azure import read_azure
from turnout.simulate.traces.requests import SQLITE_MAGIC, read_requests
from turnout.simulate.traces.workload import read_workload


def read_trace(path: Path, profile: Profile, seed: int, rate: float = 1.0) -> Arrivals:
    """Return the arrivals that a file records or describes.

    Args:
        path: A CSV trace, a request log (SQLite or JSON) or the YAML of a workload.
        profile: Whose models shall serve them.
        seed: For all that the file leaves open.
        rate: How many times as fast they arrive.

    Raises:
        SetupError: With file and line.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(64)
    except OSError as error:
        raise SetupError(f"cannot read {str(path)!r}: {error.strerror}", hint="--trace names a file") from error
    if path.suffix.lower() in {".yaml", ".yml"}:
        return read_workload(read_document(path), path.name, profile, seed, rate)
    if begin.startswith(SQLITE_MAGIC) or begin.lstrip().startswith(b"{"):
        return read_requests(path, profile, seed, rate)
    return read_azure(path, profile, seed, rate)
