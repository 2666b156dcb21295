"""The small parts of a worker's life: when it starts again, how its end is told, and a log that cannot grow."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.samples import a_context, some_paths
from turnout.config.schema import DiscoverEntry, Settings
from turnout.tiers.local.child import KEPT_LINES, LOG_BYTES, EngineLog, describe_exit
from turnout.tiers.local.discover import found_engines
from turnout.tiers.local.restart import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, STEADY_SECONDS, RestartPolicy
from turnout.tiers.local.weights.store import ENTRY, PulledModel, models_dir
from turnout.tiers.scripted_transport import ScriptedTransport


def test_the_first_crash_is_mended_at_once_then_the_delay_doubles_to_half_a_minute() -> None:
    policy, delays = RestartPolicy(), []
    for _ in range(10):
        policy = policy.after_life(1.0)
        delays.append(policy.delay_seconds)
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_worker_that_never_was_ready_gets_no_second_try_at_once() -> None:
    # Otherwise whoever waits for the model would be told only after a second whole load.
    first = RestartPolicy().after_life(0.0)
    assert first.delay_seconds == FIRST_DELAY_SECONDS
    assert first.after_life(0.0).delay_seconds == 2 * FIRST_DELAY_SECONDS
    assert RestartPolicy(1).after_life(0.0).delay_seconds == FIRST_DELAY_SECONDS


def test_a_steady_life_starts_the_count_again() -> None:
    failing = RestartPolicy(7)
    assert failing.after_life(STEADY_SECONDS - 0.1).failures == 8
    assert failing.after_life(STEADY_SECONDS) == RestartPolicy(1)
    assert failing.after_life(STEADY_SECONDS).delay_seconds == 0.0
    assert RestartPolicy().delay_seconds == 0.0


@given(st.lists(st.floats(0, 1e6), max_size=3000))
def test_no_history_gives_a_delay_out_of_bounds(lives: list[float]) -> None:
    policy = RestartPolicy()
    for lived in lives:
        policy = policy.after_life(lived)
        assert policy.delay_seconds == 0.0 or FIRST_DELAY_SECONDS <= policy.delay_seconds <= LONGEST_DELAY_SECONDS


def test_ten_thousand_failures_do_not_overflow() -> None:
    assert RestartPolicy(10_000).delay_seconds == LONGEST_DELAY_SECONDS


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit status 0"),
        (1, "exit status 1"),
        (-signal.SIGKILL, "signal SIGKILL"),
        (-signal.SIGSEGV, "signal SIGSEGV"),
        (-99, "signal 99"),
    ],
)
def test_an_exit_code_is_told_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_a_log_keeps_the_last_lines_and_ends_each_with_a_break(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "deep" / "a.b.log")
    for number in range(KEPT_LINES + 5):
        log.write(b"line %d" % number if number % 2 else b"line %d\n" % number)
    log.write(b"\xff" * 1000)

    assert log.last_lines[-2] == f"line {KEPT_LINES + 4}"
    assert len(log.last_lines) == KEPT_LINES
    assert len(log.last_lines[-1]) == 500
    assert len(log.path.read_bytes().splitlines()) == KEPT_LINES + 6


def test_a_log_is_turned_over_and_never_larger_than_twice_its_limit(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "a.b.log")
    line = b"x" * (LOG_BYTES // 3)
    for _ in range(20):
        log.write(line)

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.b.log", "a.b.log.1"]
    assert all(file.stat().st_size <= LOG_BYTES + len(line) + 1 for file in files)


def test_a_log_that_cannot_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = EngineLog(tmp_path / "file" / "a.log")
    log.write(b"still remembered")
    assert list(log.last_lines) == ["still remembered"]


def found(tmp_path: Path, **settings: object) -> list[tuple[str, str]]:
    engines = found_engines(Settings(**settings), a_context(tmp_path, ScriptedTransport()))  # type: ignore[arg-type]
    return [(type(engine).__name__, str(getattr(engine, "base_url", engine.name))) for engine in engines]


VLLM = ("FoundServer", "http://127.0.0.1:8000/v1")
OLLAMA = ("OllamaEngine", "http://127.0.0.1:11434")
LLAMA_SERVER = ("FoundServer", "http://127.0.0.1:8080/v1")
LM_STUDIO = ("FoundServer", "http://127.0.0.1:1234/v1")
COMFYUI = ("ComfyUi", "http://127.0.0.1:8188")
USUAL = [VLLM, LLAMA_SERVER, OLLAMA, LM_STUDIO, COMFYUI]


def test_by_default_the_usual_ports_are_looked_at_a_vllm_first(tmp_path: Path) -> None:
    assert found(tmp_path) == USUAL
    assert found(tmp_path, discover=[]) == []
    elsewhere = DiscoverEntry(engine="ollama", base_url="http://127.0.0.1:5/")
    assert found(tmp_path, discover=[elsewhere]) == [("OllamaEngine", "http://127.0.0.1:5")]


@pytest.mark.parametrize(
    ("entry", "but"),
    [
        ({"engine": "external", "base_url": "http://127.0.0.1:8000/v1/"}, VLLM),
        ({"engine": "external", "base_url": "http://127.0.0.1:8001/v1"}, None),
        ({"engine": "ollama", "model": "m"}, None),  # it may have other models
        ({"engine": "comfyui", "vram_gib": "8"}, COMFYUI),
        ({"engine": "simulated"}, None),
    ],
)
def test_a_configured_address_is_not_looked_at_twice(
    tmp_path: Path, entry: dict[str, str], but: tuple[str, str] | None
) -> None:
    assert found(tmp_path, models={"m": entry}) == [place for place in USUAL if place != but]


def test_nothing_found_has_targets_before_it_answers(tmp_path: Path) -> None:
    engines = found_engines(Settings(), a_context(tmp_path, ScriptedTransport()))
    assert list(itertools.chain.from_iterable(engine.targets() for engine in engines)) == []


def pulled(data_dir: Path, name: str, source: str, file: str = "m.gguf") -> None:
    """Put an entry into the store as a pull leaves it."""
    folder = models_dir(data_dir) / name
    folder.mkdir(parents=True)
    (folder / file).write_bytes(b"GGUF" + bytes(60))
    (folder / ENTRY).write_bytes(msgspec.json.encode(PulledModel(name=name, source=source, file=file, bytes=64)))


def test_a_pulled_model_is_a_target_unless_it_is_configured(tmp_path: Path) -> None:
    data_dir = some_paths(tmp_path).data_dir
    pulled(data_dir, "one", "hf:owner/one")
    pulled(data_dir, "two", "hf:owner/two")
    pulled(data_dir, "embedder", "hf:owner/e", "model.onnx")
    context = a_context(tmp_path, ScriptedTransport())
    models = {"mine": {"engine": "llamacpp", "source": "hf:owner/one"}}

    targets = [engine.targets()[0] for engine in found_engines(Settings(discover=[], models=models), context)]

    assert [(t.name, t.engine, t.origin, t.state) for t in targets] == [
        ("local/llamacpp/two", "llamacpp", "found", "cold")
    ]
