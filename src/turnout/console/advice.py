"""What to do for a better model than the demonstration one: exact lines for this machine. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from turnout.tiers.local.machine import Card

OLLAMA_MODELS = ((24, "qwen3:32b"), (12, "qwen3:14b"), (8, "qwen3:8b"), (0, "qwen3:4b"))
"""Least GiB of the card and a model whose 4-bit weights (20, 9.3, 5.2, 2.5 GB in Ollama's library) leave room beside."""


def better_models(cards: Sequence[Card], running: Collection[str]) -> list[str]:
    """Return the ways to a better model, as lines for a person.

    Args:
        cards: The GPUs of this machine.
        running: Engines that were found running: ``ollama``, ``vllm``.
    """
    gib = max((card.total_bytes / 2**30 for card in cards), default=0.0)
    pull = f"ollama pull {next(name for least, name in OLLAMA_MODELS if gib >= least)}"
    if "ollama" in running:
        lines = [f"Ollama runs here without a chat model: `{pull}`, and auto means that model from then on"]
    else:
        lines = [f"Ollama: install and start it, then `{pull}`; a running Ollama is found by itself"]
    if not cards:
        return [
            *lines,
            "a GGUF of your choice: `turnout models pull hf:OWNER/NAME`, then `turnout models default NAME`",
            "a server elsewhere: three lines of turnout.yaml (`turnout config path` says where it lies):",
            *_external_lines("http://HOST:8000/v1"),
        ]
    found = ", ".join(f"{card.name} ({card.total_bytes / 2**30:.0f} GiB)" for card in cards)
    return [
        f"this machine has {found}; ways to use it now:",
        *lines,
        "vLLM: `vllm serve OWNER/NAME --port 8000`; a vLLM on port 8000 is found by itself",
        "llama.cpp built for the card: `llama-server -m MODEL.gguf -ngl 99 --port 8080`, and in turnout.yaml",
        *_external_lines("http://127.0.0.1:8080/v1"),
    ]


def _external_lines(base_url: str) -> list[str]:
    return [
        "    models:",
        f'      chat: {{engine: external, base_url: "{base_url}", roles: [orchestrator]}}',
    ]
