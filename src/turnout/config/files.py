"""Small files that only their owner may read, and locks that end with their process."""

from __future__ import annotations

import os
import sys
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


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file without waiting; return whether it is ours now.

    The system gives it back when the process ends, however it ends.

    Args:
        descriptor: Of a file open for writing.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
