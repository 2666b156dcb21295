"""Where engines may already be running, and which pulled models nobody has configured."""

from __future__ import annotations

from typing import Any

from turnout.config.schema import DiscoverEntry, Settings
from turnout.tiers.base import Engine, EngineContext
from turnout.tiers.local.found import FoundServer
from turnout.tiers.local.llamacpp.engine import LlamaCppEngine, LlamaCppSettings
from turnout.tiers.local.ollama import DEFAULT_URL, OllamaEngine, OllamaSettings
from turnout.tiers.local.weights.source import list_pulled
from turnout.tiers.media.comfyui import DEFAULT_URL as COMFYUI_URL
from turnout.tiers.media.comfyui import ComfyUi

AUTO = (
    DiscoverEntry(engine="external", base_url="http://127.0.0.1:8000/v1"),
    DiscoverEntry(engine="external", base_url="http://127.0.0.1:8080/v1"),
    DiscoverEntry(engine="ollama", base_url=DEFAULT_URL),
    DiscoverEntry(engine="external", base_url="http://127.0.0.1:1234/v1"),
    DiscoverEntry(engine="comfyui", base_url=COMFYUI_URL),
)
"""The default ports of vLLM, llama-server, Ollama, LM Studio and ComfyUI; a vLLM comes first because it batches."""


def found_engines(settings: Settings, context: EngineContext) -> list[Engine]:
    """Return an engine for every place to look; each has no targets until something answers there.

    Args:
        settings: The configuration.
        context: What engines are given.
    """
    entries = AUTO if settings.discover == "auto" else settings.discover
    configured = {_base_url(entry).rstrip("/") for entry in settings.models.values()}
    engines: list[Engine] = []
    for entry in entries:
        if entry.engine == "ollama":
            named = [
                str(given.get("model", ""))
                for given in settings.models.values()
                if given.get("engine") == "ollama" and _base_url(given).rstrip("/") == entry.base_url.rstrip("/")
            ]
            it = OllamaSettings(engine="ollama", base_url=entry.base_url)
            engines.append(OllamaEngine("ollama", it, context, "found", named))
        elif entry.base_url.rstrip("/") in configured:
            continue  # its model is configured by name already
        elif entry.engine == "comfyui":
            engines.append(ComfyUi(entry.base_url, context))
        else:
            engines.append(FoundServer(entry.base_url, context))
    return [*engines, *pulled_engines(settings, context)]


def _base_url(entry: dict[str, Any]) -> str:
    usual = {"ollama": DEFAULT_URL, "comfyui": COMFYUI_URL}
    return str(entry.get("base_url") or usual.get(str(entry.get("engine")), ""))


def pulled_engines(settings: Settings, context: EngineContext) -> list[Engine]:
    """Return an engine for every pulled GGUF that no configured model uses: ``local/llamacpp/<name>``."""
    used = {str(entry.get("source", "")) for entry in settings.models.values()}
    engines: list[Engine] = []
    for model in list_pulled(context.paths.data_dir):
        if model.problem or not model.file.endswith(".gguf") or model.source in used:
            continue
        path = model.path_in(context.paths.data_dir)
        if not path.is_file():
            continue  # removed since the store was read
        source = f"file:{path}"
        engines.append(
            LlamaCppEngine(
                f"llamacpp/{model.name}", LlamaCppSettings(engine="llamacpp", source=source), context, "found"
            )
        )
    return engines
