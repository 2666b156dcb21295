"""Engines that already run beside us, asked with a short deadline."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from turnout.config.schema import Settings
from turnout.console.advice import FoundEngine
from turnout.core.words import Capability, Target

ASK_SECONDS = 1.0
VLLM_URL = "http://127.0.0.1:8000/v1"
OLLAMA_URL = "http://127.0.0.1:11434"


def running_engines(settings: Settings) -> list[FoundEngine]:
    """Return the engines that answer where the configuration says to look.

    Args:
        settings: The configuration.
    """
    if settings.discover == "auto":
        places = [("external", VLLM_URL), ("ollama", OLLAMA_URL)]
    else:
        places = [(entry.engine, entry.base_url.rstrip("/")) for entry in settings.discover]
    found = [_ask(engine, url) for engine, url in places]
    return [engine for engine in found if engine is not None]


def running_targets(settings: Settings) -> list[Target]:
    """Return the models of the engines that answer, as the daemon would list them.

    Args:
        settings: The configuration.
    """
    found = []
    for engine in running_engines(settings):
        loaded = _entries(_get(f"{engine.base_url}/api/ps")) if engine.engine == "ollama" else {}
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
                    state="ready" if engine.engine == "vllm" or name in loaded else "cold",
                    size_bytes=sizes.get(name) or None,
                    is_loaded=name in loaded,
                )
            )
    return found


def _entries(answer: dict[str, Any]) -> dict[str, int]:
    entries = answer.get("models")
    named = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {str(e.get("name")): size if isinstance(size := e.get("size"), int) else 0 for e in named}


def _ask(engine: str, url: str) -> FoundEngine | None:
    is_ollama = engine == "ollama"
    answer = _get(f"{url}/api/tags" if is_ollama else f"{url}/models")
    entries = answer.get("models" if is_ollama else "data")
    if not isinstance(entries, list):
        return None
    names = [str(e.get("name" if is_ollama else "id")) for e in entries if isinstance(e, dict)]
    return FoundEngine(engine="ollama" if is_ollama else "vllm", base_url=url, models=tuple(names))


def _get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    # No proxy: it could not reach our loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())  # noqa: S310  ours
        with opener.open(request, timeout=ASK_SECONDS) as response:
            answer = json.loads(response.read(1 << 20))
    except (OSError, ValueError, urllib.error.URLError):
        return {}
    return answer if isinstance(answer, dict) else {}
