"""Engines that run beside us, recognised by what they answer on a real socket."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from turnout.cli.checkup import describe_neighbour
from turnout.cli.checkup_servers import examine_servers
from turnout.cli.neighbours import running_engines, running_targets
from turnout.config.paths import find_paths
from turnout.config.schema import DiscoverEntry, Settings

STUDIO = [{"id": "a", "type": "llm", "state": "loaded"}, {"id": "b", "type": "llm", "state": "not-loaded"}]


@contextmanager
def serving(answers: dict[str, Any]) -> Iterator[str]:
    """Serve JSON by path; everything else is not found."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in answers
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path, "no")).encode())

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def where(url: str, engine: Literal["ollama", "external", "comfyui"] = "external") -> Settings:
    return Settings(discover=[DiscoverEntry(engine=engine, base_url=url + ("/v1" if engine == "external" else ""))])


@pytest.mark.parametrize(
    ("answers", "engine", "models", "loaded"),
    [
        ({"/v1/models": {"data": [{"id": "m", "owned_by": "vllm"}]}}, "vllm", ("m",), ("m",)),
        ({"/v1/models": {"data": [{"id": "m", "owned_by": "llamacpp"}]}}, "llama-server", ("m",), ("m",)),
        (
            {"/v1/models": {"data": [{"id": "a"}, {"id": "b"}]}, "/api/v0/models": {"data": STUDIO}},
            "lm-studio",
            ("a", "b"),
            ("a",),
        ),
    ],
)
def test_servers_are_known_by_their_answers(
    answers: dict[str, Any], engine: str, models: tuple[str, ...], loaded: tuple[str, ...]
) -> None:
    with serving(answers) as url:
        (found,) = running_engines(where(url))
        targets = running_targets(where(url))
    assert (found.engine, found.models, found.loaded) == (engine, models, loaded)
    assert [(target.name, target.is_loaded) for target in targets] == [
        (f"local/{engine}/{name}", name in loaded) for name in models
    ]


@pytest.mark.parametrize(
    "answers", [{}, {"/v1/models": {"data": [{"id": "m", "owned_by": "x"}]}}, {"/v1/models": [1]}, {"/v1/models": "hi"}]
)
def test_a_stranger_is_left_alone(answers: dict[str, Any]) -> None:
    with serving(answers) as url:
        assert running_engines(where(url)) == []


@contextmanager
def saying(*pieces: bytes) -> Iterator[str]:
    """Say something that is no HTTP, or not what it should be, to whoever connects."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = server.accept()
                with caller, contextlib.suppress(OSError):
                    caller.recv(65536)
                    for piece in pieces:
                        caller.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n",),
        (OK + b'{"data":' + b"[" * 100_000,),
        (OK + b"\xff\xfe",),
        (OK, *[b" " * 65536] * 40),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",),
        (),
    ],
)
def test_a_stranger_that_says_something_odd_ends_no_check_up(pieces: tuple[bytes, ...]) -> None:
    with saying(*pieces) as url:
        assert running_engines(where(url)) == []


def test_nobody_is_asked_elsewhere() -> None:
    with serving({"/v1/models": {"data": [{"id": "m", "owned_by": "vllm"}]}}) as vllm:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {vllm}/v1/models\r\nContent-Length: 0\r\n\r\n".encode()
        with saying(moved) as url:
            assert running_engines(where(url)) == []


@pytest.mark.parametrize(("tokens", "verdict"), [(4096, "warn"), (32768, "ok")])
def test_a_small_context_of_an_ollama_is_told(tokens: int, verdict: str) -> None:
    answers = {
        "/api/tags": {"models": [{"name": "m:latest", "size": 5}]},
        "/api/ps": {"models": [{"name": "m:latest", "context_length": tokens}]},
    }
    with serving(answers) as url:
        (found,) = running_engines(where(url, "ollama"))
        (target,) = running_targets(where(url, "ollama"))
    finding = describe_neighbour(found)
    assert (target.is_loaded, target.size_bytes) == (True, 5)
    assert finding.verdict == verdict
    assert ("OLLAMA_CONTEXT_LENGTH" in finding.mend) == (verdict == "warn")


def test_a_comfyui_is_no_model() -> None:
    with serving({"/system_stats": {"system": {"comfyui_version": "0.3"}}}) as url:
        (found,) = running_engines(where(url, "comfyui"))
        assert running_targets(where(url, "comfyui")) == []
    assert (found.engine, found.models, found.version) == ("comfyui", (), "0.3")


def a_program(path: Path, says: str, status: int = 0) -> Path:
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("says", "status", "words"),
    [
        ("Available devices:\n  Vulkan0: NVIDIA GeForce RTX 5090 (32607 MiB, 31000 MiB free)", 0, "Vulkan0: NVIDIA"),
        ("Available devices:\n  (none)", 0, "built for the processor only"),
        ("", 132, "does not run here (exit status 132)"),
    ],
)
def test_what_a_llama_server_computes_on_is_told(tmp_path: Path, says: str, status: int, words: str) -> None:
    program = a_program(tmp_path / "llama-server", says, status)
    settings = Settings(models={"m": {"engine": "llama-server", "binary": str(program)}})
    finding = next(f for f in examine_servers(settings, find_paths()) if f.name == "llama-server")
    assert finding.verdict == "ok"
    assert words in finding.words


def test_programs_that_are_missing_are_told_with_what_to_do() -> None:
    models = {"a": {"engine": "vllm"}, "b": {"engine": "llama-server", "binary": "/nowhere/llama-server"}}
    found = {f.name: f for f in examine_servers(Settings(models=models), find_paths()) if f.verdict == "fail"}
    assert set(found) == {"vllm", "llama-server"}
    assert "models.a" in found["vllm"].words
    assert "binary" in found["llama-server"].mend
