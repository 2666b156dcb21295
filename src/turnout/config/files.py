"""Small files that only their owner may read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from turnout.core.errors import SetupError


def write_privately(path: Path, data: bytes) -> None:
    """Replace a file in one step; only its owner may read it.

    Raises:
        SetupError: The disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # made with mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SetupError(
            f"cannot write {str(path)!r}: {error.strerror}", hint="check the disk and permissions"
        ) from error
