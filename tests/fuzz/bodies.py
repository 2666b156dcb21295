"""Any bytes as a request's body: a good request or InvalidRequest, and no other value changes with the model's name.

An input is one control byte (the kind of request and the new name) and then the body.
"""

from __future__ import annotations

import json
from typing import Any

from turnout.core.errors import InvalidRequest
from turnout.core.words import Request, RequestKind
from turnout.gateway.openai import RequestHeaders, error_body, read_request

KINDS: tuple[RequestKind, ...] = ("chat", "completion", "embedding")
NAMES = ("local/tiny", 'a"b\\c', "modèle\u2028", "")
BODIES = (
    '{"model":"auto","messages":[{"role":"user","content":"Hello"}]}',
    '{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{}}]}]}',
    (
        '{"stream":true,"stream_options":{"include_usage":true},"max_tokens":5,"temperature":0.5,"stop":["a","b"],"n":1,'
        '"messages":[{"role":"user","content":""}]}'
    ),
    (
        '{"model":"m","messages":[{"role":"tool","content":null,"tool_call_id":"1"}],"tools":[{"type":"function"}],'
        '"response_format":{"type":"json_object"},"seed":-1,"top_p":1e-3,"user":"u","unknown":{"x":[1,2.50,{}]}}'
    ),
    '{"model":"m","prompt":"Once","max_tokens":16,"logit_bias":{"50256":-100}}',
    '{"model":"m","prompt":[1,2,3],"stream":false}',
    '{"input":["a","b"],"encoding_format":"base64","dimensions":8}',
    '{"input":"\\u00e4\\ud83d\\ude00 \\u0000","model":"e\\u006d","model":"last"}',
    '{"input":[[1,2],[3]],"big":123456789012345678901234567890,"small":1E-400,"deep":[[[[[[[[{"a":[]}]]]]]]]]}',
    ' \n{"prompt" : "ä€😀" , "x\\n\\"y" : "\\/\\b\\f" , "" : -0.0 , "e" : 1e5 }\r\n',
)
TEXTS = (
    "{", "}", "[", "]", ",", ":", '"', "\\", "null", "true", "false", "0", "-0", "1e999", "-", "NaN", "Infinity",
    "1.", ".5", "01", "18446744073709551616", "9" * 400, '"model":', '"model":null', '"model":"x"', '"messages":[]',
    '"stream":"yes"', '"prompt":', '"input":', '""', '"a":1,', '"a":2,', "\\u0000", "\\ud800", "\\u", "\\x",
    "\ud800", "\ufeff", "\u2028", "\0", "\x1f", "\t", "\n", "/**/", "'", "[" * 200, "]" * 200, '{"a":' * 100, "😀",
)  # fmt: skip
WORDS = (*(text.encode("utf-8", "surrogatepass") for text in TEXTS), b"\xff", b"\xc0\x80", b"\xf0\x9f\x98")


def _loads(data: bytes) -> Any:
    """Return JSON with every number as its text: none may change by a digit."""

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    return json.loads(data.decode(), parse_int=_Number, parse_float=_Number, parse_constant=refuse)


class _Number(str):
    """A number's text, which is equal to no string's text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Number) and str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


class Bodies:
    """The target."""

    name = "bodies"
    seeds: tuple[bytes, ...] = tuple(bytes([kind]) + body.encode() for kind in range(6) for body in BODIES)
    words: tuple[bytes, ...] = WORDS
    fixed_bytes = 1

    def check(self, data: bytes) -> Request | InvalidRequest:
        """Read one body; return the request or the error.

        Raises:
            AssertionError: An invariant is broken.
        """
        control, sent = (data[:1] or b"\0")[0], data[1:]
        kind = KINDS[control % len(KINDS)]
        name = NAMES[control // len(KINDS) % len(NAMES)]
        try:
            request, body = read_request(kind, sent, "req_1", RequestHeaders())
        except InvalidRequest as error:
            error_body(error, "req_1")  # it can be told
            return error
        assert body.data == sent
        rewritten = body.with_model(name)
        try:
            before = _loads(sent)
        except (ValueError, RecursionError) as error:
            raise AssertionError(f"taken, but no JSON: {error}") from error
        assert _loads(rewritten) == {**before, "model": name}, f"{rewritten!r}"
        assert request.selector == before.get("model", "auto")
        return request

    def close(self) -> None:
        """Nothing to give back."""
