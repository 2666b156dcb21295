"""A protocol double of vLLM: a program with its command line, its routes, its lines of log, and invented text.

``python vllm_double.py serve FOLDER --host ... --port ...``. What it answers beside the text was recorded from vLLM
0.32 (CPU build) with the same requests: the 401 without a key, ``/sleep``, ``/is_sleeping``, ``/wake_up``,
``/collective_rpc``, ``/reset_prefix_cache`` and their statuses, ``/metrics``, and that a request which arrives while it
sleeps hangs until it is woken. Text, tokens and timing are the simulated engine's. ``GET /double`` tells what the real
one would not: what was called, and how many requests have met a sleeper.

Variables: DOUBLE_LOAD_SECONDS, DOUBLE_TOKENS_PER_SECOND, DOUBLE_FAULT (``no-sleep``: it stays awake; ``no-wake``: 500;
``hungry`` and ``hungry-later``: it takes all memory, at its start or when ``/double`` is asked).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from turnout.core.clock import SystemClock
from turnout.tiers.local.simulated.app import SimulatedApp
from turnout.tiers.local.simulated.connection import AbortableProtocol
from turnout.tiers.local.simulated.spec import SimulatedSpec
from turnout.tiers.local.worker_server import configure

BEFORE_WEIGHTS = """\
(APIServer pid=1) INFO 11-25 02:51:37 [model.py:733] Resolved architecture: LlamaForCausalLM
(EngineCore pid=2) INFO 11-25 02:52:20 [cpu_model_runner.py:68] Starting to load model {model}...
"""
SHARDS = "\rLoading safetensors checkpoint shards: {percent:3d}% Completed | {done}/4 [00:02<00:00,  2.01s/it]"
AFTER_WEIGHTS = """

(EngineCore pid=2) INFO 11-25 02:52:26 [kv_cache_utils.py:2327] CPU KV cache size: 46,592 tokens
(APIServer pid=1) INFO:     Application startup complete.
"""
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{model}"}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="{model}"}} {waiting}
vllm:num_requests_waiting_by_reason{{engine="0",model_name="{model}",reason="capacity"}} {waiting}
# TYPE vllm:engine_sleep_state gauge
vllm:engine_sleep_state{{engine="0",model_name="{model}",sleep_state="awake"}} {awake}
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="{model}"}} {cache_use}
"""


class VllmDouble:
    """The ASGI application.

    Args:
        options: Of the command line.
        key: What ``/v1`` demands.
    """

    def __init__(self, options: argparse.Namespace, key: str) -> None:
        self._model = options.served_model_name
        self._fault = os.environ.get("DOUBLE_FAULT", "")
        self._has_development_routes = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
        self._key = key
        self._awake = asyncio.Event()
        self._awake.set()
        self._has_weights = True
        self._called: list[str] = []
        self._met_a_sleeper = 0
        self._running = 0
        self._slots = options.max_num_seqs
        pace = float(os.environ.get("DOUBLE_TOKENS_PER_SECOND", "100"))
        spec = SimulatedSpec(key=key, model=self._model, slots=self._slots, context_tokens=options.max_model_len,
                             tokens_per_second=pace)  # fmt: skip
        self._text = SimulatedApp(spec, SystemClock())
        self._text.is_loaded = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path.startswith("/v1"):
            await self._openai(scope, receive, send)
            return
        self._called.append(path)
        status, body = await self._own(scope["method"], path, parse_qs(scope["query_string"].decode()), receive)
        await answer(send, status, body)

    async def _openai(self, scope: Any, receive: Any, send: Any) -> None:
        shown = dict(scope["headers"]).get(b"authorization", b"").decode()
        if shown != f"Bearer {self._key}":
            await answer(send, 401, {"error": "Unauthorized"})
            return
        if scope["method"] == "POST" and not self._awake.is_set():
            self._met_a_sleeper += 1
            await self._awake.wait()  # the real one hangs, too
        if scope["method"] == "POST" and not self._has_weights:
            say("it answers without weights\n")
            os._exit(3)
        self._running += 1
        try:
            await self._text(scope, receive, send)
        finally:
            self._running -= 1

    async def _own(self, method: str, path: str, query: dict[str, list[str]], receive: Any) -> tuple[int, Any]:
        match method, path:
            case "GET", "/health":
                return 200, ""
            case "GET", "/version":
                return 200, {"version": "0.32.0"}
            case "GET", "/metrics":
                return 200, self._metrics()
            case "GET", "/double" if self._fault == "hungry-later":
                eat()
            case "GET", "/double":
                return 200, {"called": self._called, "met_a_sleeper": self._met_a_sleeper}
        if path not in DEVELOPMENT or not self._has_development_routes:
            return 404, {"detail": "Not Found"}
        return await self._development(method, path, query, receive)

    async def _development(self, method: str, path: str, query: dict[str, list[str]], receive: Any) -> tuple[int, Any]:
        match method, path:
            case "POST", "/sleep":
                level = int(query.get("level", ["1"])[0])
                if level not in (0, 1, 2):
                    return 400, {"error": {"message": "1 validation error", "type": "Bad Request", "code": 400}}
                if self._fault != "no-sleep":
                    self._awake.clear()
                    self._has_weights = level < 2
                return 200, {"status": "sleeping", "level": level}
            case "GET", "/is_sleeping":
                return 200, {"is_sleeping": not self._awake.is_set()}
            case "POST", "/wake_up":
                if self._fault == "no-wake":
                    return 500, {"error": {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}}
                self._awake.set()
                return 200, {"status": "awake", "tags": None}
            case "POST", "/collective_rpc":
                wanted = json.loads(await body_of(receive)).get("method")
                if wanted != "reload_weights":
                    return 500, {"error": {"message": f"no method {wanted}", "type": "InternalServerError"}}
                self._has_weights = True
                return 200, {"results": [None]}
            case "POST", "/reset_prefix_cache":
                return 200, {"success": True}
        return 405, {"detail": "Method Not Allowed"}

    def _metrics(self) -> str:
        running, waiting = min(self._running, self._slots), max(0, self._running - self._slots)
        return METRICS.format(model=self._model, running=float(running), waiting=float(waiting),
                              awake=float(self._awake.is_set()), cache_use=running / 10)  # fmt: skip


DEVELOPMENT = ("/sleep", "/is_sleeping", "/wake_up", "/collective_rpc", "/reset_prefix_cache")


async def body_of(receive: Any) -> bytes:
    """Return the whole body of a request."""
    body, more = b"", True
    while more:
        piece = await receive()
        body, more = body + piece.get("body", b""), piece.get("more_body", False)
    return body


async def answer(send: Any, status: int, body: Any) -> None:
    """Send a whole answer: text as it is, everything else as JSON."""
    data, kind = (
        (body.encode(), b"text/plain") if isinstance(body, str) else (json.dumps(body).encode(), b"application/json")
    )
    headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Read vLLM's command line: what it does not know ends it."""
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    for name in ("served-model-name", "host", "quantization", "tool-call-parser", "runner", "dtype"):
        parser.add_argument(f"--{name}")
    for name in ("enable-sleep-mode", "enable-auto-tool-choice", "enforce-eager"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    options = parser.parse_args(arguments)
    if not 0 < options.gpu_memory_utilization <= 1:
        parser.error("gpu_memory_utilization: Input should be greater than 0 and less than or equal to 1")
    return options


def say(text: str) -> None:
    """Print as the real one does."""
    sys.stdout.write(text)
    sys.stdout.flush()


def eat() -> None:
    """Take memory until somebody ends it."""
    held = []
    while True:
        held.append(os.urandom(1 << 20))


async def serve(options: argparse.Namespace) -> None:
    """Load for a while, then serve."""
    say(BEFORE_WEIGHTS.format(model=options.model))
    try:
        json.loads((Path(options.model) / "config.json").read_text())
    except ValueError:
        say(f"(APIServer pid=1) ValueError: the config file of {options.model} is not a valid JSON file\n")
        sys.exit(1)
    if os.environ.get("DOUBLE_FAULT") == "hungry":
        eat()
    for done in range(5):
        say(SHARDS.format(percent=25 * done, done=done))
        await asyncio.sleep(float(os.environ.get("DOUBLE_LOAD_SECONDS", "0.1")) / 5)
    say(AFTER_WEIGHTS)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    listener.listen(128)
    import uvicorn

    app = VllmDouble(options, os.environ.get("VLLM_API_KEY", ""))
    await uvicorn.Server(configure(app, http=AbortableProtocol)).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(serve(options_of(sys.argv[1:])))
