"""The command line of a vLLM. Pure: settings in, arguments and environment out."""

from __future__ import annotations

from turnout.tiers.local.server.spec import Stage
from turnout.tiers.local.vllm.settings import VllmSettings

STAGES = (
    Stage(r"Loading (?:safetensors|pt) checkpoint shards:\s*(\d+)%", "loading weights"),
    Stage(r"Loading weights:\s*(\d+)%", "loading weights"),
    Stage(r"Starting to load model", "loading weights"),
    Stage(r"Model loading took", "weights loaded"),
    Stage(r"torch\.compile|Compiling a graph", "compiling"),
    Stage(r"Capturing CUDA graphs?[^:]*:\s*(\d+)%", "capturing graphs"),
    Stage(r"GPU KV cache size|CPU KV cache size", "sizing the cache"),
    Stage(r"Application startup complete", "starting"),
)


def command_line(
    settings: VllmSettings,
    *,
    model: str,
    served_name: str,
    host: str,
    port: int,
    share: float,
    is_embedding: bool,
    is_on_card: bool = True,
) -> tuple[str, ...]:
    """Return program and arguments.

    Args:
        settings: Of the model.
        model: The hub's name or a folder, as vLLM shall see it.
        served_name: By which it is asked for.
        host: Where it listens.
        port: Where it listens.
        share: ``--gpu-memory-utilization``, as memory.py tells it.
        is_embedding: Whether it makes vectors instead of text.
        is_on_card: Otherwise it cannot give memory back in its sleep, and refuses to start when asked for that.
    """
    words = [*settings.command]
    # `vllm serve` takes the model by its place, the module behind it by a name.
    words += [model] if words[-1] == "serve" else ["--model", model]
    words += ["--served-model-name", served_name, "--host", host, "--port", str(port)]
    words += ["--gpu-memory-utilization", f"{share:.4f}", "--max-num-seqs", str(settings.slots)]
    if settings.context_tokens is not None:
        words += ["--max-model-len", str(settings.context_tokens)]
    if settings.quantisation:
        words += ["--quantization", settings.quantisation]
    if settings.tool_parser:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", settings.tool_parser]
    if settings.sleep and is_on_card:
        words.append("--enable-sleep-mode")
    if is_embedding:
        words += ["--runner", "pooling"]
    return (*words, *settings.arguments)


def variables(settings: VllmSettings, key: str) -> dict[str, str]:
    """Return what vLLM's environment says beside what every worker's does.

    Args:
        settings: Of the model.
        key: By variable and not by argument: everybody on the machine can read arguments.
    """
    found = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_HOST_IP": "127.0.0.1"}
    if not settings.download:
        found["HF_HUB_OFFLINE"] = "1"
    if settings.sleep:
        found["VLLM_SERVER_DEV_MODE"] = "1"
    return found
