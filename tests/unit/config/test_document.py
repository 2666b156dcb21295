"""YAML as people mean it: string keys, no duplicates, every value with its line, and no traceback for any text."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.document import Document, parse_document, parse_scalar, read_document, spell
from turnout.core.errors import SetupError


def test_keys_are_strings_whatever_yaml_thinks() -> None:
    document = parse_document("9: a\non: b\n1-3: c\nno: d\nnull: e\n1.5: f\n2024-01-01: g\n", "f")

    assert document.values == {"9": "a", "on": "b", "1-3": "c", "no": "d", "null": "e", "1.5": "f", "2024-01-01": "g"}


def test_values_know_their_line_and_their_nearest_parent() -> None:
    document = parse_document("server:\n  host: h\nlist:\n- a\n-\n  x: 1\n", "f.yaml")

    assert document.where(("server", "host")) == "f.yaml:2"
    assert document.where(("list", 1, "x")) == "f.yaml:6"
    assert document.where(("server", "port")) == "f.yaml:1"
    assert Document({}, {}, "no file").where(("a",)) == "no file"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3: a is given twice"),
        ("s:\n  x: 1\n  x: 2\n", "f:3: s.x is given twice"),
        ("l:\n- x: 1\n  x: 2\n", "f:3: l[0].x is given twice"),
        ("9: a\n'9': b\n", "f:2: 9 is given twice"),
    ],
)
def test_a_key_twice_is_an_error_with_its_line(text: str, told: str) -> None:
    with pytest.raises(SetupError) as raised:
        parse_document(text, "f")
    assert raised.value.message == told


def test_anchors_and_merge_keys_work_and_own_keys_win() -> None:
    text = """
base: &base {a: 1, b: 2}
more: &more {b: 3, c: 4}
own: {<<: *base, b: 9}
both: &both
  <<: [*base, *more]
  d: 5
again: *both
deeper: {<<: *both, e: 6}
"""
    values = parse_document(text, "f").values

    assert values["own"] == {"a": 1, "b": 9}
    assert values["both"] == values["again"] == {"a": 1, "b": 2, "c": 4, "d": 5}
    assert values["deeper"] == {"a": 1, "b": 2, "c": 4, "d": 5, "e": 6}


def test_a_merged_mapping_may_not_repeat_its_own_keys() -> None:
    with pytest.raises(SetupError, match="x is given twice"):
        parse_document("a: &a {x: 1}\nb: {<<: *a, x: 2, x: 3}", "f")
    with pytest.raises(SetupError, match=r"f:1: b\.<<: only mappings can be merged"):
        parse_document("b: {<<: 3}", "f")


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "null\n"])
def test_an_empty_file_sets_nothing(text: str) -> None:
    assert parse_document(text, "f").values == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "f:1: not valid YAML"),
        ("a: 1\n\tb: 2", "f:2: not valid YAML"),
        ("a: *b", "f:1: not valid YAML"),
        ("a: 1\n---\nb: 2", "f:2: not valid YAML"),
        ("- a\n- b", "f: expected keys and values at the top, found list"),
        ("just text", "f: expected keys and values at the top, found str"),
        ("? [a]\n: b", "f:1: a key must be a plain word"),
        ("a: 2024-99-99", "f:1: a: '2024-99-99' cannot be read"),
        ("a:\n  - b: !!int x", "f:2: a[0].b: 'x' cannot be read"),
        ("a: !!python/name:os.system x", "f:1: not valid YAML"),
        ("a: \x07", "f: not valid YAML"),
        ("a: &a [*a]", "f: nested too deeply"),
        ("a: &a {b: *a}", "f: nested too deeply"),
        ("a: &a {<<: *a}", "f: nested too deeply"),
        ("a: " + "[" * 3000, "f: nested too deeply"),
    ],
)
def test_bad_yaml_names_file_and_line(text: str, told: str) -> None:
    with pytest.raises(SetupError) as raised:
        parse_document(text, "f")
    assert raised.value.message.startswith(told)


@given(st.text(alphabet=st.sampled_from(list("ab:-{}[]&*<>!'\"#%@|,?\n\t 09~.\x00é")), max_size=40))
def test_no_text_raises_anything_but_a_setup_error(text: str) -> None:
    with contextlib.suppress(SetupError):
        assert all(isinstance(key, str) for key in parse_document(text, "f").values)


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not exist"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(SetupError, match="cannot read"):
        read_document(tmp_path)
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: \xff\xfe")
    with pytest.raises(SetupError, match="cannot read"):
        read_document(bad)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8150", 8150), ("0.5", 0.5), ("true", True), ("text", "text"), ("", ""), (" ", ""), ("[a, b]", ["a", "b"]),
     ("{a: 1}", {"a": 1}), ("'8150'", "8150"), ("http://h:1/v1", "http://h:1/v1")],
)  # fmt: skip
def test_environment_values_are_what_yaml_sees(text: str, value: object) -> None:
    assert parse_scalar(text) == value


def test_spell_writes_a_path_as_people_do() -> None:
    assert spell(("models", "tiny", "roles", 0)) == "models.tiny.roles[0]"
    assert spell(("a", 1, "b")) == "a[1].b"
    assert spell(()) == ""
