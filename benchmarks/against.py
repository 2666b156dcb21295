"""The working tree against another commit: ``python -m benchmarks.gateways --base REV``, or ``make bench BASE=REV``.

Both run in the same environment; only the package differs. First each is measured alone, in turns, for the table. Then
both run side by side and get short loads in turn. What decides is the median ratio of such neighbours, in work per
second of processor time: a virtual machine's second is not always the same, but two in a row are much alike.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import columns, gateways, rows
from benchmarks.load import Bench, started
from benchmarks.machine import Missing
from benchmarks.rows import Row

WORST_RATIO = 0.90
"""Of the working tree to the other commit: below it, a comparison fails."""
KINDS = ("requests", "chunks")
PAIRS = 5
"""In each round of the duel."""
PAIR_SECONDS = 1.0
Ratios = dict[str, list[float]]


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
            duel = fight(bench, chosen, options.rounds) if not failures else {}
    print(gateways.report(chosen, samples, failures, f"The working tree against {options.base}", options.rounds))
    print("\n" + columns.ratios(samples, "turnout", ["base"]))
    if duel:
        print("\n" + verdict(duel))
    gateways.say(f"kept in {gateways.keep('against', chosen, samples, failures, duel)}")
    slower = too_slow(duel)
    for line in slower:
        gateways.say(f"error: {line}")
    return 1 if slower or failures else 0


def fight(bench: Bench, chosen: Sequence[Row], rounds: int) -> Ratios:
    """Run both side by side under short loads in turn; return the second's work over the first's, pair by pair.

    Args:
        bench: What both share.
        chosen: The two.
        rounds: How often both are started afresh: two processes of the same program differ too.

    Raises:
        Failed: One of them fails.
    """
    ratios: Ratios = {kind: [] for kind in KINDS}
    for number in range(rounds):
        gateways.say(f"round {number + 1} of {rounds}: side by side")
        with contextlib.ExitStack() as stack:
            homes = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-bench-"))) for _ in chosen]
            both = [stack.enter_context(started(bench, row, home))[0] for row, home in zip(chosen, homes, strict=True)]
            for kind in KINDS * (PAIRS + 1):
                pair = both if len(ratios[kind]) % 2 else both[::-1]  # who is first takes turns
                done = {gateway: gateway.per_cpu_second(kind, PAIR_SECONDS) for gateway in pair}
                ratios[kind].append(done[both[1]] / done[both[0]])
        for kind in KINDS:
            del ratios[kind][-PAIRS - 1]  # the first pair warmed them up
    return ratios


def verdict(duel: Ratios) -> str:
    """Return a Markdown table of the duel."""
    lines = []
    for kind, ratios in duel.items():
        lower, middle, upper = statistics.quantiles(ratios, n=4)
        lines.append([f"{kind} per gateway-CPU-s", f"{middle:.2f}", f"{lower:.2f} to {upper:.2f}", str(len(ratios))])
    return columns.markdown(["side by side (c=32)", "turnout / base", "middle half", "pairs"], lines)


def too_slow(duel: Ratios) -> list[str]:
    """Return what the working tree does less than ``WORST_RATIO`` times as often as the other commit."""
    middles = {kind: statistics.median(ratios) for kind, ratios in duel.items()}
    return [
        f"{kind} per gateway-CPU-second are {middle:.2f} of the other commit's; {WORST_RATIO} is the least"
        for kind, middle in middles.items()
        if middle < WORST_RATIO
    ]
