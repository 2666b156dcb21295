"""What web pages can and cannot do to a daemon on loopback, over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.daemon import StartDaemon
from turnout.gateway.keys import KeyStore

FAST: dict[str, Any] = {"models": {"fast": {"engine": "simulated", "tokens_per_second": 5000}}}
BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
JSON = {"content-type": "application/json"}


async def test_every_refusal_has_its_status(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(FAST)
    chat = "/v1/chat/completions"

    async def post(content: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        given = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await daemon.client.post(chat, content=content, headers=given)
        error: dict[str, Any] = reply.json()["error"]
        assert {"message", "type", "param", "code", "hint"} <= set(error)
        assert error["hint"]
        assert reply.headers["x-turnout-request-id"].startswith("req_")
        return reply.status_code, error

    status, error = await post(b"{not json")
    assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_json")
    for messages in (b"", b', "messages": []', b', "messages": "Hi"', b', "messages": [1]', b', "messages": [{}]'):
        status, error = await post(b'{"model": "auto"' + messages + b"}")
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert error["param"].startswith("messages")
    status, error = await post(b'{"model": "local/fst", "messages": [{"role": "user", "content": "Hi"}]}')
    assert (status, error["code"]) == (404, "model_not_found")
    assert "'local/fast'" in error["hint"]
    assert (await post(b"{}", origin="https://evil.example"))[0] == 403
    assert (await post(b"{}", host="evil.example"))[0] == 421
    assert (await post(b"{}", content_type="text/plain"))[0] == 415
    assert (await daemon.client.get(chat)).status_code == 405
    assert (await daemon.client.get(chat)).headers["allow"] == "POST"
    assert (await daemon.client.get("/v1/nothing")).status_code == 404
    assert (await daemon.client.get("/v1/nothing")).json()["error"]["code"] == "path_not_found"
    assert (await daemon.client.get("/turnout/v1/nothing")).json()["error"]["hint"]
    assert (await daemon.client.delete("/turnout/v1/status", headers=JSON)).status_code == 405


async def test_a_page_that_may_call_can_read_the_answer(start_daemon: StartDaemon) -> None:
    origin = "https://chat.example"
    daemon = await start_daemon(FAST | {"server": {"allowed_origins": [origin]}})
    preflight = await daemon.client.options(
        "/v1/chat/completions",
        headers={"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-a"},
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == origin
    assert preflight.headers["access-control-allow-headers"] == "x-a"
    answer = await daemon.client.post("/v1/chat/completions", json=BODY, headers={"origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-origin" not in (await daemon.client.get("/v1/models")).headers
    foreign = await daemon.client.options("/v1/chat/completions", headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert "access-control-allow-origin" not in foreign.headers


async def test_keys_once_there_is_one(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(FAST)
    store = KeyStore(daemon.home / "config" / "turnout" / "keys.json")

    async def until(status: int, **headers: str) -> None:
        """The daemon looks at the key file ten times a second."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with asyncio.timeout(5):
            while (await daemon.client.get("/v1/models", headers=given)).status_code != status:
                pass

    assert (await daemon.client.get("/v1/models", headers={"authorization": "Bearer whatever"})).status_code == 200
    secret = store.create("laptop", 0.0)
    await until(401)
    refused = await daemon.client.get("/v1/models")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert (await daemon.client.get("/health")).status_code == 200
    assert (await daemon.client.get("/metrics")).status_code == 401
    assert (await daemon.client.get("/turnout/v1/status")).status_code == 401
    for headers in ({"authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
        answer = await daemon.client.post("/v1/chat/completions", json=BODY, headers=headers)
        assert answer.status_code == 200
    denied = await daemon.client.get("/turnout/v1/traces/last", headers={"x-api-key": secret})
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "operator_only")
    assert (await daemon.client.get("/", headers={"x-api-key": secret})).status_code == 403
    operator = store.create("desk", 1.0, is_operator=True)
    await until(200, x_api_key=operator)
    trace = (await daemon.client.get("/turnout/v1/traces/last", headers={"x-api-key": operator})).json()
    assert trace["key_name"] == "laptop"
    store.revoke("laptop")
    await until(401, x_api_key=secret)
    store.revoke("desk")
    await until(200)


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models"])
async def test_head_has_no_body(start_daemon: StartDaemon, path: str) -> None:
    daemon = await start_daemon(FAST)
    reply = await daemon.client.head(path)
    assert reply.status_code == 200
    assert not reply.content
