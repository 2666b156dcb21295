"""The leases on disk: written before the act, read at the start, so that no crash loses or doubles one.

A file of lines, ``CRC32 JSON``, that only grows: a lease is held, renewed, ended. A line is handed to the system with
one ``write`` and is there for the next daemon however this one ends; one that was cut in the middle does not match its
checksum and counts as never written. Every start rewrites the file with what still holds, and so does its growth.

Why no database, and no ``fsync``: leases say who uses the memory of *this* machine *now*. When the machine itself goes
down, so does everybody who held some; what an ``fsync`` would have saved is void. The file names the boot that it
belongs to (Linux's ``boot_id``), and after another one it begins anew.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import Literal

import msgspec

from turnout.config.daemon_file import process_birth
from turnout.config.files import write_privately
from turnout.core.errors import UNREADABLE_JSON, SetupError
from turnout.core.memory import Lease

SPARE_BYTES = 256 << 10
"""So much, and twice what holds, before the file is rewritten."""
GONE = "gone"
"""Birth of a process that was not there any more when its lease was written down."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a lease that holds.

    Attributes:
        lease: As granted.
        birth: Of the holder's process, so that a later one of the same id is not taken for it.
    """

    lease: Lease
    birth: str = ""

    @property
    def has_lost_its_process(self) -> bool:
        """Whether the holder named its process, and that is gone."""
        return bool(self.birth) and process_birth(self.lease.process) != self.birth


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    act: Literal["boot", "hold", "renew", "end"]
    id: str = ""
    boot: str = ""
    entry: Entry | None = None
    expires_at: float = 0.0


class LeaseJournal:
    """The file.

    Args:
        path: Where it is.
        boot: Which life of the machine this is; empty where nobody can say.
    """

    def __init__(self, path: Path, boot: str | None = None) -> None:
        self._path = path
        self._boot = read_boot() if boot is None else boot
        self._held: dict[str, Entry] = {}
        self._descriptor = -1
        self._bytes = self._most_bytes = 0

    def open(self) -> list[Entry]:
        """Read what holds, begin a clean file and return it, oldest first.

        Raises:
            SetupError: The file cannot be written.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise SetupError(f"cannot read {str(self._path)!r}: {error.strerror}", hint="check its owner") from error
        self._held = read_entries(data, self._boot)
        self._rewrite()
        return list(self._held.values())

    def hold(self, lease: Lease) -> None:
        """Write down that a lease holds from now on; one of the same id is replaced.

        Raises:
            SetupError: It cannot be written: the lease must not be granted.
        """
        birth = (process_birth(lease.process) or GONE) if lease.process else ""
        entry = Entry(lease=lease, birth=birth)
        self._append(_Line(act="hold", entry=entry))
        self._held[lease.id] = entry

    def renew(self, lease_id: str, expires_at: float) -> None:
        """Write down a later expiry.

        Raises:
            SetupError: It cannot be written: after a crash the lease would expire as it was.
        """
        entry = self._held[lease_id]
        self._append(_Line(act="renew", id=lease_id, expires_at=expires_at))
        self._held[lease_id] = _until(entry, expires_at)

    def end(self, lease_id: str) -> None:
        """Write down that a lease holds no more.

        Raises:
            SetupError: It cannot be written: after a crash the lease would hold until it expires.
        """
        if self._held.pop(lease_id, None) is not None:
            self._append(_Line(act="end", id=lease_id))

    def lost_holders(self) -> list[str]:
        """Return the leases whose holder's process has gone. Asks the system; also called from other threads."""
        return [id_ for id_, entry in list(self._held.items()) if entry.has_lost_its_process]

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, line: _Line) -> None:
        if self._descriptor < 0:
            raise SetupError(f"{str(self._path)!r} is not open", hint="the disk may be full: see the daemon's log")
        data = _encode(line)
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):  # the disk is full: half a line must not be glued to the next one
                os.truncate(self._descriptor, self._bytes)
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        if written < len(data):
            raise self._unwritable("no space left")
        self._bytes += written
        if self._bytes > self._most_bytes:
            with contextlib.suppress(SetupError):  # the line is written; what was not tidied up is read all the same
                self._rewrite(line)

    def _rewrite(self, last: _Line | None = None) -> None:
        lines = [_Line(act="boot", boot=self._boot), *(_Line(act="hold", entry=e) for e in self._held.values())]
        data = b"".join(map(_encode, lines)) + (_encode(last) if last is not None else b"")
        write_privately(self._path, data)
        self.close()  # it is another file now: what cannot be written there must fail, not vanish
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        self._bytes, self._most_bytes = len(data), SPARE_BYTES + 2 * len(data)

    def _unwritable(self, reason: str | None) -> SetupError:
        return SetupError(f"cannot write {str(self._path)!r}: {reason}", hint="check the disk and permissions")


def read_entries(data: bytes, boot: str) -> dict[str, Entry]:
    """Return what holds according to a file's content; damaged lines count as never written.

    Args:
        data: The content, cut off anywhere.
        boot: Which life of the machine this is: what belongs to another one is void.
    """
    held: dict[str, Entry] = {}
    for raw in data.split(b"\n")[:-1]:  # what follows the last line's end is cut off
        line = _decode(raw)
        if line is None:
            continue
        if line.act == "boot":
            if line.boot and boot and line.boot != boot:
                return {}
        elif line.act == "hold" and line.entry is not None:
            held[line.entry.lease.id] = line.entry
        elif line.act == "renew" and line.id in held:
            held[line.id] = _until(held[line.id], line.expires_at)
        elif line.act == "end":
            held.pop(line.id, None)
    return held


def read_boot() -> str:
    """Return which life of the machine this is; empty where the system does not say (random(4))."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _until(entry: Entry, expires_at: float) -> Entry:
    return msgspec.structs.replace(entry, lease=msgspec.structs.replace(entry.lease, expires_at=expires_at))


def _encode(line: _Line) -> bytes:
    data = msgspec.json.encode(line)
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _decode(raw: bytes) -> _Line | None:
    checksum, _, data = raw.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(data):
        return None
    try:
        return msgspec.json.decode(data, type=_Line)
    except UNREADABLE_JSON:  # written by another version
        return None
