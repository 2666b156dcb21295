"""The working tree against another commit: ``python -m benchmarks.gateways --base REV``, or ``make bench BASE=REV``.

Both run in the same environment, in turns; only the package differs. What decides is work per second of processor
time: it hardly feels what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import columns, gateways, rows
from benchmarks.machine import Missing

WORST_RATIO = 0.90
"""Of the working tree to the other commit: below it, a comparison fails."""
GATED = ("c32_per_cpu_second", "chunks_per_cpu_second")


@contextlib.contextmanager
def worktree(revision: str, into: Path) -> Iterator[tuple[Path, str]]:
    """Check a commit out into a directory of its own; yield its package's place and its version. Clean up after.

    Args:
        revision: Anything that git understands.
        into: A directory that does not exist yet.

    Raises:
        Missing: There is no such commit.
    """
    commit = gateways.git("rev-parse", "--short", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not commit:
        raise Missing(f"error: no such commit: {revision!r}\nhint:  BASE takes a branch, a tag or a commit")
    command = ["git", "-C", str(rows.REPOSITORY), "worktree"]
    subprocess.run([*command, "add", "--quiet", "--detach", str(into), commit], check=True, timeout=120)
    try:
        yield into / "src", commit
    finally:
        subprocess.run([*command, "remove", "--force", str(into)], check=True, timeout=120)


def compare(options: argparse.Namespace, scratch: Path) -> int:
    """Measure both; return 1 if the working tree does clearly less per second of processor time, or a row failed.

    Args:
        options: The command line.
        scratch: For both packages.
    """
    with worktree(options.base, scratch / "base") as base:
        chosen = [rows.turnout(*base, name="base"), rows.turnout(*gateways.working_tree(scratch))]
        with gateways.prepared(options.upstream_port, options.seconds, scratch) as bench:
            samples, failures = gateways.run_rounds(bench, chosen, options.rounds)
    print(gateways.report(chosen, samples, failures, f"The working tree against {options.base}", options.rounds))
    print("\n" + columns.ratios(samples, "turnout", ["base"]))
    gateways.say(f"kept in {gateways.keep('against', chosen, samples, failures)}")
    slower = too_slow(samples)
    for line in slower:
        gateways.say(f"error: {line}")
    return 1 if slower or failures else 0


def too_slow(samples: columns.Samples) -> list[str]:
    """Return what the working tree does less than ``WORST_RATIO`` times as often as the other commit."""
    lines = []
    for column in columns.COMPARED:
        if column.key not in GATED:
            continue
        own, base = (columns.median(samples, row, column.key) for row in ("turnout", "base"))
        if own is not None and base and own / base < WORST_RATIO:
            lines.append(f"{column.title}: {own:,.0f} is {own / base:.2f} of {base:,.0f}; {WORST_RATIO} is the least")
    return lines
