"""The routed transport sends each URL to the client that can serve it."""

from __future__ import annotations

import pytest

from turnout.tiers.routed_transport import RoutedTransport
from turnout.tiers.scripted_transport import ScriptedTransport, json_response
from turnout.tiers.transport import Deadlines, HttpRequest


@pytest.mark.parametrize(
    ("base_url", "proxy", "choice"),
    [
        ("http://127.0.0.1:9001", "", "plain"),
        ("http://127.0.0.1:9001", "http://proxy:1", "plain"),
        ("http://[::1]:9001", "http://proxy:1", "plain"),
        ("http://localhost:9001", "http://proxy:1", "plain"),
        ("http+unix:///run/engine.sock", "http://proxy:1", "plain"),
        ("http://gpu-box:8000", "", "plain"),
        ("http://gpu-box:8000", "http://proxy:1", "general"),
        ("http://direct-box:8000", "http://proxy:1", "plain"),
        ("https://api.example.com/v1", "", "general"),
    ],
)
async def test_choice(base_url: str, proxy: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "direct-box")
    fakes = {"plain": ScriptedTransport([json_response(1)]), "general": ScriptedTransport([json_response(1)])}
    routed = RoutedTransport(plain=fakes["plain"], general=fakes["general"])

    await routed.send(HttpRequest("GET", base_url, "/"), Deadlines())
    await routed.aclose()

    assert {name for name, fake in fakes.items() if fake.requests} == {choice}
    assert all(fake.is_closed for fake in fakes.values())


async def test_the_environment_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    plain = ScriptedTransport([json_response(1)])
    routed = RoutedTransport(plain=plain, general=ScriptedTransport(), trust_env=False)

    await routed.send(HttpRequest("GET", "http://gpu-box:8000", "/"), Deadlines())

    assert len(plain.requests) == 1
