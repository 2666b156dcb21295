"""The columns, and the tables made of them: medians, their spread, and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Samples = dict[str, list[dict[str, float]]]
"""Every round's sample of every row."""


@dataclass(frozen=True)
class Column:
    """One figure of a row.

    Attributes:
        key: In a sample.
        title: In a table.
        form: How a value is written.
        is_spread: Whether its spread over the rounds is shown too.
        is_more_better: What a ratio above 1 means.
    """

    key: str
    title: str
    form: str = ",.0f"
    is_spread: bool = False
    is_more_better: bool = True


def _latency(key: str, title: str, form: str = ",.2f") -> Column:
    return Column(key, title, form, is_more_better=False)


PLAIN = (
    Column("c32_per_cpu_second", "requests per gateway-CPU-s (c=32)", is_spread=True),
    *(
        column
        for c in (1, 32, 256)
        for column in (
            Column(f"c{c}_per_second", f"c={c} req/s"),
            _latency(f"c{c}_p50_ms", f"c={c} p50 ms"),
            _latency(f"c{c}_p99_ms", f"c={c} p99 ms"),
        )
    ),
    Column("c32_cpu_percent", "gateway CPU % (c=32)"),
    Column("others_percent", "others %"),
)
STREAMED = (
    Column("chunks_per_cpu_second", "chunks per gateway-CPU-s", is_spread=True),
    Column("chunks_per_second", "chunks/s"),
    Column("streams_per_second", "streams/s"),
    _latency("paced_ttft_p50_ms", "TTFT p50 ms, 32 paced"),
    _latency("paced_ttft_p99_ms", "TTFT p99 ms, 32 paced"),
    _latency("added_ttft_ms", "added TTFT p50 ms"),
    Column("paced_cpu_percent", "gateway CPU % (paced)", ",.1f", is_more_better=False),
    _latency("idle_mib", "idle MiB", ",.1f"),
    _latency("loaded_mib", "after load MiB", ",.1f"),
    _latency("start_seconds", "start s"),
)
NOT_COMPARED = ("others_percent", "c32_cpu_percent", "added_ttft_ms")  # the last is a difference, often around zero
COMPARED = tuple(column for column in (*PLAIN, *STREAMED) if column.key not in NOT_COMPARED)


def median(samples: Samples, row: str, key: str) -> float | None:
    """Return the median of a row's figure over the rounds, or None if it has none."""
    values = [sample[key] for sample in samples.get(row, []) if key in sample]
    return statistics.median(values) if values else None


def spread(samples: Samples, row: str, key: str) -> float:
    """Return how far the rounds of a figure lie apart: half of worst to best, as a share of the median."""
    values = [sample[key] for sample in samples.get(row, []) if key in sample]
    middle = statistics.median(values) if values else 0.0
    return (max(values) - min(values)) / 2 / middle if middle else 0.0


def add_ttft(samples: Samples) -> None:
    """Set what each row adds to the time to the first token: its own less that of `direct` in the same round."""
    for row, rounds in samples.items():
        for own, without in zip(rounds, samples.get("direct", []), strict=False):
            if row != "direct" and own and without:
                own["added_ttft_ms"] = own["paced_ttft_p50_ms"] - without["paced_ttft_p50_ms"]


def table(samples: Samples, columns: Sequence[Column]) -> str:
    """Return a Markdown table of medians."""
    lines = [[row] + [_cell(samples, row, column) for column in columns] for row in samples]
    return markdown(["gateway", *(column.title for column in columns)], lines)


def _cell(samples: Samples, row: str, column: Column) -> str:
    middle = median(samples, row, column.key)
    if middle is None:
        return "–"  # noqa: RUF001  a dash is what it is
    apart = f" ±{spread(samples, row, column.key):.0%}" if column.is_spread and len(samples[row]) > 1 else ""
    return f"{middle:{column.form}}{apart}"


def ratios(samples: Samples, of: str, to: Sequence[str], columns: Sequence[Column] = COMPARED) -> str:
    """Return a Markdown table: one row's figures over those of others.

    Args:
        samples: Of all rows.
        of: The row that is looked at.
        to: The rows that it is held against.
        columns: The figures.
    """
    lines = []
    for column in columns:
        own = median(samples, of, column.key)
        if own is None:
            continue
        others = [median(samples, row, column.key) for row in to]
        cells = [f"{own / value:.2f}" if value else "–" for value in others]  # noqa: RUF001
        lines.append([column.title, "more" if column.is_more_better else "less", *cells])
    return markdown(["figure", "better", *(f"{of} / {row}" for row in to)], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    )
