"""Where the daemon's time goes: ``python -m benchmarks.profile``.

py-spy samples the daemon from outside while it is under load, once with plain requests and once with fast streams. The
table counts a function's own time (what it calls in C counts as its own; ``--native`` tells those functions apart).
"""

from __future__ import annotations

import argparse
import collections
import shutil
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarks import gateways, rows
from benchmarks.load import Gateway, started
from benchmarks.machine import Missing
from benchmarks.process import Failed, run_on

RESULTS = gateways.RESULTS
CALLERS = 32
LOAD_SECONDS = 8.0
RATE, NATIVE_RATE = 500, 50
"""Samples per second; unwinding C stops the daemon for much longer each time."""
WAITING = ("Condition.wait (", "wait (threading")
ENVIRONMENT = Path(tempfile.gettempdir()) / "turnout-bench-py-spy"


def find_py_spy() -> str:
    """Return py-spy's path; install it into an environment of its own if there is none.

    Raises:
        Missing: It is not there and cannot be installed.
    """
    if found := shutil.which("py-spy"):
        return found
    program = ENVIRONMENT / "bin" / "py-spy"
    if not program.exists():
        gateways.say(f"installing py-spy into {ENVIRONMENT}")
        venv.create(ENVIRONMENT, with_pip=True)
        command = [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", "py-spy"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if ran.returncode != 0:
            raise Missing(f"error: {' '.join(command)}: {ran.stderr.strip()[-300:]}\nhint:  put py-spy on the PATH")
    return str(program)


def busy_stacks(text: str) -> list[tuple[list[str], int]]:
    """Return stacks without line numbers, the innermost function last, with their counts.

    Threads that only wait are left out: py-spy takes one that is about to be woken for a running one.

    Args:
        text: Collapsed: ``frame;frame;frame count`` a line.
    """
    stacks = []
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_function(frame) for frame in stack.split(";")]
        if not any(frame.startswith(WAITING) for frame in frames):
            stacks.append((frames, int(count)))
    return stacks


def _function(frame: str) -> str:
    """Return ``function (file)`` of ``function (path:line)``, the file from its package on."""
    name, opening, place = frame.rpartition(" (")
    if not opening:
        return frame
    file = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({file.rpartition('site-packages/')[2]})"


def shares(counts: collections.Counter[str], total: int, many: int) -> str:
    """Return the greatest counts as lines, each with its share of the total."""
    return "\n".join(f"{count / (total or 1):6.1%}  {name}" for name, count in counts.most_common(many))


def describe(text: str, many: int) -> str:
    """Return three tables of a profile: own time by function, own time by file, time with everything called.

    Args:
        text: Collapsed stacks.
        many: Lines of the first table.
    """
    stacks = busy_stacks(text)
    total = sum(count for _, count in stacks)
    own, files, inner = (collections.Counter[str]() for _ in range(3))
    for frames, count in stacks:
        own[frames[-1]] += count
        files[frames[-1].rpartition(" (")[2].rstrip(")")] += count
        for frame in set(frames):
            inner[frame] += count
    parts = [("own time by function", own, many), ("own time by file", files, 25), ("with all it calls", inner, 40)]
    return "\n".join(f"\n### {title}\n\n{shares(counts, total, lines)}" for title, counts, lines in parts)


class Sampler(threading.Thread):
    """py-spy beside the load.

    Args:
        command: Of py-spy.
        core: Where it runs: the gateway shall not pay for it.
        into: Its output.
        seconds: How long it samples.
    """

    def __init__(self, command: Sequence[str], core: int, into: Path, seconds: float) -> None:
        super().__init__()
        self._command = [*command, "--duration", f"{seconds:.0f}", "--output", str(into)]
        self._core, self._into, self._seconds = core, into, seconds
        self.stacks = ""
        self.failure = ""

    def run(self) -> None:
        """Sample; collapsed stacks or the reason why there are none."""
        try:
            run_on(self._command, self._core, self._seconds + 60)
            self.stacks = self._into.read_text()
        except (Failed, OSError) as error:
            self.failure = str(error)


def sampled(gateway: Gateway, kind: str, sampler: Sampler) -> str:
    """Keep a load on the gateway while it is sampled; return the stacks.

    Raises:
        Failed: py-spy cannot look into the process, or the gateway fails.
    """
    sampler.start()
    while sampler.is_alive():
        if kind == "plain":
            gateway.plain(CALLERS, LOAD_SECONDS)
        else:
            gateway.streamed("mock", CALLERS, LOAD_SECONDS)
    if not sampler.stacks:
        raise Failed(f"{sampler.failure or 'py-spy saw nothing'}\nhint:  py-spy needs ptrace: run as root")
    return sampler.stacks


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of sampling, for each load")
    parser.add_argument("--top", type=int, default=40, help="how many functions")
    parser.add_argument("--native", action="store_true", help="functions in C too")
    options = parser.parse_args(arguments)
    gateways.end_properly()
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as scratch:
        try:
            profile(options, Path(scratch))
        except (Missing, Failed) as error:
            gateways.say(str(error))
            return 1
    return 0


def profile(options: argparse.Namespace, scratch: Path) -> None:
    """Run the daemon and sample it under each load."""
    py_spy = find_py_spy()
    row = rows.turnout(*gateways.working_tree(scratch))
    RESULTS.mkdir(exist_ok=True)
    home = scratch / "home"
    home.mkdir()
    with gateways.prepared(0, LOAD_SECONDS, scratch) as bench, started(bench, row, home) as (gateway, _):
        gateway.plain(8, 1)
        rate = NATIVE_RATE if options.native else RATE
        command = [py_spy, "record", "--pid", str(gateway.pid), "--format", "raw", "--rate", str(rate)]
        command += ["--native"] if options.native else []
        for kind in ("plain", "streams"):
            into = RESULTS / f"profile-{kind}.txt"
            stacks = sampled(gateway, kind, Sampler(command, bench.core, into, options.seconds))
            print(f"\n## {kind}, c={CALLERS} (turnout {row.version}; stacks in {into})")
            print(describe(stacks, options.top))


if __name__ == "__main__":
    sys.exit(main())
