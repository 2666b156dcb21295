"""What a start costs: imports, the command line, the daemon until it answers, and its memory while idle.

``python -m benchmarks.start`` runs each measurement several times in fresh processes with directories of its own and
prints the median, beside the best and the worst.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

ROUNDS = 7
TURNOUT = str(Path(sys.executable).with_name("turnout"))
RESULTS = Path(__file__).parent / "results"


def seconds_of(arguments: list[str]) -> float:
    """Return how long a command takes, in seconds."""
    begin = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


@contextlib.contextmanager
def daemon(config: str) -> Iterator[tuple[float, int, str]]:
    """Run a daemon; yield the seconds until it greeted, its pid and its address."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "turnout.yaml"
        file.write_text(config)
        environment = os.environ | {f"XDG_{kind}_HOME": f"{home}/{kind}" for kind in ("CONFIG", "STATE", "DATA")}
        begin = time.perf_counter()
        process = subprocess.Popen(
            [TURNOUT, "up", "--config", str(file), "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment
        )
        assert process.stderr is not None
        url = next(line.split("ready at ")[1].split()[0] for line in process.stderr if "ready at" in line)
        try:
            yield time.perf_counter() - begin, process.pid, url
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.close()
            process.wait(20)


def resident_mib(pid: int) -> float:
    """Return the resident memory of one process in MiB (VmRSS of proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no VmRSS for {pid}")


def first_answer() -> float:
    """Return the seconds from `turnout up` to the last byte of a first one-token answer."""
    with daemon("discover: []\n") as (ready, _, url):
        body = {"model": "auto", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        begin = time.perf_counter()
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        return ready + time.perf_counter() - begin


def idle_mib() -> float:
    """Return the resident memory of a daemon without engines."""
    with daemon("discover: []\nchains: {orchestrator: [local/none]}\n") as (_, pid, _):
        return resident_mib(pid)


MEASUREMENTS: dict[str, tuple[str, Callable[[], float]]] = {
    "python -c 'import turnout' (less a bare python)": (
        "ms",
        lambda: (seconds_of([sys.executable, "-c", "import turnout"]) - seconds_of([sys.executable, "-c", ""])) * 1000,
    ),
    "turnout --help": ("ms", lambda: seconds_of([TURNOUT, "--help"]) * 1000),
    "turnout up to its first answer": ("s", first_answer),
    "idle daemon without engines": ("MiB", idle_mib),
}


def main() -> None:
    """Measure, print and keep."""
    report: dict[str, object] = {"machine": platform.platform(), "python": platform.python_version(), "rounds": ROUNDS}
    print(f"{'what':50} {'median':>9} {'best':>9} {'worst':>9}")
    for name, (unit, measure) in MEASUREMENTS.items():
        measure()  # warms the page cache
        values = [measure() for _ in range(ROUNDS)]
        middle = statistics.median(values)
        report[name] = {"unit": unit, "median": middle, "min": min(values), "max": max(values)}
        print(f"{name:50} {middle:>6.1f} {unit:3}{min(values):>8.1f} {max(values):>9.1f}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "start.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
