"""API keys: made once, shown once, kept as hashes in a file that only its owner can read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from turnout.config.files import write_privately
from turnout.core.clock import Clock
from turnout.core.errors import UNREADABLE_JSON, NotFound, SetupError
from turnout.core.ids import KEY_PREFIX, new_key

LOOK_SECONDS = 0.1
SHOWN_CHARACTERS = len(KEY_PREFIX) + 4


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key.

    Attributes:
        name: Given by its owner; unique.
        sha256: Of the whole key. A key has 256 random bits, so a plain hash cannot be searched.
        start: Its first characters, to recognise it by.
        created_at: Seconds since the epoch.
        is_operator: Whether it opens the operator's API (status, traces, shutdown) as well.
    """

    name: str
    sha256: str
    start: str
    created_at: float
    is_operator: bool = False


class KeyFile(msgspec.Struct, frozen=True):
    """The file's content."""

    keys: list[Key] = []


class KeyStore:
    """The keys of an installation; changes by another process are seen at the next look.

    Args:
        path: The file.
        clock: Where it is given, the file is looked at ten times a second at most: a look costs as much as a request.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock
        self._next_look = 0.0
        self._seen: tuple[int, int, int] | None = None
        self._by_hash: dict[str, Key] = {}

    def all(self) -> list[Key]:
        """Return all keys, oldest first.

        Raises:
            SetupError: The file cannot be read: better no service than an open one.
        """
        self._refresh()
        return sorted(self._by_hash.values(), key=lambda key: key.created_at)

    @property
    def is_empty(self) -> bool:
        """Whether no key exists."""
        self._refresh()
        return not self._by_hash

    def by_hash(self) -> Mapping[str, Key]:
        """Return all keys by their hash; the same object until a key is made or revoked."""
        self._refresh()
        return self._by_hash

    def find(self, secret: str) -> Key | None:
        """Return the key that a caller sent, if it is one of ours."""
        self._refresh()
        return self._by_hash.get(hash_key(secret))

    def create(self, name: str, created_at: float, *, is_operator: bool = False) -> str:
        """Make a key and return its secret, which is not kept.

        Args:
            name: Letters, digits, ``.``, ``_``, ``-``; not taken yet.
            created_at: Seconds since the epoch.
            is_operator: Let it operate the daemon, too.

        Raises:
            SetupError: A bad or taken name, or the file cannot be written.
        """
        self._refresh()
        if not name or len(name) > 64 or not all(c.isalnum() or c in "._-" for c in name):
            raise SetupError(f"{name!r} cannot be a key's name", hint="use letters, digits, '.', '_' and '-'")
        if any(key.name == name for key in self._by_hash.values()):
            raise SetupError(f"there is a key {name!r} already", hint=f"`turnout keys revoke {name}` first")
        secret = new_key()
        key = Key(
            name=name,
            sha256=hash_key(secret),
            start=secret[:SHOWN_CHARACTERS],
            created_at=created_at,
            is_operator=is_operator,
        )
        self._write([*self.all(), key])
        return secret

    def revoke(self, name: str) -> Key:
        """Forget a key by its name.

        Raises:
            NotFound: No key has this name.
        """
        keys = self.all()
        for key in keys:
            if key.name == name:
                self._write([other for other in keys if other is not key])
                return key
        names = ", ".join(key.name for key in keys) or "there are none"
        raise NotFound(f"there is no key {name!r}", hint=f"keys: {names}")

    def _refresh(self) -> None:
        if self._clock is not None:
            now = self._clock.monotonic_seconds()
            if now < self._next_look:
                return
            self._next_look = now + LOOK_SECONDS
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen = None
            if self._by_hash:  # as long as nothing changes, it stays the same object
                self._by_hash = {}
            return
        except OSError as error:
            raise self._unreadable(error) from error
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=KeyFile)
        except (OSError, *UNREADABLE_JSON) as error:
            raise self._unreadable(error) from error
        self._by_hash = {key.sha256: key for key in content.keys}
        self._seen = seen

    def _unreadable(self, error: Exception) -> SetupError:
        return SetupError(f"the key file {str(self._path)!r} cannot be read: {error}", hint="mend or remove it")

    def _write(self, keys: list[Key]) -> None:
        data = msgspec.json.format(msgspec.json.encode(KeyFile(keys)), indent=2)
        write_privately(self._path, data)
        self._seen = None
        self._next_look = 0.0
        self._refresh()


def hash_key(secret: str) -> str:
    """Return the hexadecimal SHA-256 of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()
