"""Who may come in: any web page can reach loopback, so names, origins and types are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnout.core.errors import ForeignHost, ForeignOrigin, OperatorOnly, Unauthorized, UnsupportedType, Wrong
from turnout.gateway.guard import (
    ADMITTED_KEPT,
    Entry,
    Guard,
    check_content_type,
    is_loopback_origin,
    read_entry,
    split_host,
)
from turnout.gateway.keys import KeyStore

TOKEN = "operator-token"
JSON = "application/json"


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


def guard(keys: KeyStore, host: str = "127.0.0.1") -> Guard:
    return Guard(host, ["gpu.lan", "Chat.Example"], ["https://chat.example.org/"], keys, TOKEN)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8150",
        "LOCALHOST:8150",
        "127.0.0.1",
        "127.0.0.1:8150",
        "127.9.9.9:1",
        "[::1]",
        "[::1]:8150",
        "app.localhost:80",
        "gpu.lan:8150",
        "GPU.LAN",
        "chat.example",
    ],
)
def test_our_own_names_are_served(keys: KeyStore, host: str) -> None:
    for _ in range(2):  # the second look comes from memory
        assert guard(keys).admit("GET", Entry(host=host)) == ""


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.com",
        "evil.com:8150",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "127.0.0.1.nip.io:8150",
        "xlocalhost",
        "localhost.",
        "127.0.0.1.",
        "0.0.0.0:8150",
        "10.0.0.1",
        "[::2]:8150",
        "[fe80::1]",
        "::1",
        "[",
        "[::1",
        "2130706433",
        "127.1",
        "0x7f.0.0.1",
        "localhost@evil.com",
        "gpu.lan.evil.com",
    ],
)
def test_a_rebound_name_is_not(keys: KeyStore, host: str) -> None:
    if host == "[::1":
        assert split_host(host) == "::1", "half a bracket is still this machine and nobody else"
        return
    with pytest.raises(ForeignHost) as raised:
        guard(keys).admit("GET", Entry(host=host))
    assert (raised.value.status, raised.value.code) == (421, "foreign_host")
    assert "allowed_hosts" in raised.value.hint


def test_a_refused_host_is_not_remembered_as_known(keys: KeyStore) -> None:
    door = guard(keys)
    for _ in range(2):
        with pytest.raises(ForeignHost):
            door.admit("GET", Entry(host="evil.com"))


def test_the_memory_of_callers_is_bounded(keys: KeyStore) -> None:
    door = guard(keys)
    for number in range(2 * ADMITTED_KEPT):
        door.admit("GET", Entry(host=f"a{number}.localhost"))
    assert len(door._admitted) == ADMITTED_KEPT


@pytest.mark.parametrize(
    "origin",
    ["", "http://localhost", "http://localhost:3000", "https://localhost:3000", "HTTP://LOCALHOST:3000", "http://127.0.0.1:8150",
     "http://[::1]:8150", "http://app.localhost", "https://chat.example.org", "HTTPS://CHAT.EXAMPLE.ORG/"],
)  # fmt: skip
def test_pages_of_this_machine_and_allowed_ones_may_call(keys: KeyStore, origin: str) -> None:
    assert guard(keys).admit("POST", Entry(host="localhost", origin=origin, content_type=JSON)) == ""


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.com", "http://localhost.evil.com", "http://127.0.0.1.evil.com", "https://chat.example.org:444",
     "http://chat.example.org", "https://chat.example.org.evil.com", "file://", "file://localhost", "chrome-extension://abc",
     "localhost", "//localhost", "http://", "http://[", "http://[::1", "http://localhost@evil.com", "http://xlocalhost",
     "http://0.0.0.0", "javascript:alert(1)", "http://localhost.", "data:text/html,x", " "],
)  # fmt: skip
def test_foreign_pages_may_not(keys: KeyStore, origin: str) -> None:
    with pytest.raises(ForeignOrigin) as raised:
        guard(keys).admit("POST", Entry(host="localhost", origin=origin, content_type=JSON))
    assert (raised.value.status, raised.value.code) == (403, "foreign_origin")
    assert not is_loopback_origin(origin)


@pytest.mark.parametrize(
    "given", [JSON, "Application/JSON", "application/json; charset=utf-8", "application/json;x", " application/json "]
)
def test_json_is_json_with_and_without_a_charset(given: str) -> None:
    check_content_type(given)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "text/plain",
        "text/plain;application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json, text/plain",
        "application/jsonx",
        "text/json",
        "application/ld+json",
    ],
)
def test_what_a_web_form_can_send_is_refused(keys: KeyStore, given: str) -> None:
    with pytest.raises(UnsupportedType) as raised:
        guard(keys).admit("POST", Entry(host="localhost", content_type=given))
    assert raised.value.status == 415


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW", "post"])
def test_every_write_needs_the_type(keys: KeyStore, method: str) -> None:
    with pytest.raises(UnsupportedType):
        guard(keys).admit(method, Entry(host="localhost"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reads_do_not(keys: KeyStore, method: str) -> None:
    guard(keys).admit(method, Entry(host="localhost"))


def entry(**headers: str) -> Entry:
    return Entry(host="localhost", **headers)


def test_without_keys_loopback_is_open_and_a_made_up_key_means_nothing(keys: KeyStore) -> None:
    door = guard(keys)
    assert door.admit("GET", entry()) == ""
    assert door.admit("GET", entry(authorization="Bearer sk-whatever")) == ""
    assert door.admit("GET", entry(api_key="sk-whatever")) == ""


def test_with_keys_one_of_them_is_needed_in_either_header(keys: KeyStore) -> None:
    secret = keys.create("phone", 1.0)
    door = guard(keys)

    assert door.admit("GET", entry(authorization=f"Bearer {secret}")) == "phone"
    assert door.admit("GET", entry(authorization=f"bearer  {secret} ")) == "phone"
    assert door.admit("GET", entry(api_key=secret)) == "phone"
    assert door.admit("GET", entry(api_key=secret, authorization="Basic abc")) == "phone"
    assert door.admit("GET", entry(), is_public=True) == ""
    for wrong, told in (
        (entry(), "needed"),
        (entry(authorization="Bearer"), "needed"),
        (entry(authorization=f"Basic {secret}"), "needed"),
        (entry(authorization="Bearer nope"), "not known"),
        (entry(api_key=secret[:-1]), "not known"),
        (entry(authorization="Bearer é"), "not known"),
        (entry(authorization="Bearer nope", api_key=secret), "not known"),
    ):
        with pytest.raises(Unauthorized, match=told) as raised:
            door.admit("GET", wrong)
        assert raised.value.status == 401


def test_the_operators_token_opens_always(keys: KeyStore) -> None:
    keys.create("phone", 1.0)
    for door in (guard(keys), guard(keys, "0.0.0.0")):  # noqa: S104
        assert door.admit("GET", entry(authorization=f"Bearer {TOKEN}")) == "operator"
    with pytest.raises(Unauthorized):
        guard(keys).admit("GET", entry(authorization=f"Bearer {TOKEN}x"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu.lan"])  # noqa: S104
def test_an_open_bind_demands_keys_whatever_the_host_header(keys: KeyStore, host: str) -> None:
    door = guard(keys, host)
    assert door.is_open_bind
    with pytest.raises(Unauthorized):
        door.admit("GET", Entry(host="anything.example"))
    secret = keys.create("phone", 1.0)
    assert door.admit("GET", Entry(host="anything.example", api_key=secret)) == "phone"
    assert door.admit("GET", Entry(host="anything.example"), is_public=True) == ""
    with pytest.raises(ForeignOrigin):
        door.admit("GET", Entry(host="anything.example", origin="http://evil.com", api_key=secret))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "Localhost", "127.0.0.2"])
def test_loopback_is_no_open_bind(keys: KeyStore, host: str) -> None:
    assert not guard(keys, host).is_open_bind


def test_a_broken_key_file_closes_the_door(keys: KeyStore, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("oops")
    with pytest.raises(Exception, match="key file"):
        guard(keys).admit("GET", entry())


def test_the_order_is_host_origin_key_type(keys: KeyStore) -> None:
    keys.create("phone", 1.0)
    seen: list[type[Wrong]] = []
    given = {"host": "evil.com", "origin": "null", "api_key": "nope", "content_type": "text/plain"}
    for mended in ({}, {"host": "localhost"}, {"origin": ""}, {"api_key": TOKEN}):
        given |= mended
        with pytest.raises(Wrong) as raised:
            guard(keys).admit("POST", Entry(**given))
        seen.append(type(raised.value))
    assert seen == [ForeignHost, ForeignOrigin, Unauthorized, UnsupportedType]


def test_headers_are_read_in_one_pass() -> None:
    headers = [
        (b"host", b" h "),
        (b"origin", b"o"),
        (b"content-type", b"c"),
        (b"authorization", b"a"),
        (b"x-api-key", b"\xff"),
        (b"accept", b"x"),
        (b"host", b"second"),
    ]
    assert read_entry(headers) == Entry(host="second", origin="o", content_type="c", authorization="a", api_key="ÿ")


def test_a_revoked_key_does_not_open_although_it_did(keys: KeyStore) -> None:
    secret = keys.create("phone", 1.0)
    keys.create("other", 2.0)
    door = guard(keys)
    caller = entry(authorization=f"Bearer {secret}")
    assert [door.admit("GET", caller) for _ in range(2)] == ["phone", "phone"]
    keys.revoke("phone")
    with pytest.raises(Unauthorized):
        door.admit("GET", caller)


def test_what_opens_for_one_thing_does_not_for_another(keys: KeyStore) -> None:
    caller = entry(authorization="Bearer " + keys.create("phone", 1.0))
    door = guard(keys)
    assert door.admit("GET", caller) == "phone"
    with pytest.raises(OperatorOnly):
        door.admit("GET", caller, is_operators=True)
    with pytest.raises(UnsupportedType):
        door.admit("POST", caller)
    assert door.admit("GET", entry(), is_public=True) == ""
    with pytest.raises(Unauthorized):
        door.admit("GET", entry())
