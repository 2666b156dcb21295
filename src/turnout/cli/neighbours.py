"""Engines that already run beside us, asked with a short deadline."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from turnout.config.schema import Settings
from turnout.console.advice import FoundEngine

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


def _ask(engine: str, url: str) -> FoundEngine | None:
    is_ollama = engine == "ollama"
    answer = _get(f"{url}/api/tags" if is_ollama else f"{url}/models")
    entries = answer.get("models" if is_ollama else "data")
    if not isinstance(entries, list):
        return None
    names = [str(e.get("name" if is_ollama else "id")) for e in entries if isinstance(e, dict)]
    return FoundEngine(engine="ollama" if is_ollama else "vllm", base_url=url, models=tuple(names))


def _get(url: str) -> dict[str, Any]:
    # No proxy: it could not reach our loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ASK_SECONDS) as response:
            answer = json.loads(response.read(1 << 20))
    except (OSError, ValueError, urllib.error.URLError):
        return {}
    return answer if isinstance(answer, dict) else {}
