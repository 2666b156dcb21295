"""What ``turnout doctor`` looks at. Each check returns findings and never raises: a check-up goes on."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from turnout import __version__
from turnout.cli.checkup_devices import examine_devices
from turnout.cli.checkup_engines import examine_embedded
from turnout.cli.checkup_servers import examine_servers
from turnout.cli.config import check_models, load
from turnout.cli.daemon import find_daemon, named_url, running_daemon
from turnout.cli.findings import Finding, Verdict
from turnout.cli.neighbours import running_engines
from turnout.cli.options import Given
from turnout.cli.port_owner import owner_of_port
from turnout.cli.terminal import count_of, spell_bytes
from turnout.client import ApiError, DaemonNotReachable
from turnout.config.daemon_file import DaemonFile
from turnout.config.loader import LoadedConfig
from turnout.config.paths import Paths, find_paths
from turnout.config.schema import Settings
from turnout.console.advice import FoundEngine, better_models
from turnout.core.errors import SetupError, TurnoutError
from turnout.core.loopback import is_loopback_name
from turnout.gateway.keys import KeyStore
from turnout.tiers.local.devices.nvml import Card, find_cards
from turnout.tiers.local.machine import describe_system, free_disk_bytes, is_wsl, memory_bytes

LITTLE_SPACE = 2_000_000_000
NO_SPACE = 100_000_000
SMALL_CONTEXT_TOKENS = 8192
"""What an agent's first prompt alone may take; Ollama's default is 4,096 (docs/faq of Ollama)."""


def examine(options: Given) -> tuple[list[Finding], list[str]]:
    """Return all findings, and the lines that say how to get better models.

    Args:
        options: From the command line.
    """
    paths = find_paths()
    findings = [*_python(), *_system()]
    loaded, told = _configuration(options)
    findings += told
    own = running_daemon()
    status, told = _daemon(options, own)
    findings += [*told, *_folders(paths)]
    found: list[FoundEngine] = []
    if loaded is not None:  # otherwise nobody knows which port, which models and where to look
        settings = loaded.settings
        findings += [*_port(settings, own), *_keys(settings, paths), *examine_embedded(settings, paths.data_dir)]
        findings += examine_servers(settings, paths)
        found = running_engines(settings)
    findings += examine_devices(None if loaded is None else loaded.settings, status)
    cards, told = examine_cards()
    findings += told + [describe_neighbour(engine) for engine in found]
    return findings, better_models(cards, found)


def _python() -> Iterator[Finding]:
    where = f"in the environment {sys.prefix}" if sys.prefix != sys.base_prefix else "outside of any environment"
    yield Finding("ok", "python", f"{platform.python_version()}, {where}")


def _system() -> Iterator[Finding]:
    words = f"{describe_system()}, {os.cpu_count()} cores, {spell_bytes(memory_bytes())} memory"
    if is_wsl():
        mend = "an Ollama on the Windows side is found only with `networkingMode=mirrored` in .wslconfig"
        yield Finding("ok", "system", words, mend)
    elif sys.platform == "win32":
        yield Finding("warn", "system", words, "the daemon needs Linux or WSL2; CLI and client work here")
    else:
        yield Finding("ok", "system", words)


def _configuration(options: Given) -> tuple[LoadedConfig | None, list[Finding]]:
    try:
        loaded = load(options)
        warnings = check_models(loaded)
    except SetupError as error:
        return None, [Finding("fail", "configuration", error.message, error.hint)]
    name = str(loaded.file) if loaded.file else "built in; there is no turnout.yaml, and none is needed"
    told = [Finding("ok", "configuration", f"{name}, profile {loaded.settings.profile}")]
    return loaded, told + [Finding("warn", "configuration", warning) for warning in warnings]


def _daemon(options: Given, own: DaemonFile | None) -> tuple[dict[str, Any] | None, list[Finding]]:
    if own is None and not named_url(options):
        return None, [Finding("ok", "daemon", "not running", "`turnout up` starts it")]
    try:
        with find_daemon(options) as daemon:
            status, where = daemon.status(), daemon.url
    except (DaemonNotReachable, ApiError, SetupError) as error:
        return None, [Finding("fail", "daemon", error.message, error.hint)]
    return status, list(_running(status, where))


def _running(status: dict[str, Any], where: str) -> Iterator[Finding]:
    if status["version"] != __version__:
        words = f"version {status['version']} runs at {where}, this is {__version__}"
        yield Finding("warn", "daemon", words, "`turnout down`, then `turnout up`")
    else:
        yield Finding("ok", "daemon", f"running at {where}, version {__version__}")
    for target in status["targets"]:
        if target["state"] in ("failed", "unreachable"):
            yield Finding("warn", "daemon", f"{target['name']} is {target['state']}: {target['detail']}")


def _port(settings: Settings, own: DaemonFile | None) -> Iterator[Finding]:
    host, port = settings.server.host, settings.server.port
    if own is not None:
        if urlsplit(own.url).port == port:
            yield Finding("ok", "port", f"{port} is ours")
        return
    if port == 0:
        yield Finding("ok", "port", "any free one")
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        by = owner_of_port(port)
        words = f"{host}:{port} is taken by {by}" if by else f"{host}:{port} cannot be used: {error.strerror or error}"
        yield Finding("fail", "port", words, "`turnout up --port N`, or server.port in turnout.yaml")
        return
    yield Finding("ok", "port", f"{host}:{port} is free")


def _folders(paths: Paths) -> Iterator[Finding]:
    for name, folder in (("config", paths.config_dir), ("state", paths.state_dir), ("data", paths.data_dir)):
        nearest = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
        if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
            mend = f"give it to this user, or set XDG_{name.upper()}_HOME"
            yield Finding("fail", f"{name} folder", f"{folder} cannot be written ({nearest})", mend)
            continue
        free = free_disk_bytes(folder)
        verdict: Verdict = "fail" if free < NO_SPACE else "warn" if free < LITTLE_SPACE and name == "data" else "ok"
        mend = "" if verdict == "ok" else "free some space: models are large, and traces need some"
        yield Finding(verdict, f"{name} folder", f"{folder}, {spell_bytes(free)} free", mend)


def _keys(settings: Settings, paths: Paths) -> Iterator[Finding]:
    try:
        count = len(KeyStore(paths.keys_file).all())
    except TurnoutError as error:
        yield Finding("fail", "keys", error.message, error.hint)
        return
    host = settings.server.host
    if not count and not is_loopback_name(host):
        yield Finding("fail", "keys", f"none, and {host} is open to others", "`turnout keys create NAME`")
    else:
        yield Finding("ok", "keys", count_of(count, "key") if count else "none; on loopback none is needed")


def examine_cards() -> tuple[list[Card], list[Finding]]:
    """Return the cards of this machine and what is to be said about them."""
    import pynvml

    try:
        cards, reason = find_cards()
    except pynvml.NVMLError as error:
        cards, reason = [], f"the driver answers with an error: {error}"
    if not cards:
        return [], [Finding("ok", "gpu", f"none ({reason}): models run on the processor")]
    return cards, [
        Finding(
            "ok",
            f"gpu {card.index}",
            f"{card.name}, {card.free_bytes / 2**30:.1f} of {card.total_bytes / 2**30:.1f} GiB free, "
            f"driver {card.driver}",
        )
        for card in cards
    ]


def describe_neighbour(engine: FoundEngine) -> Finding:
    """Return what is to be said about an engine that answers."""
    if engine.engine == "comfyui":
        what = f"ComfyUI {engine.version} answers at {engine.base_url}; turnout shows it and leaves it alone"
        return Finding("ok", engine.engine, what)
    names = ", ".join(engine.models[:4]) + (", …" if len(engine.models) > 4 else "")
    words = f"answers at {engine.base_url}: {names or 'without a model'}"
    small = {name: tokens for name, tokens in engine.context_tokens.items() if tokens < SMALL_CONTEXT_TOKENS}
    if not small:
        return Finding("ok", engine.engine, words)
    told = ", ".join(f"{name} is loaded with a context of {tokens:,} tokens" for name, tokens in small.items())
    mend = "longer prompts are cut off there unseen: start Ollama with OLLAMA_CONTEXT_LENGTH=32768, or what fits"
    return Finding("warn", engine.engine, f"{words}; {told}", mend)
