"""API keys: shown once, kept as hashes, changed by other processes, and never an open door by accident."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from turnout.core.errors import NotFound, SetupError
from turnout.core.ids import KEY_PREFIX
from turnout.gateway.keys import KeyStore, hash_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "keys.json"


def test_a_key_is_made_found_and_forgotten(path: Path) -> None:
    store = KeyStore(path)
    assert store.all() == []
    secret = store.create("phone", 5.0)

    assert secret.startswith(KEY_PREFIX)
    found = store.find(secret)
    assert found is not None
    assert (found.name, found.created_at, found.start) == ("phone", 5.0, secret[: len(KEY_PREFIX) + 4])
    assert store.find(secret + "x") is None
    assert store.find("") is None
    assert not store.is_empty

    assert store.revoke("phone").name == "phone"
    assert store.find(secret) is None
    assert store.all() == []


def test_the_file_holds_no_secret_and_is_the_owners(path: Path) -> None:
    secret = KeyStore(path).create("phone", 1.0)
    text = path.read_text()

    assert secret not in text
    assert hash_key(secret) in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_are_listed_oldest_first(path: Path) -> None:
    store = KeyStore(path)
    for name, when in (("b", 2.0), ("a", 3.0), ("c", 1.0)):
        store.create(name, when)
    assert [key.name for key in store.all()] == ["c", "b", "a"]


def test_changes_of_another_process_are_seen_at_the_next_look(path: Path) -> None:
    daemon, cli = KeyStore(path), KeyStore(path)
    assert daemon.is_empty
    one = cli.create("one", 1.0)
    assert daemon.find(one) is not None
    two = cli.create("two", 2.0)
    assert daemon.find(two) is not None
    cli.revoke("one")
    assert daemon.find(one) is None
    assert daemon.create("three", 3.0)
    assert [key.name for key in cli.all()] == ["two", "three"]
    path.unlink()
    assert daemon.is_empty


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../x", "x" * 65, "a\n", "a'", "-\x00"])
def test_a_bad_name_is_refused(path: Path, name: str) -> None:
    with pytest.raises(SetupError, match="cannot be a key's name"):
        KeyStore(path).create(name, 1.0)
    assert not path.exists()


def test_a_name_is_given_once_and_an_unknown_one_is_told_with_the_known(path: Path) -> None:
    store = KeyStore(path)
    with pytest.raises(NotFound) as raised:
        store.revoke("phone")
    assert raised.value.hint == "keys: there are none"
    store.create("phone", 1.0)
    with pytest.raises(SetupError, match="there is a key 'phone' already"):
        store.create("phone", 2.0)
    with pytest.raises(NotFound) as raised:
        store.revoke("phon")
    assert raised.value.hint == "keys: phone"


@pytest.mark.parametrize(
    "data", [b"", b"oops", b"[]", b'{"keys": [{}]}', b'{"keys": 3}', b'{"keys": "\xff"}', b"[" * 100_000]
)
def test_a_broken_file_is_an_error_and_not_an_open_door(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    store = KeyStore(path)
    for look in (lambda: store.is_empty, lambda: store.find("x"), store.all, lambda: store.create("a", 1.0)):
        with pytest.raises(SetupError, match="cannot be read"):
            look()
    assert path.read_bytes() == data, "a file that is not understood is not overwritten"


def test_a_file_that_broke_later_is_noticed(path: Path) -> None:
    store = KeyStore(path)
    secret = store.create("a", 1.0)
    path.write_text("oops")
    with pytest.raises(SetupError):
        store.find(secret)


def test_a_folder_that_cannot_be_looked_into_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    with pytest.raises(SetupError, match="cannot be read"):
        _ = KeyStore(tmp_path / "config" / "keys.json").is_empty
    folder = tmp_path / "keys.json"
    folder.mkdir()
    with pytest.raises(SetupError, match="cannot be read"):
        _ = KeyStore(folder).is_empty
