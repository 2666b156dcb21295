"""Who may come in. Any web page can reach loopback, so loopback alone is no protection.

Order: host, origin, key, content type. Each refusal is a typed error.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from turnout.core.errors import ForeignHost, ForeignOrigin, OperatorOnly, Unauthorized, UnsupportedType
from turnout.core.loopback import is_loopback_name
from turnout.gateway.keys import Key, KeyStore, hash_key

Headers = Iterable[tuple[bytes, bytes]]
READS = frozenset({"GET", "HEAD", "OPTIONS"})
ADMITTED_KEPT = 1024
"""Kinds of callers whose admission is remembered until a key is made or revoked; a refusal never is."""


class Entry(msgspec.Struct, frozen=True):
    """The headers that the guard looks at, read in one pass."""

    host: str = ""
    origin: str = ""
    content_type: str = ""
    authorization: str = ""
    api_key: str = ""
    asked_headers: str = ""


def read_entry(headers: Headers) -> Entry:
    """Return the guard's headers of a request; of a repeated one the last."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in NAMES:
            found[NAMES[name]] = value.decode("latin-1").strip()
    return Entry(**found)


NAMES = {
    b"host": "host",
    b"origin": "origin",
    b"content-type": "content_type",
    b"authorization": "authorization",
    b"x-api-key": "api_key",
    b"access-control-request-headers": "asked_headers",
}


class Guard:
    """Lets requests in or says why not.

    Args:
        host: The address that the daemon listens on.
        allowed_hosts: Host names beyond loopback.
        allowed_origins: Web origins beyond loopback.
        keys: The API keys.
        operator_token: Known to the CLI of this user by a file that only the user can read.
    """

    def __init__(
        self, host: str, allowed_hosts: list[str], allowed_origins: list[str], keys: KeyStore, operator_token: str
    ) -> None:
        self.is_open_bind = not is_loopback_name(host.lower())
        self._hosts = {name.lower() for name in allowed_hosts} | {host.lower()}
        self._origins = {origin.lower().rstrip("/") for origin in allowed_origins}
        self._keys = keys
        self._operator_token = operator_token
        self._admitted: dict[tuple[str, Entry, bool, bool], str] = {}
        self._admitted_by: Mapping[str, Key] = {}

    def admit(self, method: str, entry: Entry, *, is_public: bool = False, is_operators: bool = False) -> str:
        """Return the name of the key that opens, or an empty string where none is needed.

        Args:
            method: The HTTP method.
            entry: The request's headers.
            is_public: No key is asked for (``/health``).
            is_operators: Only a key that may operate the daemon opens (where keys are needed at all).

        Raises:
            ForeignHost: A Host that is not ours (421).
            ForeignOrigin: A web page of another origin (403).
            Unauthorized: No key, or an unknown one, where one is needed (401).
            OperatorOnly: A key that may not operate the daemon (403).
            UnsupportedType: A write that is not JSON (415).
        """
        known = self._keys.by_hash()
        if known is not self._admitted_by:
            self._admitted, self._admitted_by = {}, known
        case = (method, entry, is_public, is_operators)
        name = self._admitted.get(case)
        if name is None:
            name = self._check(method, entry, is_public=is_public, is_operators=is_operators)
            if len(self._admitted) < ADMITTED_KEPT:
                self._admitted[case] = name
        return name

    def _check(self, method: str, entry: Entry, *, is_public: bool, is_operators: bool) -> str:
        self._check_host(entry.host)
        if entry.origin:
            self._check_origin(entry.origin)
        name = "" if is_public else self._check_key(entry, is_operators=is_operators)
        if method not in READS:
            check_content_type(entry.content_type)
        return name

    def _check_host(self, host: str) -> None:
        name = split_host(host)
        # With an open bind address a key is demanded, and a rebound name does not know it.
        if not (self.is_open_bind or is_loopback_name(name) or name in self._hosts):
            raise ForeignHost(
                f"this daemon does not serve the host {host!r}",
                hint="call it by 127.0.0.1 or localhost, or add the name to server.allowed_hosts",
            )

    def _check_origin(self, origin: str) -> None:
        lowered = origin.lower().rstrip("/")
        if lowered in self._origins:
            return
        if is_loopback_origin(lowered):
            return
        raise ForeignOrigin(
            f"pages of origin {origin!r} may not call this daemon", hint="add the origin to server.allowed_origins"
        )

    def _check_key(self, entry: Entry, *, is_operators: bool) -> str:
        scheme, _, secret = entry.authorization.partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else entry.api_key
        if secret and hmac.compare_digest(secret.encode(), self._operator_token.encode()):
            return "operator"
        known = self._keys.by_hash()
        if not self.is_open_bind and not known:
            return ""  # SDKs always send some key; without keys of ours it means nothing
        key = known.get(hash_key(secret)) if secret else None
        if key is None:
            raise Unauthorized(
                "the API key is not known here" if secret else "an API key is needed",
                hint="send 'Authorization: Bearer sk-turnout-…'; `turnout keys create NAME` makes one",
            )
        if is_operators and not key.is_operator:
            raise OperatorOnly(
                f"key {key.name!r} may use models, but not operate the daemon",
                hint="`turnout keys create NAME --operator` makes one that may",
            )
        return key.name


def check_content_type(content_type: str) -> None:
    """Refuse a write that a web form could send without the browser asking first.

    Raises:
        UnsupportedType: It is not ``application/json``.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnsupportedType(
            f"the content type is {content_type!r}" if content_type else "there is no content type",
            hint="send 'Content-Type: application/json'",
        )


def is_loopback_origin(origin: str) -> bool:
    """Return whether a web origin is a page of this machine."""
    try:
        parts = urlsplit(origin)
        name = parts.hostname or ""
    except ValueError:  # brackets without an end
        return False
    return parts.scheme in ("http", "https") and is_loopback_name(name)


def split_host(host: str) -> str:
    """Return the name in a Host header, without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
