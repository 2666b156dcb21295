"""The rows: every gateway that can be measured, and how each is started."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import Missing, find_tool, first_line

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Place:
    """Where a gateway is started: an empty directory of its own, its port and the upstream's."""

    home: Path
    port: int
    upstream_port: int

    @property
    def upstream(self) -> str:
        """The upstream's base URL."""
        return f"http://127.0.0.1:{self.upstream_port}/v1"


@dataclass(frozen=True)
class Launch:
    """How to start a gateway: a command with its environment, or nothing if it runs already."""

    url: str
    command: list[str] = field(default_factory=list)
    env: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None


@dataclass(frozen=True)
class Row:
    """One gateway."""

    name: str
    version: str
    launch: Callable[[Place], Launch]


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def direct() -> Row:
    """Return the row without a gateway."""
    return Row("direct", "no gateway", lambda place: Launch(place.upstream))


NGINX = """
daemon off; pid {home}/nginx.pid; error_log {home}/error.log; worker_processes 1; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s; keepalive_requests 1000000000;
  upstream mock {{ server 127.0.0.1:{upstream_port}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def nginx() -> Row:
    """Return nginx as a plain reverse proxy with one worker."""
    program = find_tool("nginx", "the row `nginx` needs it: `apt install nginx-light`, or leave it out: --rows")

    def launch(place: Place) -> Launch:
        file = place.home / "nginx.conf"
        file.write_text(NGINX.format(home=place.home, port=place.port, upstream_port=place.upstream_port))
        return Launch(f"http://127.0.0.1:{place.port}/v1", [program, "-p", str(place.home), "-c", str(file)])

    return Row("nginx", first_line(program, "-v").rpartition("/")[2], launch)


def bare() -> Row:
    """Return our bare relay on nothing but a loop and a parser, the ceiling of what Python can do."""
    return _bare("bare")


def bare_asgi() -> Row:
    """Return our bare relay as an ASGI application on uvicorn, what a gateway on the usual server can reach."""
    return _bare("bare_asgi")


def _bare(module: str) -> Row:
    def launch(place: Place) -> Launch:
        command = [sys.executable, "-m", f"benchmarks.{module}", str(place.port), str(place.upstream_port)]
        return Launch(f"http://127.0.0.1:{place.port}/v1", command, {"PYTHONPATH": str(REPOSITORY)})

    return Row(module, f"benchmarks/{module}.py", launch)


TURNOUT = """
discover: []
models:
  mock: {{engine: external, base_url: "{upstream}", model: mock}}
  paced: {{engine: external, base_url: "{upstream}", model: paced}}
aliases: {{mock: local/mock, paced: local/paced}}
chains: {{orchestrator: [local/mock]}}   # no engine of our own is started beside it
"""


def turnout(source: Path, version: str, name: str = "turnout") -> Row:
    """Return the real daemon, with everything that it does by default: traces on disk, metrics, log.

    Args:
        source: The directory with the package ``turnout``; it may be another commit's.
        version: To be shown.
        name: Of the row.
    """

    def launch(place: Place) -> Launch:
        file = place.home / "turnout.yaml"
        file.write_text(TURNOUT.format(upstream=place.upstream))
        command = [sys.executable, "-P", "-m", "turnout.app", f"--config={file}", f"--port={place.port}"]
        return Launch(f"http://127.0.0.1:{place.port}/v1", command, turnout_env(source, place.home))

    return Row(name, version, launch)


def turnout_env(source: Path, home: Path) -> dict[str, str]:
    """Return an environment in which Python finds ``turnout`` in `source`, and the daemon its files in `home`."""
    own = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "STATE", "DATA", "CACHE")}
    return own | {"PYTHONPATH": str(source)}


def other(text: str) -> Row:
    """Return a gateway of the user's: ``NAME=URL``, ``NAME=URL@PID`` or ``NAME=URL@COMMAND…``.

    In URL and COMMAND, ``{port}`` is a free port, ``{upstream}`` the upstream's base URL and ``{home}`` an empty
    directory.

    Args:
        text: As given.

    Raises:
        Missing: It is none of these.
    """
    name, equals, rest = text.partition("=")
    url, _, start = rest.partition("@")
    if not (name and equals and url.startswith(("http://127.0.0.1:", "http://localhost:"))):
        raise Missing(
            f"error: --gateway {text!r} cannot be read\nhint:  NAME=http://127.0.0.1:PORT/v1[@PID or @COMMAND]"
        )
    pid = int(start) if start.isdigit() else None

    def launch(place: Place) -> Launch:
        def fill(part: str) -> str:
            values = {"{port}": str(place.port), "{upstream}": place.upstream, "{home}": str(place.home)}
            for word, value in values.items():
                part = part.replace(word, value)
            return part

        command = [] if pid is not None else [fill(part) for part in shlex.split(start)]
        return Launch(fill(url), command, pid=pid)

    return Row(name, "given", launch)
