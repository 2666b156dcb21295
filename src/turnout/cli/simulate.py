"""``turnout simulate``: what a card would do with a workload, without a card and without a daemon."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import ConfigOption, JsonOption, given, new_app
from turnout.cli.terminal import count_of, is_terminal, put, put_table, say, spell_seconds, warn
from turnout.config.paths import find_paths
from turnout.core.errors import SetupError

if TYPE_CHECKING:
    from turnout.simulate.report import Report

app = new_app()


@app.command()
def simulate(
    context: typer.Context,
    trace: Annotated[
        Path,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="Azure's CSV, turnout's request log, or the YAML of a workload.",
            show_default=False,
        ),
    ],
    profile: Annotated[
        str,
        typer.Option(
            "--profile", metavar="NAME", help="`dev`, `small`, `mixed`, a YAML file, or a profile of turnout.yaml."
        ),
    ] = "dev",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="NAME", help="`turnout`, `lru` (as Ollama) or `fifo` (as llama-swap); may be repeated."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option("--seed", metavar="N", help="For what the trace leaves open; may be repeated."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, max=1000, help="Seeds 1 to N, to see the spread.")
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", metavar="X", min=1e-6, max=1e6, help="Arrivals come this many times as fast.")
    ] = 1.0,
    vram_gib: Annotated[
        float | None, typer.Option("--vram-gib", metavar="N", min=0.1, help="Another size of the card.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures, complete in itself.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show how a card would bear a workload: swaps, waits, memory."""
    from turnout.simulate.comparison import POLICIES, check_policies
    from turnout.simulate.comparison import simulate as run_all
    from turnout.simulate.finding import find_profile
    from turnout.simulate.traces.reading import read_trace

    options = given(context, config)
    policies = tuple(dict.fromkeys(policy or POLICIES))
    check_policies(policies)
    chosen = _seeds(seed, seeds)
    found = find_profile(profile, find_paths(), options.config, vram_gib)
    if found.left_out:
        warn(f"not simulated, since nobody says their vram_gib: {', '.join(found.left_out)}")
    if html is not None and not html.absolute().parent.is_dir():
        raise SetupError(f"there is no folder {str(html.absolute().parent)!r}", hint="--html names a file to write")
    progress = Progress()
    first = read_trace(trace, found.profile, chosen[0], rate)
    if first.left_out:
        warn(f"left out: {count_of(first.left_out, 'request')} for models that profile {profile!r} does not have")
    reports = list(
        run_all(
            found.profile,
            lambda number: first if number == chosen[0] else read_trace(trace, found.profile, number, rate),
            policies=policies,
            seeds=chosen,
            settings=found.settings,
            tell=progress.tell,
        )
    )
    progress.end()
    if html is not None:
        from turnout.simulate.page import page_of

        html.write_text(page_of(found.profile, reports), encoding="utf-8")
        say(f"wrote {html}")
    if json:
        import msgspec

        put("[\n" + ",\n".join(msgspec.json.encode(report).decode() for report in reports) + "\n]")
    elif html is None or is_terminal(sys.stdout):
        _put_tables(reports)


def _seeds(given_seeds: Sequence[int] | None, count: int | None) -> list[int]:
    if given_seeds and count:
        raise SetupError("--seed and --seeds were both given", hint="--seeds N means --seed 1 ... --seed N")
    return list(dict.fromkeys(given_seeds or range(1, (count or 1) + 1)))


class Progress:
    """One line on a terminal that says how far it is; nothing where nobody looks."""

    def __init__(self) -> None:
        self._is_shown = is_terminal(sys.stderr)
        self._shown = ""

    def tell(self, policy: str, seed: int, so_far: int, total: int) -> None:
        """Show it."""
        if self._is_shown and (text := f"{policy}, seed {seed}: {100 * so_far // max(1, total)} %") != self._shown:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
            self._shown = text

    def end(self) -> None:
        """Clear it away."""
        if self._shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def _put_tables(reports: Sequence[Report]) -> None:
    first = reports[0]
    by_policy = {name: [r for r in reports if r.policy == name] for name in dict.fromkeys(r.policy for r in reports)}
    seeds = len(reports) // len(by_policy)
    told = f", median (and range) of {seeds} seeds" if seeds > 1 else f", seed {first.seed}"
    length = spell_seconds(first.simulated_seconds)
    put(f"{first.trace} on {first.profile}: {count_of(first.requests, 'request')}, {length}{told}")
    put()
    columns = ("POLICY", "SERVED", "REFUSED", "SWAPS", "AT LEAST", "EVICTIONS", "LOADS", "MEMORY HELD")
    rows = [
        (
            name,
            _spread(runs, "served"),
            _spread(runs, "refused"),
            _spread(runs, "swaps"),
            _spread(runs, "swaps_lower_bound"),
            _spread(runs, "evictions"),
            _spread(runs, "loads"),
            f"{100 * statistics.mean(run.memory.held_share for run in runs):.0f} %",
        )
        for name, runs in by_policy.items()
    ]
    put_table(columns, rows, right=columns[1:])
    put()
    headings = ("SECONDS", "POLICY", "WAIT P50", "P95", "P99", "LONGEST", "TOKEN P50", "P95", "P99")
    put_table(headings, list(_wait_rows(by_policy)), right=headings[2:])
    put()
    put("WAIT: until the work begins. TOKEN: until the first token.")
    put("AT LEAST: no scheduler that serves the same could do with fewer swaps.")
    put("A request that was refused or left counts with its whole patience.")


def _wait_rows(by_policy: dict[str, list[Report]]) -> Iterator[tuple[str, ...]]:
    first = next(iter(by_policy.values()))[0]
    groups = [("priority", name) for name in first.wait_seconds] + [("role", name) for name in first.by_role]
    for kind, group in groups:
        for name, runs in by_policy.items():
            pairs = [
                (run.wait_seconds[group], run.first_token_seconds[group])
                if kind == "priority"
                else (run.by_role[group].wait_seconds, run.by_role[group].first_token_seconds)
                for run in runs
                if kind == "priority" or group in run.by_role
            ]
            waits, firsts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            if any(wait.p50 is not None for wait in waits):
                label = group if name == next(iter(by_policy)) else ""
                cells = [_spread(waits, figure) for figure in ("p50", "p95", "p99", "max")]
                yield label, name, *cells, *(_spread(firsts, figure) for figure in ("p50", "p95", "p99"))


def _spread(items: Sequence[object], name: str) -> str:
    """Return ``12`` for one, ``12 (10-15)`` for several."""
    values = [value for item in items if (value := getattr(item, name)) is not None]
    if not values:
        return ""
    spelt = [_spell(value) for value in (statistics.median(values), min(values), max(values))]
    return spelt[0] if spelt[1] == spelt[2] else f"{spelt[0]} ({spelt[1]} to {spelt[2]})"


def _spell(value: float) -> str:
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}"
