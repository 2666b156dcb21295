"""Reading a body for what routing needs, without touching the rest; and errors in OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.core.errors import InvalidRequest, NoTarget
from turnout.core.words import RequestKind
from turnout.gateway.openai import (
    MODEL_CHARACTERS,
    CompletionFacts,
    RequestHeaders,
    error_body,
    read_request,
    read_wishes,
)

NOTHING = RequestHeaders()
GOOD: dict[RequestKind, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "completion": {"prompt": "hi"},
    "embedding": {"input": "hi"},
}
KINDS: tuple[RequestKind, ...] = ("chat", "completion", "embedding")


def read(kind: RequestKind, data: bytes | dict[str, Any]) -> Any:
    return read_request(kind, data if isinstance(data, bytes) else json.dumps(data).encode(), "req_1", NOTHING)


def refused(kind: RequestKind, data: bytes | dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        read(kind, data)
    assert raised.value.status == 400
    assert raised.value.hint
    return raised.value


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_that_is_needed_is_enough(kind: RequestKind) -> None:
    request, _ = read(kind, GOOD[kind])
    assert (request.kind, request.selector, request.stream, request.tools, request.json) == (
        kind,
        "auto",
        False,
        False,
        False,
    )
    assert request.body_bytes == len(json.dumps(GOOD[kind]))


def test_the_facts_of_a_request_are_read() -> None:
    body = GOOD["chat"] | {"model": "fast", "stream": True, "tools": [{}], "response_format": {"type": "json_object"}}
    wishes = RequestHeaders(effort=3, privacy="local-only", deadline_seconds=1.5)
    request, _ = read_request("chat", json.dumps(body).encode(), "req_7", wishes)

    assert (request.id, request.selector, request.stream, request.tools, request.json) == (
        "req_7",
        "fast",
        True,
        True,
        True,
    )
    assert (request.effort, request.privacy, request.deadline_seconds) == (3, "local-only", 1.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"model": "a"',
        b"nonsense",
        b'{"a":1} x',
        b"{'a': 1}",
        b'{"a": 01}',
        b'{"a": NaN}',
        b"\xff\xfe",
        b'\xef\xbb\xbf{"a":1}',
        b'{"a": "\x01"}',
        b'{"a": "\\q"}',
        b'{"a" 1}',
        b'{"a":1,}',
    ],
)
def test_what_is_not_json_is_told_so(kind: RequestKind, data: bytes) -> None:
    error = refused(kind, data)
    assert error.code == "invalid_json"
    assert "not valid JSON" in error.message


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_is_not_utf8_is_refused_wherever_it_is(kind: RequestKind) -> None:
    good = json.dumps(GOOD[kind]).encode()
    for bad in (
        good.replace(b"hi", b"h\xff"), good[:-1] + b', "x": "\xff"}', good[:-1] + b', "\xff": 1}',
        good[:-1] + b', "x": [{"y": "\xc3("}]}',
    ):  # fmt: skip
        assert refused(kind, bad).code == "invalid_json"
    assert read(kind, good.replace(b"hi", "hé🎉".encode()))


@pytest.mark.parametrize("kind", KINDS)
def test_nesting_without_end_is_refused(kind: RequestKind) -> None:
    for opening in (b"[", b'{"a":'):
        data = json.dumps(GOOD[kind]).encode()[:-1] + b', "x": ' + opening * 100_000
        assert refused(kind, data).code == "invalid_json"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [b"[]", b"null", b"3", b'"text"', b"true"])
def test_json_that_is_no_object_is_refused(kind: RequestKind, data: bytes) -> None:
    error = refused(kind, data)
    assert error.code == "invalid_type"
    assert "expected object" in error.message


@pytest.mark.parametrize(
    ("kind", "body", "param", "code"),
    [
        ("chat", {}, "messages", "missing_field"),
        ("chat", {"messages": []}, "messages", "invalid_request"),
        ("chat", {"messages": None}, "messages", "invalid_type"),
        ("chat", {"messages": "hi"}, "messages", "invalid_type"),
        ("chat", {"messages": {}}, "messages", "invalid_type"),
        ("chat", {"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ("chat", {"messages": [{"role": "user"}, {"content": "x"}]}, "messages[1].role", "missing_field"),
        ("chat", {"messages": [{"role": 3}]}, "messages[0].role", "invalid_type"),
        ("chat", {"messages": [{"role": None}]}, "messages[0].role", "invalid_type"),
        ("chat", {"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
        ("chat", {"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "invalid_type"),
        ("chat", GOOD["chat"] | {"tools": "x"}, "tools", "invalid_type"),
        ("chat", GOOD["chat"] | {"response_format": "json"}, "response_format", "invalid_type"),
        ("completion", {}, "prompt", "missing_field"),
        ("completion", {"prompt": ""}, "prompt", "invalid_request"),
        ("completion", {"prompt": []}, "prompt", "invalid_request"),
        ("completion", b'{"prompt": [ \n ]}', "prompt", "invalid_request"),
        ("completion", {"prompt": None}, "prompt", "invalid_request"),
        ("completion", {"prompt": 3}, "prompt", "invalid_request"),
        ("completion", {"prompt": {}}, "prompt", "invalid_request"),
        ("completion", {"prompt": True}, "prompt", "invalid_request"),
        ("embedding", {}, "input", "missing_field"),
        ("embedding", {"input": ""}, "input", "invalid_request"),
        ("embedding", {"input": []}, "input", "invalid_request"),
        ("embedding", GOOD["embedding"] | {"dimensions": "3"}, "dimensions", "invalid_type"),
        ("embedding", GOOD["embedding"] | {"encoding_format": 3}, "encoding_format", "invalid_type"),
    ],
)
def test_each_wrong_field_is_named(kind: RequestKind, body: Any, param: str, code: str) -> None:
    error = refused(kind, body)
    assert (error.param, error.code) == (param, code)
    assert param in error.message


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 3),
        ("model", None),
        ("model", ["a"]),
        ("stream", "true"),
        ("stream", 1),
        ("max_tokens", "5"),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_completion_tokens", []),
        ("n", "1"),
        ("temperature", "hot"),
        ("top_p", {}),
        ("seed", 0.5),
        ("stop", 3),
        ("stop", [3]),
        ("presence_penalty", "x"),
        ("stream_options", True),
        ("user", 3),
    ],
)
def test_each_mistyped_option_is_named(kind: RequestKind, field: str, value: Any) -> None:
    error = refused(kind, GOOD[kind] | {field: value})
    assert error.code == "invalid_type"
    assert error.param is not None
    assert error.param.partition("[")[0] == field


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("stream", None), ("max_tokens", None), ("max_tokens", 10**30), ("temperature", 1), ("stop", "x"), ("stop", ["x"]),
     ("seed", -(2**63)), ("unknown", {"deep": [1]}), ("stream_options", {"include_usage": True}), ("n", 2)],
)  # fmt: skip
def test_null_and_what_engines_judge_themselves_pass_through(kind: RequestKind, field: str, value: Any) -> None:
    _, body = read(kind, GOOD[kind] | {field: value})
    assert json.loads(body.with_model("m"))[field] == value


@pytest.mark.parametrize(
    "message",
    [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "x", "tool_call_id": "1"},
     {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, {"role": "developer"}],
)  # fmt: skip
def test_every_kind_of_message_passes(message: dict[str, Any]) -> None:
    assert read("chat", {"messages": [message]})


@pytest.mark.parametrize("value", [["a", "b"], [1, 2], [[1, 2], [3]], " "])
def test_lists_and_token_ids_are_prompts_and_inputs(value: Any) -> None:
    assert read("completion", {"prompt": value})
    assert read("embedding", {"input": value})


def test_an_empty_or_endless_model_is_refused() -> None:
    assert refused("chat", GOOD["chat"] | {"model": ""}).param == "model"
    too_long = refused("chat", GOOD["chat"] | {"model": "x" * (MODEL_CHARACTERS + 1)})
    assert too_long.param == "model"
    assert len(too_long.message) < 100
    assert read("chat", GOOD["chat"] | {"model": "x" * MODEL_CHARACTERS})


def test_of_a_key_twice_the_last_counts_everywhere() -> None:
    request, body = read("completion", b'{"model":"a","prompt":"x","model":"b","prompt":"y"}')
    assert request.selector == "b"
    assert json.loads(body.with_model("m")) == {"model": "m", "prompt": "y"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
extras = st.dictionaries(st.text().filter(lambda key: key not in CompletionFacts.__struct_fields__), values, max_size=6)


@given(extras, st.text(), st.booleans(), st.sampled_from([None, 0, 2]))
def test_replacing_the_model_changes_nothing_else(
    extra: dict[str, Any], model: str, is_ascii: bool, indent: int | None
) -> None:
    given_body = GOOD["completion"] | {"model": "old"} | extra
    data = json.dumps(given_body, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    _, body = read("completion", data)

    sent = body.with_model("new")
    assert json.loads(sent) == given_body | {"model": "new"}
    assert body.data == data


@given(values)
def test_the_bytes_of_a_value_stay_as_they_were_written(value: Any) -> None:
    raw = json.dumps(value, indent=1).encode()
    _, body = read("completion", b'{"prompt":"x","extra":' + raw + b"}")
    assert raw in body.with_model("m")


@pytest.mark.parametrize(
    "raw", [b"1E400", b"0.10000000000000000000001", b"123456789012345678901234567890", b'"\\u00e9\\/"', b"-0.0"]
)
def test_numbers_and_escapes_that_python_would_rewrite_are_kept(raw: bytes) -> None:
    _, body = read("completion", b'{"prompt":"x","extra":' + raw + b"}")
    assert b'"extra":' + raw in body.with_model("m")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("value", "seconds"), [(0, 0.0), (-1, -1.0), ("5m", 300.0), (2.5, 2.5), (None, None)])
def test_keep_alive_is_read_and_goes_no_further(kind: RequestKind, value: Any, seconds: float | None) -> None:
    given_body = GOOD[kind] | {"model": "old", "extra": [1]}
    request, body = read(kind, given_body | {"keep_alive": value})
    assert request.keep_alive_seconds == seconds
    assert json.loads(body.with_model("new")) == given_body | {"model": "new"}


def test_without_keep_alive_the_body_is_not_read_again() -> None:
    request, body = read("chat", b'{"model": "old",  "messages": [{"role": "user", "content": "keep_alive"}]}')
    assert request.keep_alive_seconds is None
    assert body.with_model("n") == b'{"model": "n",  "messages": [{"role": "user", "content": "keep_alive"}]}'


@pytest.mark.parametrize("value", ["soon", "", "5x", True, [], {}])
def test_a_keep_alive_that_makes_no_sense_is_refused(value: Any) -> None:
    error = refused("chat", GOOD["chat"] | {"keep_alive": value})
    assert error.param == "keep_alive"


def test_the_body_says_it_before_the_header_does() -> None:
    header = wishes(**{"keep-alive": "10m"})
    assert header.keep_alive_seconds == 600.0

    def seconds(**extra: Any) -> float | None:
        data = json.dumps(GOOD["chat"] | extra).encode()
        return read_request("chat", data, "req_1", header)[0].keep_alive_seconds

    assert (seconds(), seconds(keep_alive=None), seconds(keep_alive=0)) == (600.0, 600.0, 0.0)


def wishes(**headers: str) -> RequestHeaders:
    return read_wishes(
        [(b"accept", b"x"), *((f"x-turnout-{k}".encode(), v.encode("latin-1")) for k, v in headers.items())]
    )


def test_wishes_are_read_from_the_headers() -> None:
    found = wishes(**{"effort": " 7 ", "privacy": "no-frontier", "deadline-ms": "1500", "unheard-of": "anything"})
    assert found == RequestHeaders(effort=7, privacy="no-frontier", deadline_seconds=1.5)
    found = wishes(priority="interactive", session="chat 1", progress="true")
    assert found == RequestHeaders(priority="interactive", session="chat 1", progress=True)
    assert wishes(progress="false") == wishes() == RequestHeaders()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("effort", "0"),
        ("effort", "11"),
        ("effort", "high"),
        ("effort", "-1"),
        ("effort", "1.5"),
        ("effort", ""),
        ("effort", "²"),
        ("effort", "1" * 5000),
        ("privacy", "none"),
        ("privacy", "ANY"),
        ("privacy", ""),
        ("deadline-ms", "0"),
        ("deadline-ms", "86400001"),
        ("deadline-ms", "soon"),
        ("deadline-ms", "1e3"),
        ("deadline-ms", "9" * 5000),
        ("priority", "urgent"),
        ("priority", ""),
        ("session", ""),
        ("session", "x" * 201),
        ("session", "é"),
        ("progress", "yes"),
        ("progress", ""),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        wishes(**{name: value})
    assert raised.value.param == f"x-turnout-{name}"
    assert raised.value.status == 400


def test_an_error_has_openais_shape_with_our_additions() -> None:
    error = NoTarget('no "target"', hint="wait", param="model")
    assert msgspec.json.decode(error_body(error, "req_1")) == {
        "error": {
            "message": 'no "target"', "type": "overloaded_error", "param": "model", "code": "no_target_available",
            "hint": "wait", "source": "gateway", "retryable": True, "request_id": "req_1",
        }
    }  # fmt: skip
