"""What the simulated worker says: words, tool calls, JSON that fits a schema, vectors. Pure and deterministic."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import msgspec

from turnout.core.errors import InvalidRequest
from turnout.tiers.local.simulated.requests import ChatRequest, GenerationRequest

FinishReason = Literal["stop", "length", "tool_calls"]

# 128 words, so that seven bits of a hash choose one.
WORDS = (
    "about above across after again air all along always among answer any arm around ask away back bank bell below "
    "best between bird blue boat book bread bridge bright bring build call calm carry chair city clear cloud coat cold "
    "come corner count cross day deep door down draw dream early earth east even evening every far field find fire "
    "first floor follow forest found garden gate give glass gold good grain grass great green ground grow hand harbor "
    "hear high hill home horse hour house island keep kind lake lamp land late leaf letter light line little long look "
    "map market meet milk moon morning mountain move music near never night north often old open over paper path plain "
    "quiet rain river road room sail salt seed"
)
VOCABULARY = tuple(WORDS.split())
SHORTEST_REPLY_TOKENS = 48
SENTENCE_TOKENS = 12
JSON_PIECE_CHARACTERS = 4
DEEPEST_SCHEMA = 32
LONGEST_MINIMUM = 4096


class Pieces(Protocol):
    """An answer, cut into tokens: one text for each."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> str: ...
    def __iter__(self) -> Iterator[str]: ...


class Words(msgspec.Struct, frozen=True):
    """Sentences of twelve words, made when they are looked at: a thousand long answers cost one byte a token."""

    choices: bytes
    """One word's number for each token."""

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, place: int, /) -> str:
        word = VOCABULARY[self.choices[place] & 127]
        if place % SENTENCE_TOKENS == 0:
            return word.capitalize() if place == 0 else " " + word.capitalize()
        return f" {word}." if place % SENTENCE_TOKENS == SENTENCE_TOKENS - 1 else " " + word

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))


class Reply(msgspec.Struct, frozen=True):
    """An answer and the way it ends."""

    pieces: Pieces
    """In a tool call the first one is empty (it carries the name), the rest are arguments."""
    finish_reason: FinishReason
    function_name: str = ""
    """The function that is called, or empty for an answer in words."""

    def text(self) -> str:
        """Return the whole answer."""
        return "".join(self.pieces)


def reply_to(request: GenerationRequest, prompt: str, *, seed: int, tokens: int, room: int) -> Reply:
    """Return the answer to a request: the same for the same request, prompt and seeds.

    Args:
        request: A chat or a plain completion.
        prompt: Its whole text.
        seed: The worker's own seed.
        tokens: How long an answer in words is; 0 lets the hash choose 48 to 175.
        room: Tokens that the context has left for the answer, at least 1.
    """
    function = schema = None
    if isinstance(request, ChatRequest):
        function = request.called_function()
        schema = _wanted_schema(request.response_format)
    limit = min(request.token_limit() or room, room)
    if function is not None:
        pieces = ("", *_json_pieces(schema_instance(function.parameters or {"type": "object"})))
        finish: FinishReason = "tool_calls" if len(pieces) <= limit else "length"
        return Reply(pieces[:limit], finish, function.name)
    if schema is not None:
        pieces = _json_pieces(schema_instance(schema))
        return Reply(pieces[:limit], "stop" if len(pieces) <= limit else "length")
    source = f"{seed}\0{request.seed}\0{prompt}".encode("utf-8", "surrogatepass")
    length = tokens or SHORTEST_REPLY_TOKENS + (hashlib.sha256(source).digest()[0] & 127)
    has_end = length <= limit and not request.ignore_eos
    words = Words(hashlib.shake_128(source).digest(length if has_end else limit))
    return Reply(words, "stop" if has_end else "length")


def schema_instance(schema: dict[str, Any]) -> Any:
    """Return a small value that fits a JSON schema.

    Args:
        schema: Types, ``const``, ``enum``, ``required``, ``anyOf``, minima and ``$ref`` into ``$defs`` are understood.

    Raises:
        InvalidRequest: A reference leads nowhere, or required fields nest without end.
    """
    return _instance(schema, schema, DEEPEST_SCHEMA)


def embedding(text: str, *, seed: int, dimensions: int) -> tuple[float, ...]:
    """Return a vector of length 1 that depends on the text alone.

    Args:
        text: What to embed.
        seed: The worker's own seed.
        dimensions: How many numbers.
    """
    digest = hashlib.shake_128(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    # An odd number can not be 0, so neither can the norm.
    numbers = [2 * value + 1 for (value,) in struct.iter_unpack("<h", digest)]
    norm = math.sqrt(sum(number * number for number in numbers))
    return tuple(number / norm for number in numbers)


def base64_vector(vector: tuple[float, ...]) -> str:
    """Return a vector as OpenAI's base64: little-endian 32-bit floats.

    Args:
        vector: The numbers.
    """
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _json_pieces(value: Any) -> tuple[str, ...]:
    text = msgspec.json.encode(value).decode()
    return tuple(text[at : at + JSON_PIECE_CHARACTERS] for at in range(0, len(text), JSON_PIECE_CHARACTERS))


def _wanted_schema(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case {"type": "json_schema"}:
            raise InvalidRequest("response_format has no json_schema.schema", param="response_format")
        case {"type": "json_object"}:
            return {"type": "object"}
    return None


def _instance(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if depth == 0:
        raise InvalidRequest(f"the schema nests deeper than {DEEPEST_SCHEMA} required levels")
    if not isinstance(schema, dict):
        return ""  # the schema `true`: anything goes
    if "$ref" in schema:
        return _instance(_referred(schema["$ref"], root), root, depth - 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return _instance(schema[union][0], root, depth - 1)
    if schema.get("allOf"):
        parts = [_referred(part["$ref"], root) if "$ref" in part else part for part in schema["allOf"]]
        return _instance(_merged([*parts, {k: v for k, v in schema.items() if k != "allOf"}]), root, depth - 1)
    return _typed_instance(schema, root, depth)


def _typed_instance(schema: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    match _type_of(schema):
        case "object":
            properties = schema.get("properties", {})
            return {name: _instance(properties.get(name), root, depth - 1) for name in schema.get("required", ())}
        case "array":
            item_schemas = list(schema.get("prefixItems", ()))
            missing = min(schema.get("minItems", 0), LONGEST_MINIMUM) - len(item_schemas)
            item_schemas += [schema.get("items")] * missing
            return [_instance(item, root, depth - 1) for item in item_schemas]
        case "integer":
            return math.ceil(_number(schema, step=1))
        case "number":
            return _number(schema, step=0.5)
        case "boolean":
            return False
        case "null":
            return None
    return "a" * min(schema.get("minLength", 0), LONGEST_MINIMUM)


def _type_of(schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        return kind[0]
    if kind is None and ("properties" in schema or "required" in schema):
        return "object"
    if kind is None and "items" in schema:
        return "array"
    return kind


def _number(schema: dict[str, Any], step: float) -> float:
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + step)
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - step)
    value: float = min(max(0, low), high)
    return value


def _referred(reference: Any, root: dict[str, Any]) -> Any:
    place: Any = root
    for name in str(reference).removeprefix("#").strip("/").split("/"):
        if name == "":
            continue
        if not isinstance(place, dict) or name not in place:
            raise InvalidRequest(f"the schema's $ref {reference!r} leads nowhere")
        place = place[name]
    return place


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= part | {
            "properties": merged.get("properties", {}) | part.get("properties", {}),
            "required": [*merged.get("required", ()), *part.get("required", ())],
        }
    return merged
