"""The endpoint, called in memory: every refusal is one typed error in OpenAI's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from support.exchange import Answer, ask
from support.samples import a_context
from turnout.config.schema import DeadlineSettings
from turnout.console.api import Console
from turnout.console.default_model import DefaultModel
from turnout.core.clock import ManualClock
from turnout.core.events import Event, EventBus, RequestFinished
from turnout.core.words import Privacy
from turnout.dispatch.dispatcher import Dispatcher
from turnout.dispatch.traces import TraceStore
from turnout.gateway.connection import ServerLimits
from turnout.gateway.guard import Guard
from turnout.gateway.keys import KeyStore
from turnout.gateway.metrics import Metrics
from turnout.gateway.routes import Gateway
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.external import ExternalEngine, ExternalSettings
from turnout.tiers.scripted_transport import ScriptedTransport, json_response
from turnout.tiers.transport import HttpRequest

CHAT = b'{"messages":[{"role":"user","content":"hi"}]}'
TYPE = (b"content-type", b"application/json")


class House:
    """A gateway with its console over one external engine and a scripted transport."""

    def __init__(self, root: Path, privacy: Privacy = "any", **settings: Any) -> None:
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.subscribe(self.events.append)
        self.transport = ScriptedTransport(lambda request: self.reply(request))
        clock = ManualClock()
        self.fleet = Fleet({"näm": "local/far"}, {})
        context = a_context(root, self.transport, emit=self.bus.emit, clock=clock, on_change=self.fleet.changed)
        given = {"base_url": "http://127.0.0.1:9/v1", "model": "served", "roles": ["orchestrator"], **settings}
        self.fleet.add(ExternalEngine("far", ExternalSettings(engine="external", **given), context))
        self.keys = KeyStore(root / "keys.json")
        self.traces = TraceStore(root / "traces.sqlite3", 0, lambda reason, dropped: None)
        self.bus.subscribe(self.traces.hear)
        self.stops = 0
        self.default = DefaultModel(root / "default.json", self.fleet, self.bus.emit, lambda: 1)
        console = Console(status=self.status, traces=self.traces, default_model=self.default, shut_down=self.shut_down)
        metrics = Metrics()
        self.bus.subscribe(metrics.hear)
        self.gateway = Gateway(
            dispatcher=Dispatcher(self.fleet, clock, self.bus.emit, DeadlineSettings()),
            fleet=self.fleet,
            guard=Guard("127.0.0.1", [], [], self.keys, "token"),
            metrics=metrics,
            health=lambda: {"status": "ok"},
            console=console.app(),
            clock=clock,
            privacy=privacy,
        )

    def reply(self, request: HttpRequest) -> Any:
        return json_response({"echo": request.path, "model": msgspec.json.decode(request.body)["model"]})

    def status(self) -> dict[str, Any]:
        return {
            "version": "1", "url": "u<script>", "profile": "auto", "uptime_seconds": 1.0, "running_requests": 0,
            "targets": [msgspec.to_builtins(target) for target in self.fleet.snapshot.targets.values()],
        }  # fmt: skip

    def shut_down(self) -> None:
        self.stops += 1

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *headers: tuple[bytes, bytes],
        query: bytes = b"",
        host: bytes = b"localhost:1",
    ) -> Answer:
        target = quote(path, safe="/%").encode() + (b"?" + query if query else b"")
        given = [(b"host", host), *headers, *([(b"content-length", b"%d" % len(body))] if body else [])]
        lines = b"".join(b"%b: %b\r\n" % pair for pair in given)
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target, lines)
        return (await ask(self.gateway, head + body[:5], body[5:]))[0]

    async def chat(self, body: bytes = CHAT, *headers: tuple[bytes, bytes]) -> Answer:
        return await self.call("POST", "/v1/chat/completions", body, TYPE, *headers)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.mark.parametrize(
    ("path", "body", "upstream"),
    [("/v1/chat/completions", CHAT, "/chat/completions"), ("/v1/completions", b'{"prompt":"x"}', "/completions")],
)
async def test_a_request_reaches_its_engine_by_its_own_name(
    house: House, path: str, body: bytes, upstream: str
) -> None:
    answer = await house.call("POST", path, body, TYPE)

    assert (answer.status, answer.json) == (200, {"echo": upstream, "model": "served"})
    assert answer.headers[b"x-turnout-served-model"] == b"local/far"
    assert answer.headers[b"x-turnout-attempts"] == b"1"
    assert answer.headers[b"x-turnout-request-id"].startswith(b"req_")


@pytest.mark.parametrize(
    ("method", "path", "headers", "host", "status", "code"),
    [
        ("GET", "/nope", (), b"localhost", 404, "path_not_found"),
        ("GET", "/v1/chat", (), b"localhost", 404, "path_not_found"),
        ("GET", "/v1/models/local/nope", (), b"localhost", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", (), b"localhost", 405, "method_not_allowed"),
        ("DELETE", "/v1/chat/completions", (TYPE,), b"localhost", 405, "method_not_allowed"),
        ("POST", "/v1/models", (TYPE,), b"localhost", 405, "method_not_allowed"),
        ("OPTIONS", "/health", (), b"localhost", 405, "method_not_allowed"),
        ("DELETE", "/turnout/v1/status", (TYPE,), b"localhost", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", (), b"localhost", 415, "unsupported_media_type"),
        (
            "POST",
            "/v1/chat/completions",
            ((b"content-type", b"text/plain"),),
            b"localhost",
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/turnout/v1/shutdown",
            ((b"content-type", b"text/plain"),),
            b"localhost",
            415,
            "unsupported_media_type",
        ),
        ("GET", "/health", (), b"evil.com", 421, "foreign_host"),
        ("GET", "/", (), b"evil.com", 421, "foreign_host"),
        ("POST", "/v1/chat/completions", (TYPE, (b"origin", b"http://evil.com")), b"localhost", 403, "foreign_origin"),
        ("PUT", "/turnout/v1/default", (TYPE, (b"origin", b"null")), b"localhost", 403, "foreign_origin"),
    ],
)
async def test_each_refusal_is_typed(
    house: House, method: str, path: str, headers: tuple[tuple[bytes, bytes], ...], host: bytes, status: int, code: str
) -> None:
    answer = await house.call(method, path, b"", *headers, host=host)

    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["hint"]
    assert (b"allow" in answer.headers) is (status == 405)
    assert house.stops == 0


async def test_allow_names_the_methods_that_work(house: House) -> None:
    assert (await house.call("GET", "/v1/embeddings")).headers[b"allow"] == b"POST"
    assert (await house.call("POST", "/v1/models", b"", TYPE)).headers[b"allow"] == b"GET, HEAD"
    assert b"PUT" in (await house.call("GET", "/turnout/v1/default")).headers[b"allow"]


async def test_with_keys_everything_but_health_needs_one(house: House) -> None:
    secret = house.keys.create("phone", 1.0)
    for method, path, more in (
        ("GET", "/v1/models", ()), ("GET", "/metrics", ()), ("GET", "/", ()), ("POST", "/v1/chat/completions", (TYPE,)),
        ("GET", "/turnout/v1/status", ()), ("GET", "/nope", ()),
    ):  # fmt: skip
        answer = await house.call(method, path, b"", *more)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert answer.headers[b"www-authenticate"] == b"Bearer"
    assert (await house.call("GET", "/health")).status == 200
    assert (await house.chat(CHAT, (b"authorization", b"Bearer " + secret.encode()))).status == 200
    finished = [event for event in house.events if isinstance(event, RequestFinished)]
    assert finished[-1].trace.key_name == "phone"
    assert (await house.call("GET", "/turnout/v1/status", b"", (b"authorization", b"Bearer token"))).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/v1/models/local/far", "/v1/models/näm"])
async def test_reads_answer_get_and_head_alike(house: House, path: str) -> None:
    got, head = await house.call("GET", path), await house.call("HEAD", path)
    assert (got.status, head.status) == (200, 200)
    assert got.headers[b"content-length"] == head.headers[b"content-length"] == str(len(got.body)).encode()


async def test_a_path_is_decoded_once(house: House) -> None:
    answer = await house.call("GET", "/v1/models/local%252Ffar")
    assert answer.status == 404
    assert "'local/far'" in answer.error["hint"]


async def test_models_lists_what_may_be_asked_for(house: House) -> None:
    answer = await house.call("GET", "/v1/models")
    assert [entry["id"] for entry in answer.json["data"]] == ["auto", "local/far", "näm", "orchestrator"]


async def test_errors_of_a_request_carry_the_facts_of_the_route(house: House) -> None:
    unknown = await house.chat(b'{"model":"nope","messages":[{"role":"user","content":"x"}]}')
    assert (unknown.status, unknown.error["code"], unknown.error["param"]) == (404, "model_not_found", "model")
    assert unknown.headers[b"x-turnout-requested-model"] == b"nope"
    assert unknown.headers[b"x-turnout-attempts"] == b"0"
    assert unknown.headers[b"x-turnout-request-id"].decode() == unknown.error["request_id"]

    bad = await house.chat(b"{")
    assert (bad.status, bad.error["code"]) == (400, "invalid_json")
    assert bad.headers[b"x-turnout-request-id"].startswith(b"req_")
    wish = await house.chat(CHAT, (b"x-turnout-effort", b"99"))
    assert (wish.status, wish.error["param"]) == (400, "x-turnout-effort")


async def test_an_upstream_failure_is_told_as_one(house: House) -> None:
    house.reply = lambda request: json_response({"error": "boom"}, status=500)  # type: ignore[method-assign]
    answer = await house.chat()
    assert (answer.status, answer.error["source"], answer.error["retryable"]) == (502, "upstream", True)
    assert answer.headers[b"x-turnout-attempts"] == b"1"


@pytest.mark.parametrize(
    ("configured", "asked", "status"),
    [("any", None, 200), ("any", b"local-only", 403), ("local-only", None, 403), ("local-only", b"any", 403),
     ("no-frontier", b"any", 403), ("any", b"any", 200)],
)  # fmt: skip
async def test_a_header_may_only_tighten_privacy(
    tmp_path: Path, configured: Privacy, asked: bytes | None, status: int
) -> None:
    house = House(tmp_path, configured, base_url="http://gpu.lan:9/v1")
    headers = [(b"x-turnout-privacy", asked)] if asked else []
    assert (await house.chat(CHAT, *headers)).status == status


async def test_what_the_server_says_about_a_body_is_the_answer(house: House) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    pieces = (head + b"transfer-encoding: chunked\r\n\r\n", b'6\r\n{"a":1\r\n', b'6\r\n,"b":2\r\n')
    answer, transport = await ask(house.gateway, *pieces, limits=ServerLimits(body_bytes=10))
    assert answer.status == 413
    assert len(transport.writes) == 1
    assert transport.is_closed


async def test_metrics_count_requests_without_a_callers_words(house: House) -> None:
    await house.chat()
    await house.chat(b'{"model":"secret words","messages":[{"role":"user","content":"x"}]}')
    text = (await house.call("GET", "/metrics")).body.decode()

    assert 'turnout_requests_total{kind="chat",outcome="answered",target="local/far",tier="local"} 1.0' in text
    assert 'turnout_requests_total{kind="chat",outcome="wrong",target="none",tier="none"} 1.0' in text
    assert "secret" not in text


async def test_the_console_shows_traces_and_status(house: House) -> None:
    request_id = (await house.chat()).headers[b"x-turnout-request-id"].decode()

    listed = (await house.call("GET", "/turnout/v1/traces")).json["traces"]
    assert [trace["id"] for trace in listed] == [request_id]
    for name in (request_id, request_id[:-2], "last"):
        assert (await house.call("GET", f"/turnout/v1/traces/{name}")).json["id"] == request_id
    missing = await house.call("GET", "/turnout/v1/traces/req_nope")
    assert (missing.status, missing.error["code"]) == (404, "trace_not_found")
    assert (await house.call("GET", "/turnout/v1/status")).json["version"] == "1"


@pytest.mark.parametrize("limit", [b"0", b"1001", b"x", b"-1", b"1" * 5000, b"%C2%B2"])
async def test_a_limit_that_makes_no_sense_is_refused(house: House, limit: bytes) -> None:
    answer = await house.call("GET", "/turnout/v1/traces", query=b"limit=" + limit)
    assert (answer.status, answer.error["param"]) == (400, "limit")


async def test_the_page_is_plain_and_escapes_what_it_shows(house: House) -> None:
    await house.chat(b'{"model":"<script>x</script>","messages":[{"role":"user","content":"x"}]}')
    answer = await house.call("GET", "/")

    assert answer.headers[b"content-type"].startswith(b"text/html")
    assert b"<script" not in answer.body
    assert b"&lt;script&gt;" in answer.body
    assert b"local/far" in answer.body


async def test_the_default_is_chosen_by_name(house: House) -> None:
    async def put(body: bytes) -> Answer:
        return await house.call("PUT", "/turnout/v1/default", body, TYPE)

    assert (await put(b'{"target":"local/far"}')).json["chosen_by"] == "user"
    assert house.fleet.snapshot.default == "local/far"
    for body, status in (
        (b'{"target":"local/fat"}', 404),
        (b"{", 400),
        (b'{"x":"y"}', 400),
        (b'{"target":"\xff"}', 400),
        (b'{"target":3}', 400),
        (b"[" * 100_000, 400),
    ):
        answer = await put(body)
        assert (answer.status, answer.error["param"]) == (status, "target"), body[:20]
    assert (await put(b'{"target":""}')).json["target"] == ""


async def test_shutdown_answers_before_the_end(house: House) -> None:
    answer = await house.call("POST", "/turnout/v1/shutdown", b"{}", TYPE)
    assert (answer.status, answer.json, house.stops) == (202, {"stopping": True}, 1)
