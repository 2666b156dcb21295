"""What requests and streams cost through turnout and through others: ``python -m benchmarks.gateways --help``.

The mock upstream and the load generators run on one core, the gateway with all its processes on another. Rows are
measured in turns, round by round, so that a machine that changes its mind disturbs all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import columns, rows
from benchmarks.load import Bench, measure
from benchmarks.machine import Missing, cores, describe, find_tool, first_line
from benchmarks.native import build
from benchmarks.process import Failed, running, wait_for
from benchmarks.rows import Row

RESULTS = Path(__file__).parent / "results"
OWN_ROWS = ("direct", "nginx", "bare", "bare_asgi", "turnout")


def say(line: str) -> None:
    """Write to stderr: tables alone go to stdout."""
    print(line, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateways", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each row is measured; medians are shown")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rows", default=",".join(OWN_ROWS), help="which of our own rows, with commas")
    parser.add_argument("--litellm", action="store_true", help="install LiteLLM into an environment and measure it")
    parser.add_argument("--gateway", action="append", default=[], metavar="NAME=URL[@PID|@COMMAND]")
    parser.add_argument("--base", metavar="REV", help="compare the working tree with this commit instead")
    parser.add_argument("--upstream-port", type=int, default=0, help="of the mock; for gateways that run already")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def prepared(upstream_port: int, seconds: float, scratch: Path) -> Iterator[Bench]:
    """Build the programs and run the mock upstream.

    Args:
        upstream_port: Of the mock; 0 for any free one.
        seconds: Of each load.
        scratch: For programs and output.

    Raises:
        Missing: A tool is not there.
    """
    wrk = find_tool("wrk", "it makes the plain requests: `apt install wrk`")
    core, gateway_core = cores()
    if core == gateway_core:
        say("warning: one core only: gateway and load take it from each other, and the figures mean nothing")
    log = scratch / "upstream.txt"
    command = [build("upstream", scratch), str(upstream_port)]
    with running(command, core, log) as upstream:
        wait_for(lambda: log.read_text().startswith("ready"), upstream, log, 10)
        port = int(log.read_text().split()[1])
        streams = build("streams", scratch)
        yield Bench(wrk, streams, port, upstream.pid, core, gateway_core, seconds)


def working_tree(scratch: Path) -> tuple[Path, str]:
    """Copy the working tree's package, so that all rounds measure the same; return where it is, and its version."""
    shutil.copytree(rows.REPOSITORY / "src", scratch / "src", ignore=shutil.ignore_patterns("__pycache__"))
    commit = git("rev-parse", "--short", "HEAD") or "no commit"
    return scratch / "src", f"{commit}{'+' if git('status', '--porcelain', '--', 'src') else ''}"


def git(*arguments: str) -> str:
    """Return what git says, or an empty text."""
    ran = subprocess.run(["git", "-C", str(rows.REPOSITORY), *arguments], capture_output=True, text=True, timeout=60)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def chosen_rows(options: argparse.Namespace, scratch: Path) -> list[Row]:
    """Return the rows that were asked for.

    Raises:
        Missing: A gateway is not installed.
    """
    makers: dict[str, Callable[[], Row]] = {"direct": rows.direct, "nginx": rows.nginx, "bare": rows.bare,
              "bare_asgi": rows.bare_asgi, "turnout": lambda: rows.turnout(*working_tree(scratch))}  # fmt: skip
    names = [name for name in options.rows.split(",") if name]
    if unknown := [name for name in names if name not in makers]:
        raise Missing(f"error: no such row: {unknown[0]!r}\nhint:  --rows takes {', '.join(makers)}")
    chosen = [makers[name]() for name in names]
    if options.litellm:
        from benchmarks.litellm import litellm

        chosen.append(litellm())
    return chosen + [rows.other(text) for text in options.gateway]


def run_rounds(bench: Bench, chosen: Sequence[Row], rounds: int) -> tuple[columns.Samples, dict[str, str]]:
    """Measure every row once a round; return the samples, and why rows failed.

    Args:
        bench: What all rows share.
        chosen: The rows.
        rounds: How many rounds.
    """
    samples: columns.Samples = {row.name: [] for row in chosen}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for row in chosen:
            if row.name in failures:
                continue
            say(f"round {number + 1} of {rounds}: {row.name}")
            try:
                with tempfile.TemporaryDirectory(prefix="turnout-bench-") as home:
                    samples[row.name].append(measure(bench, row, Path(home)))
            except Failed as error:
                failures[row.name] = str(error)
                samples[row.name].append({})
                say(f"  failed: {error}")
    columns.add_ttft(samples)
    return samples, failures


def report(chosen: Sequence[Row], samples: columns.Samples, failures: dict[str, str], title: str, rounds: int) -> str:
    """Return the report as Markdown."""
    facts = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        describe(),
        f"Python {platform.python_version()}",
        ", ".join(f"{row.name} {row.version}" for row in chosen if row.name != "direct"),
        first_line("wrk", "-v").split(" [")[0],
        f"medians of {rounds} rounds",
        "one core for the gateway, another for everything else",
    ]
    lines = [f"## {title}", " · ".join(facts)]
    lines += ["", columns.table(samples, columns.PLAIN), "", columns.table(samples, columns.STREAMED)]
    return "\n".join(lines + [f"\n{name} failed: {why}" for name, why in failures.items()])


def keep(
    name: str,
    chosen: Sequence[Row],
    samples: columns.Samples,
    failures: dict[str, str],
    duel: dict[str, list[float]] | None = None,
) -> Path:
    """Write everything that was measured as JSON."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    file = RESULTS / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    content = {
        "at": now.isoformat(),
        "machine": describe(),
        "python": platform.python_version(),
        "versions": {row.name: row.version for row in chosen},
        "samples": samples,
        "failures": failures,
        "side_by_side": duel or {},
    }
    file.write_text(json.dumps(content, indent=2))
    return file


def end_properly() -> None:
    """Let SIGTERM clean up as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep; return the exit status: 1 if a row failed or the working tree is slower than BASE."""
    options = parse(arguments)
    end_properly()
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as scratch:
        try:
            if options.base:
                from benchmarks.against import compare

                return compare(options, Path(scratch))
            return overview(options, Path(scratch))
        except (Missing, Failed) as error:
            say(str(error))
            return 1


def overview(options: argparse.Namespace, scratch: Path) -> int:
    """Measure turnout beside the others."""
    chosen = chosen_rows(options, scratch)
    with prepared(options.upstream_port, options.seconds, scratch) as bench:
        samples, failures = run_rounds(bench, chosen, options.rounds)
    print(report(chosen, samples, failures, "Gateways", options.rounds))
    beside = [row.name for row in chosen if row.name not in ("direct", "turnout")]
    if "turnout" in samples and beside:
        print("\n" + columns.ratios(samples, "turnout", beside))
    say(f"kept in {keep('gateways', chosen, samples, failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
