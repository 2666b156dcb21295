"""How much memory a llama.cpp worker takes, told before it is loaded, from the header of its GGUF file.

::

    weights        the file's size
    + KV cache     tokens x (sum over layers of KV heads) x (key length + value length) x 2 bytes
    + logits       512 x vocabulary x 4 bytes
    + the rest     64 MiB

The cache is llama.cpp's own layout with 16-bit keys and values, allocated whole at the start for the context of every
slot; models with a sliding window or with recurrent layers take less. 512 is its micro-batch, for which it sets room
for logits aside (Llama 3 8B with 128,256 words: 250 of the 258 MiB that it reports as its compute buffer). Measured
with SmolLM2-135M after a long prompt: 558, 936 and 204 MB resident where this says 644, 1,021 and 290 MB (2 x 8192,
4 x 8192, 1 x 1024 tokens): the room for logits was not touched. The format of the header:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

CACHE_BYTES = 2
LOGITS_BYTES = 4
MICRO_BATCH = 512
REST_BYTES = 64 << 20
UNKNOWN_FACTOR = 1.25
"""Of the file's size, where its header cannot be read."""

MAGIC = b"GGUF"
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONGEST_ARRAY = 1 << 16
VOCABULARY = "tokenizer.ggml.tokens"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What of a model decides about its memory.

    Attributes:
        cache_heads: KV heads of all layers together.
        key_length: Of one head.
        value_length: Of one head.
        vocabulary: Words.
    """

    cache_heads: int
    key_length: int
    value_length: int
    vocabulary: int


def footprint_bytes(file_bytes: int, shape: Shape | None, tokens: int) -> int:
    """Return what a worker takes.

    Args:
        file_bytes: Size of the weights.
        shape: From the file's header, if that could be read.
        tokens: Contexts of all slots together.
    """
    if shape is None:
        return int(file_bytes * UNKNOWN_FACTOR) + REST_BYTES
    cache = tokens * shape.cache_heads * (shape.key_length + shape.value_length) * CACHE_BYTES
    return file_bytes + cache + MICRO_BATCH * shape.vocabulary * LOGITS_BYTES + REST_BYTES


def read_shape(path: Path) -> Shape | None:
    """Return the shape of the model in a GGUF file, or None if its header does not say."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _shape_of(_entries(data))
    except (OSError, ValueError, struct.error, UnicodeDecodeError, KeyError, TypeError, ZeroDivisionError):
        return None  # cut short, empty, or not what the format promises


def _shape_of(entries: Iterator[tuple[str, Any]]) -> Shape | None:
    found = dict(entries)
    arch = found["general.architecture"]
    layers, heads = found[f"{arch}.block_count"], found[f"{arch}.attention.head_count"]
    cache_heads = found.get(f"{arch}.attention.head_count_kv", heads)
    first_heads = max(heads) if isinstance(heads, list) else heads
    length = found[f"{arch}.embedding_length"] // first_heads
    return Shape(
        cache_heads=sum(cache_heads) if isinstance(cache_heads, list) else layers * cache_heads,
        key_length=found.get(f"{arch}.attention.key_length", length),
        value_length=found.get(f"{arch}.attention.value_length", length),
        vocabulary=found.get(f"{arch}.vocab_size") or found.get(VOCABULARY) or 0,
    )


def _entries(data: mmap.mmap) -> Iterator[tuple[str, Any]]:
    """Yield names and values of a header as far as the vocabulary, and the length of that: what follows is long."""
    if data[:4] != MAGIC:
        return
    version, _, count = struct.unpack_from("<IQQ", data, 4)
    if version < 2:  # lengths had 32 bits then
        return
    at = 24
    for _ in range(count):
        name, at = _text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if name == VOCABULARY:
            yield name, struct.unpack_from("<IQ", data, at + 4)[1]
            return
        value, at = _value(data, at + 4, kind)
        yield name, value


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind in NUMBERS:
        form = "<" + NUMBERS[kind]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if kind == STRING:
        return _text(data, at)
    if kind != ARRAY:
        raise ValueError(f"there is no type {kind}")
    inner, length = struct.unpack_from("<IQ", data, at)
    if length > LONGEST_ARRAY:
        raise ValueError(f"an array of {length} entries before the vocabulary")
    at += 12
    values: list[Any] = []
    for _ in range(length):
        value, at = _value(data, at, inner)
        values.append(value)
    return values, at


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise ValueError("a text ends behind the file")
    return data[at + 8 : end].decode("utf-8"), end
