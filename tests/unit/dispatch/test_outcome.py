"""What an upstream's status and body mean."""

from __future__ import annotations

import pytest

from turnout.core.errors import (
    Broken,
    Busy,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    NoTarget,
    NotSupported,
    RateLimited,
    TurnoutError,
    UpstreamFailed,
    UpstreamRejected,
)
from turnout.dispatch.outcome import ERROR_TEXT_CHARACTERS, classify, outcome_of, read_error

VLLM_OVERFLOW = (
    b'{"error":{"message":"This model\'s maximum context length is 4096 tokens. However, you requested 5000 tokens",'
    b'"type":"BadRequestError","param":null,"code":400}}'
)
VLLM_FLAT = b'{"object":"error","message":"temperature must be non-negative","type":"BadRequestError","code":400}'
LLAMA_OVERFLOW = (
    b'{"error":{"code":400,"message":"request (9000 tokens) exceeds the available context size (8192 tokens)",'
    b'"type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":8192}}'
)
LLAMA_LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
OPENAI_OVERFLOW = (
    b'{"error":{"message":"too long","type":"invalid_request_error","param":"messages",'
    b'"code":"context_length_exceeded"}}'
)
OLLAMA = b'{"error":"model \\"x\\" not found, try pulling it first"}'
FASTAPI = b'{"detail":[{"loc":["body","messages"],"msg":"field required"}]}'


@pytest.mark.parametrize(
    ("status", "body", "expected", "code", "outcome"),
    [
        (400, VLLM_OVERFLOW, ContextOverflow, "context_length_exceeded", "wrong"),
        (400, LLAMA_OVERFLOW, ContextOverflow, "context_length_exceeded", "wrong"),
        (400, OPENAI_OVERFLOW, ContextOverflow, "context_length_exceeded", "wrong"),
        (413, OPENAI_OVERFLOW, ContextOverflow, "context_length_exceeded", "wrong"),
        (400, b"the prompt is larger than the context size", ContextOverflow, "context_length_exceeded", "wrong"),
        (400, VLLM_FLAT, UpstreamRejected, "upstream_rejected", "wrong"),
        (400, b"", UpstreamRejected, "upstream_rejected", "wrong"),
        (400, b'{"error":{"message":"bad","code":"bad_tool","param":"tools"}}', UpstreamRejected, "bad_tool", "wrong"),
        (422, FASTAPI, UpstreamRejected, "upstream_rejected", "wrong"),
        (413, b"too large", UpstreamRejected, "upstream_rejected", "wrong"),
        (401, b'{"error":"Unauthorized"}', Broken, "upstream_auth", "broken"),
        (403, b"", Broken, "upstream_auth", "broken"),
        (404, OLLAMA, Broken, "upstream_not_found", "broken"),
        (405, b'{"detail":"Method Not Allowed"}', Broken, "upstream_not_found", "broken"),
        (429, b'{"error":{"message":"slow down"}}', RateLimited, "rate_limited", "busy"),
        (503, LLAMA_LOADING, Busy, "busy", "busy"),
        (500, b"<html>oops</html>", UpstreamFailed, "upstream_failed", "broken"),
        (502, b"", UpstreamFailed, "upstream_failed", "broken"),
        (302, b"", UpstreamFailed, "upstream_failed", "broken"),
        (418, b"", UpstreamFailed, "upstream_failed", "broken"),
        (500, VLLM_OVERFLOW, UpstreamFailed, "upstream_failed", "broken"),
    ],
)
def test_each_status_and_shape_has_one_meaning(
    status: int, body: bytes, expected: type[TurnoutError], code: str, outcome: str
) -> None:
    error = classify(status, body, "local/a")

    assert type(error) is expected
    assert (error.code, error.source, outcome_of(error)) == (code, "upstream", outcome)
    assert error.message
    assert error.hint


def test_the_callers_own_mistake_keeps_its_status_param_and_words() -> None:
    error = classify(422, b'{"error":{"message":"no such tool","param":"tools[0]"}}', "local/a")

    assert (error.status, error.param, error.message) == (422, "tools[0]", "no such tool")
    assert classify(400, b'{"error":{"message":"m","param":3,"code":400}}', "t").param is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"7", 7.0), (b"0.5", 0.5), (b"-3", 0.0), (b"1e300", 86_400.0), (b"nan", None), (b"inf", None), (b"", None),
     (b"Wed, 21 Oct 2026 07:28:00 GMT", None), (b"\xff", None), (None, None)],
)  # fmt: skip
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_passed_on_where_it_makes_sense(
    status: int, header: bytes | None, seconds: float | None
) -> None:
    assert classify(status, b"", "local/a", header).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"m"}}', "m"),
        (b'{"error":"text"}', "text"),
        (b'{"message":"flat"}', "flat"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"error":null,"message":"m"}', "m"),
        (b"{}", ""),
        (b"", ""),
        (b"not json", "not json"),
        (b'{"error":{"message":null}}', '{"error":{"message":null}}'),
        (b'{"error":{"message":"\xff"}}', '{"error":{"message":"\ufffd"}}'),
        (b'["a"]', '["a"]'),
        (b"x" * 5000, "x" * ERROR_TEXT_CHARACTERS),
        (b"[" * 100_000, "[" * ERROR_TEXT_CHARACTERS),
        (b'{"detail":' + b"[" * 100_000, '{"detail":' + "[" * (ERROR_TEXT_CHARACTERS - 10)),
    ],
)
def test_errors_are_read_whatever_their_shape(body: bytes, message: str) -> None:
    assert read_error(body).message == message


def test_long_texts_are_cut() -> None:
    assert len(classify(400, b'{"error":"' + b"y" * 5000 + b'"}', "t").message) == ERROR_TEXT_CHARACTERS


@pytest.mark.parametrize(
    ("error", "word"),
    [(InvalidRequest("x"), "wrong"), (NotSupported("x"), "refused"), (NoTarget("x"), "busy"),
     (DeadlineExceeded("x"), "broken"), (TurnoutError("x"), "broken")],
)  # fmt: skip
def test_every_error_has_a_word(error: TurnoutError, word: str) -> None:
    assert outcome_of(error) == word
