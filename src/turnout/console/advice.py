"""Better models on this machine: what fits its cards or its memory, and the exact lines that use it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from turnout.tiers.local.devices.nvml import Card

GIB = 2**30


class FoundEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that answers on this machine.

    Attributes:
        engine: Which one.
        base_url: Where.
        models: The names that it lists.
        loaded: Those of them that it says are loaded.
        version: Of the program, where it tells.
        context_tokens: Of loaded models, where it tells.
    """

    engine: Literal["vllm", "llama-server", "ollama", "lm-studio", "comfyui"]
    base_url: str
    models: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    version: str = ""
    context_tokens: dict[str, int] = {}

    def is_loaded(self, name: str) -> bool:
        """Return whether it says that a model is loaded."""
        return name in self.loaded


class Size(NamedTuple):
    """A size of a model family, and the card that holds it with its context.

    Attributes:
        card_gib: Memory that weights (4 bit) and some thousand tokens of context take, rounded up.
        vllm: The repository that vLLM serves.
        gguf: The repository that llama.cpp serves.
        ollama: Ollama's name for it.
    """

    card_gib: float
    vllm: str
    gguf: str
    ollama: str


SIZES = (
    Size(23.0, "Qwen/Qwen3-32B-AWQ", "Qwen/Qwen3-32B-GGUF", "qwen3:32b"),
    Size(14.5, "Qwen/Qwen3-14B-AWQ", "Qwen/Qwen3-14B-GGUF", "qwen3:14b"),
    Size(9.5, "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B-GGUF", "qwen3:8b"),
    Size(5.5, "Qwen/Qwen3-4B-AWQ", "Qwen/Qwen3-4B-GGUF", "qwen3:4b"),
    Size(0.0, "Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B-GGUF", "qwen3:1.7b"),
)
"""Largest first. The weights take about 20, 9, 5 and 2.5 GB at 4 bit; the smallest is 1.8 GB at 8 bit."""
WITHOUT_CARD = SIZES[3]
"""A CPU reads every weight for each token: 4B at 4 bit is what an ordinary one still turns into readable speed."""


def better_models(cards: Sequence[Card], found: Sequence[FoundEngine]) -> list[str]:
    """Return the lines that say how to get a better model than the demonstration.

    Args:
        cards: The GPUs of this machine.
        found: Engines that answer already.
    """
    lines = [line for engine in found for line in _already(engine)]
    if not cards:
        return [*lines, *_on_the_processor(found)]
    card = max(cards, key=lambda card: card.total_bytes)
    return [*lines, *_on_the_card(card, found)]


def _already(engine: FoundEngine) -> Iterator[str]:
    if engine.engine == "comfyui":
        return  # it makes pictures; nobody chats with it
    if engine.models:
        name = f"local/{engine.engine}/{engine.models[0]}"
        yield f"{engine.engine} answers at {engine.base_url} and is used by itself: `turnout models default {name}`"
    else:
        yield f"{engine.engine} answers at {engine.base_url} but has no model yet"


def _on_the_card(card: Card, found: Sequence[FoundEngine]) -> Iterator[str]:
    gib = card.total_bytes / GIB
    size = next(size for size in SIZES if size.card_gib <= gib)
    engines = {engine.engine for engine in found}
    yield f"{card.name} ({gib:.1f} GiB) holds {size.gguf.removesuffix('-GGUF')} (4 bit) and its context. One of:"
    if "vllm" not in engines and size.card_gib:  # below that, vLLM's own needs leave no room
        yield f"vLLM, the fastest for several callers: `vllm serve {size.vllm} --port 8000`, and in turnout.yaml"
        yield from _external("vllm", 8000)
    yield f"llama-server built for GPUs: `llama-server -hf {size.gguf} --port 8080 -ngl 99`, and in turnout.yaml"
    yield from _external("llama", 8080)
    where = "the Ollama that runs" if "ollama" in engines else "Ollama (it is found by itself)"
    yield f"{where}: `ollama pull {size.ollama}`, then `turnout models default local/ollama/{size.ollama}`"


def _on_the_processor(found: Sequence[FoundEngine]) -> Iterator[str]:
    size = WITHOUT_CARD
    where = "with the Ollama that runs" if any(e.engine == "ollama" for e in found) else "with Ollama"
    yield "Without a card, models run on the processor: small ones answer at reading speed, large ones do not. One of:"
    yield f"{where}: `ollama pull {size.ollama}`, then `turnout models default local/ollama/{size.ollama}`"
    yield f"with the engine inside turnout: `turnout models pull hf:{size.gguf}`, then start turnout again"


def _external(key: str, port: int) -> Iterator[str]:
    yield "    models:"
    yield f'      {key}: {{engine: external, base_url: "http://127.0.0.1:{port}/v1", roles: [orchestrator]}}'
