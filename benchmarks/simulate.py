"""How fast the simulator is: a million requests, and how much memory they take.

``python -m benchmarks.simulate [--requests N] [--policy NAME]... [--profile NAME] [--rate-per-second X]`` writes a
seeded trace like Azure's (many short answers), simulates it in a process of its own for each policy and prints a row
for each: seconds, microseconds for each request, the largest memory of the process, and what came of it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLICIES = ("turnout", "lru", "fifo")


def write_trace(path: Path, requests: int, per_second: float) -> None:
    """Write a trace: exponential gaps, log-normal lengths like those of Azure's trace of code completions.

    Args:
        path: The file.
        requests: Rows.
        per_second: Arrivals.
    """
    draw = random.Random(1)
    at = 0.0
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for _ in range(requests):
            at += draw.expovariate(per_second)
            prompt = min(8000, round(draw.lognormvariate(7.3, 0.9)))
            answer = min(1000, round(draw.lognormvariate(2.6, 1.1)))
            file.write(f"{at:.4f},{prompt},{answer}\n")


def measure(trace: Path, profile: str, policy: str) -> dict[str, float]:
    """Return the figures of one policy; runs in a process of its own, so that memory is its own."""
    from turnout.config.paths import find_paths
    from turnout.simulate.comparison import scheduler_of
    from turnout.simulate.finding import find_profile
    from turnout.simulate.report import report_of
    from turnout.simulate.traces.reading import read_trace
    from turnout.simulate.world import World

    begin = time.perf_counter()
    found = find_profile(profile, find_paths()).profile
    arrivals = read_trace(trace, found, 1)
    read = time.perf_counter()
    world = World(scheduler_of(policy, found), found, arrivals)
    world.run()
    ran = time.perf_counter()
    report = report_of(world, policy, 1)
    end = time.perf_counter()
    return {
        "requests": report.requests,
        "read_seconds": read - begin,
        "run_seconds": ran - read,
        "report_seconds": end - ran,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "swaps": report.swaps,
        "refused": report.refused,
        "interactive_p99": report.wait_seconds["interactive"].p99 or 0.0,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--policy", action="append", choices=POLICIES)
    parser.add_argument("--profile", default="dev")
    parser.add_argument("--rate-per-second", type=float, default=2.5)
    parser.add_argument("--one", nargs=2, metavar=("TRACE", "POLICY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(Path(given.one[0]), given.profile, given.one[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        write_trace(trace, given.requests, given.rate_per_second)
        print(f"{given.requests:,} requests, {given.rate_per_second:g} a second, profile {given.profile}")
        heads = ("seconds", "read", "run", "report", "us each", "MiB", "swaps", "refused")
        print("policy   " + "".join(f"{head:>9}" for head in heads))
        for policy in given.policy or POLICIES:
            command = [sys.executable, "-m", "benchmarks.simulate", "--profile", given.profile]
            command += ["--one", str(trace), policy]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            told = json.loads(done.stdout)
            parts = [told["read_seconds"], told["run_seconds"], told["report_seconds"]]
            seconds = [sum(parts), *parts, 1e6 * told["run_seconds"] / told["requests"]]
            counts = [told["peak_mib"], told["swaps"], told["refused"]]
            cells = [f"{value:9.1f}" for value in seconds] + [f"{value:9,.0f}" for value in counts]
            print(f"{policy:9}" + "".join(cells))


if __name__ == "__main__":
    main()
