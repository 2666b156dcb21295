"""Engines that already run beside us, asked with a short deadline."""

from __future__ import annotations

import http.client
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from turnout.config.schema import Settings
from turnout.console.advice import FoundEngine
from turnout.core.clock import SystemClock
from turnout.core.errors import UNREADABLE_JSON
from turnout.core.words import Capability, Target
from turnout.tiers.local.discover import AUTO
from turnout.tiers.local.found import OWNERS

ASK_SECONDS = 1.0
ANSWER_BYTES = 1 << 20
PIECE_BYTES = 1 << 16


def running_engines(settings: Settings) -> list[FoundEngine]:
    """Return the engines that answer where the configuration says to look.

    Args:
        settings: The configuration.
    """
    places = AUTO if settings.discover == "auto" else settings.discover
    with ThreadPoolExecutor(max_workers=max(1, len(places))) as asking:  # each may take its time to say nothing
        found = list(asking.map(lambda place: _ask(place.engine, place.base_url.rstrip("/")), places))
    return [engine for engine in found if engine is not None]


def running_targets(settings: Settings) -> list[Target]:
    """Return the models of the engines that answer, as the daemon would list them.

    Args:
        settings: The configuration.
    """
    found = []
    for engine in running_engines(settings):
        sizes = _entries(_get(f"{engine.base_url}/api/tags")) if engine.engine == "ollama" else {}
        for name in engine.models:
            shown = _get(f"{engine.base_url}/api/show", {"model": name}) if engine.engine == "ollama" else {}
            can: Capability = "embedding" if "embedding" in shown.get("capabilities", ()) else "chat"
            found.append(
                Target(
                    name=f"local/{engine.engine}/{name}",
                    tier="local",
                    engine=engine.engine,
                    model=name,
                    can=frozenset({can}),
                    origin="found",
                    state="ready" if engine.is_loaded(name) else "cold",
                    size_bytes=sizes.get(name) or None,
                    is_loaded=engine.is_loaded(name),
                )
            )
    return found


def _entries(answer: dict[str, Any]) -> dict[str, int]:
    entries = answer.get("models")
    named = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {str(e.get("name")): size if isinstance(size := e.get("size"), int) else 0 for e in named}


def _ask(engine: str, url: str) -> FoundEngine | None:
    match engine:
        case "ollama":
            entries = _get(f"{url}/api/tags").get("models")
            if not isinstance(entries, list):
                return None
            names = [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]
            running = _get(f"{url}/api/ps").get("models")
            loaded = [entry for entry in running if isinstance(entry, dict)] if isinstance(running, list) else []
            return FoundEngine(
                engine="ollama",
                base_url=url,
                models=tuple(names),
                loaded=tuple(str(entry.get("name")) for entry in loaded),
                context_tokens={
                    str(entry.get("name")): size
                    for entry in loaded
                    if isinstance(size := entry.get("context_length"), int)
                },
            )
        case "comfyui":
            system = _get(f"{url}/system_stats").get("system")
            if not isinstance(system, dict) or "comfyui_version" not in system:
                return None
            return FoundEngine(engine="comfyui", base_url=url, version=str(system["comfyui_version"]))
        case _:
            return _ask_openai(url)


def _ask_openai(url: str) -> FoundEngine | None:
    """Return a vLLM, a llama-server or an LM Studio; None for a stranger."""
    listed = _entries_of(_get(f"{url}/models"))
    for owner, engine in OWNERS.items():
        names = tuple(str(entry.get("id")) for entry in listed if entry.get("owned_by") == owner)
        if names:
            return FoundEngine(engine=engine, base_url=url, models=names, loaded=names)
    studio = _entries_of(_get(f"{url.removesuffix('/v1')}/api/v0/models")) if listed else []
    if not studio or not all("type" in entry and "state" in entry for entry in studio):
        return None
    return FoundEngine(
        engine="lm-studio",
        base_url=url,
        models=tuple(str(entry.get("id")) for entry in studio),
        loaded=tuple(str(entry.get("id")) for entry in studio if entry.get("state") == "loaded"),
    )


def _entries_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    entries = answer.get("data")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: who answers has to be who was asked."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse."""
        return


def _get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    # No proxy: it could not reach our loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    until = SystemClock().monotonic_seconds() + ASK_SECONDS
    data = b""
    try:
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())  # noqa: S310  ours
        with opener.open(request, timeout=ASK_SECONDS) as response:
            while piece := response.read1(PIECE_BYTES):
                data += piece
                if len(data) > ANSWER_BYTES or SystemClock().monotonic_seconds() > until:
                    return {}  # whoever sends by drops, or without an end, is none of these
        answer = msgspec.json.decode(data)
    except (OSError, ValueError, http.client.HTTPException, *UNREADABLE_JSON):
        return {}
    return answer if isinstance(answer, dict) else {}
