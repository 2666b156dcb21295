"""What the simulated worker says: length, determinism, tool calls, instances of schemas, vectors."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from turnout.core.errors import InvalidRequest
from turnout.tiers.local.simulated.replies import Reply, base64_vector, embedding, reply_to, schema_instance
from turnout.tiers.local.simulated.requests import ChatRequest, EmbeddingRequest, count_tokens

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def reply(text: str = "hello", *, room: int = 8000, tokens: int = 0, worker_seed: int = 0, **fields: Any) -> Reply:
    request = msgspec.convert({"messages": [{"role": "user", "content": text}]} | fields, ChatRequest)
    return reply_to(request, request.prompt(), seed=worker_seed, tokens=tokens, room=room)


def test_the_same_request_has_the_same_answer() -> None:
    assert reply("hello") == reply("hello")
    different = [reply("hello"), reply("hello!"), reply("hello", seed=1), reply("hello", worker_seed=1)]
    assert len({answer.text() for answer in different}) == 4


def test_an_answer_stops_by_itself_or_at_the_limit() -> None:
    free = reply()
    assert 48 <= len(free.pieces) <= 175
    assert free.finish_reason == "stop"
    short = reply(max_tokens=5)
    assert (list(short.pieces), short.finish_reason) == (list(free.pieces)[:5], "length")
    assert list(reply(max_completion_tokens=7, max_tokens=5).pieces) == list(free.pieces)[:7]
    assert reply(max_tokens=5000).pieces == free.pieces
    assert len(reply(max_tokens=500, ignore_eos=True).pieces) == 500
    assert len(reply(tokens=300).pieces) == 300
    assert len(reply(room=9).pieces) == 9


def test_tools_are_called_when_asked_for() -> None:
    assert reply(tools=[TOOL]).function_name == ""
    assert reply("please call the tool now", tools=[TOOL]).function_name == "look"
    assert reply("please call the tool now", tools=[TOOL], tool_choice="none").function_name == ""
    required = reply(tools=[TOOL], tool_choice="required")
    assert (required.function_name, required.text(), required.finish_reason) == ("look", "{}", "tool_calls")
    named = {"type": "function", "function": {"name": "look"}}
    assert reply(tools=[TOOL], tool_choice=named).function_name == "look"
    with pytest.raises(InvalidRequest, match="'gone'"):
        reply(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "gone"}})


def test_after_the_result_of_a_tool_the_answer_is_words() -> None:
    messages = [{"role": "user", "content": "call the tool"}, {"role": "tool", "content": "42"}]
    assert reply(messages=messages, tools=[TOOL]).function_name == ""


NODE = {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["next"]}
PERSON = {
    "type": "object",
    "$defs": {"color": {"enum": ["red", "blue"]}},
    "properties": {
        "name": {"type": "string", "minLength": 3},
        "age": {"type": "integer", "minimum": 18},
        "size": {"type": "number", "exclusiveMinimum": 0, "maximum": 3},
        "color": {"$ref": "#/$defs/color"},
        "kind": {"const": "person"},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
        "note": {"type": ["null", "string"]},
        "unneeded": {"type": "string"},
    },
    "required": ["name", "age", "size", "color", "kind", "tags", "note"],
}


@pytest.mark.parametrize(
    "schema",
    [
        PERSON,
        NODE,
        {"type": "array", "items": PERSON["properties"]["name"], "minItems": 1},  # type: ignore[index]
        {"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}, {"required": ["b"]}]},
        {"type": "integer", "maximum": -3},
        {"properties": {"a": {}}, "required": ["a"]},
        {"items": {"type": "string"}},
        {},
    ],
)
def test_instances_fit_their_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(schema_instance(schema))


def test_an_answer_in_json_fits_the_response_format() -> None:
    answer = reply(response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}})
    Draft202012Validator(PERSON).validate(json.loads(answer.text()))
    assert answer.finish_reason == "stop"
    assert reply(response_format={"type": "json_object"}).text() == "{}"
    assert reply(response_format={"type": "text"}).text() == reply().text()


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#/$defs/gone"}, {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]}],
)
def test_schemas_without_an_instance_are_the_callers_mistake(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        schema_instance(schema)


@given(text=st.text(), dimensions=st.integers(min_value=1, max_value=64), seed=st.integers())
def test_vectors_are_deterministic_and_of_length_1(text: str, dimensions: int, seed: int) -> None:
    vector = embedding(text, seed=seed, dimensions=dimensions)
    assert len(vector) == dimensions
    assert math.hypot(*vector) == pytest.approx(1.0)
    assert vector == embedding(text, seed=seed, dimensions=dimensions)


def test_base64_is_the_same_vector_in_32_bits() -> None:
    vector = embedding("hello", seed=0, dimensions=8)
    assert struct.unpack("<8f", base64.b64decode(base64_vector(vector))) == pytest.approx(vector)


@pytest.mark.parametrize(
    ("given_input", "texts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], ["1 2"]), ([[1, 2], [3]], ["1 2", "3"])],
)
def test_embedding_inputs_come_in_four_shapes(given_input: Any, texts: list[str]) -> None:
    assert msgspec.convert({"input": given_input}, EmbeddingRequest).texts() == texts


@pytest.mark.parametrize("given_input", [[], ["a", 1]])
def test_other_embedding_inputs_are_refused(given_input: Any) -> None:
    with pytest.raises(InvalidRequest):
        msgspec.convert({"input": given_input}, EmbeddingRequest).texts()


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ééé", 2)])
def test_a_token_is_four_bytes(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens
