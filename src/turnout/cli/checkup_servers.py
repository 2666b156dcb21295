"""The part of the check-up that looks at what turnout can start of the user's: vLLM, llama-server, containers."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from turnout.cli.findings import Finding
from turnout.config.paths import Paths
from turnout.config.schema import Settings
from turnout.tiers.local.server.container_note import INSTALLATION_LABEL, MODEL_LABEL, installation_id

ASK_SECONDS = 5
SHOWN_DEVICES = 3
DOCKER_SOCKET = "unix:///var/run/docker.sock"


def examine_servers(settings: Settings, paths: Paths) -> Iterator[Finding]:
    """Return what is to be said about the servers that turnout starts, or could start.

    Args:
        settings: The configuration.
        paths: The installation's directories.
    """
    models = settings.models.items()
    own = {key: entry for key, entry in models if entry.get("runtime", "process") == "process"}
    yield from _vllm({key: entry for key, entry in own.items() if entry.get("engine") == "vllm"})
    yield from _llama_server({key: entry for key, entry in own.items() if entry.get("engine") == "llama-server"})
    in_docker = [key for key, entry in models if entry.get("runtime") == "docker"]
    yield from _containers(in_docker, paths)


def _vllm(configured: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    for key, entry in configured.items():
        command = entry.get("command")
        program = str(command[0] if isinstance(command, list) and command else command or "vllm")
        if shutil.which(str(Path(program).expanduser())) is None:
            what = f"models.{key} needs {program!r}, which is not here"
            yield Finding(
                "fail", "vllm", what, "`pip install vllm` into an environment, and name it: `command: [PATH]`"
            )
    if not configured and (found := shutil.which("vllm")):
        yield Finding("ok", "vllm", found, "a model with `engine: vllm` uses it")


def _llama_server(configured: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    named = {str(entry.get("binary", "llama-server")): key for key, entry in configured.items()}
    for binary, key in named.items():
        if (found := shutil.which(str(Path(binary).expanduser()))) is None:
            what = f"models.{key} needs {binary!r}, which is not here"
            yield Finding("fail", "llama-server", what, "set `binary`, or use `engine: llamacpp`, which brings its own")
        else:
            yield Finding("ok", "llama-server", f"{found}: {_devices_of(found)}")
    if not named and (found := shutil.which("llama-server")):
        words = f"{found}: {_devices_of(found)}"
        yield Finding("ok", "llama-server", words, "a model with `engine: llama-server` uses it")


def _devices_of(program: str) -> str:
    """Return what a llama-server computes on, in words; its own list says so (`--list-devices`)."""
    try:
        asked = subprocess.run(
            [program, "--list-devices"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not say what it computes on ({type(error).__name__})"
    if asked.returncode != 0:
        return f"does not run here (exit status {asked.returncode})"
    _, _, listed = asked.stdout.partition("Available devices:")
    devices = [line.strip() for line in listed.splitlines() if line.strip() and "(none)" not in line]
    if not devices:
        return "built for the processor only"
    return "computes on " + "; ".join(devices[:SHOWN_DEVICES])


def _containers(configured: list[str], paths: Paths) -> Iterator[Finding]:
    """Return whether a Docker Engine answers, and which containers nobody wants any more."""
    try:
        import docker
    except ImportError:
        if configured:
            what = f"models.{configured[0]} wants a container, and the package docker is missing"
            yield Finding("fail", "docker", what, "`pip install 'turnout[docker]'`")
        return
    if not _answers(os.environ.get("DOCKER_HOST", DOCKER_SOCKET)):
        if configured:
            what = f"models.{configured[0]} wants a container, and no Docker Engine answers"
            yield Finding("fail", "docker", what, "start it (`sudo systemctl start docker`), and be in its group")
        return
    try:
        with contextlib.closing(docker.from_env(timeout=ASK_SECONDS)) as engine:
            info = engine.info()
            label = f"{INSTALLATION_LABEL}={installation_id(paths)}"
            ours = engine.containers.list(all=True, filters={"label": label})
    except docker.errors.DockerException as error:
        yield Finding("fail" if configured else "warn", "docker", f"a Docker Engine does not answer properly: {error}")
        return
    can_gpu = "nvidia" in (info.get("Runtimes") or {})
    words = f"Docker Engine {info.get('ServerVersion', '')}, {'with' if can_gpu else 'without'} NVIDIA's runtime"
    mend = "" if can_gpu or not configured else "a card needs the NVIDIA Container Toolkit"
    yield Finding("ok", "docker", words, mend)
    for container in ours:
        if (model := container.labels.get(MODEL_LABEL)) not in configured:
            what = f"{container.name} ({container.status}) belongs to models.{model}, which is not configured any more"
            yield Finding("warn", "docker", what, f"`docker rm -f {container.name}`")


def _answers(url: str) -> bool:
    """Return whether somebody listens where a Docker Engine should; other addresses than sockets are just believed."""
    if not url.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ASK_SECONDS)
        try:
            sock.connect(url.removeprefix("unix://"))
        except OSError:
            return False
    return True
