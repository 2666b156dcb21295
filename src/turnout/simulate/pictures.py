"""Pictures as inline SVG, drawn by hand: bars against a bound, waits as ranges, memory as stacked areas.

Colours are names of the page's style sheet, so that one picture serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

from turnout.core.memory import GIB

WIDTH = 920
LABEL = 150
"""Columns at the left for words."""
ROW = 34
MOST_STEPS = 240
POLICY_COLOURS = {"turnout": "var(--turnout)", "lru": "var(--lru)", "fifo": "var(--fifo)"}
COLOURS = 8


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar.

    Attributes:
        name: Whose.
        value: Its length.
        least: The smallest of several seeds.
        most: The largest of several seeds.
        bound: Where the mark stands.
        words: What stands behind it.
        colour: A CSS colour.
    """

    name: str
    value: float
    least: float
    most: float
    bound: float
    words: str
    colour: str


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """How long some waited: half of them less than ``p50``, and so on."""

    group: str
    name: str
    p50: float
    p95: float
    p99: float
    longest: float
    colour: str


def colour_of(number: int) -> str:
    """Return the colour of the n-th thing."""
    return f"var(--c{number % COLOURS})"


def bars(rows: Sequence[Bar]) -> str:
    """Return horizontal bars with a mark at each one's bound."""
    scale = _Scale(max([row.most for row in rows] + [row.bound for row in rows] + [1]), WIDTH - LABEL - 70)
    height = ROW * len(rows) + 26
    parts = [_grid(scale, height - 26, LABEL)]
    for number, row in enumerate(rows):
        y = ROW * number + 6
        parts.append(f'<text class="end" x="{LABEL - 12}" y="{y + 16}">{escape(row.name)}</text>')
        parts.append(
            f'<rect x="{LABEL}" y="{y}" width="{_n(scale(row.value))}" height="22" rx="3" fill="{row.colour}">'
            f"<title>{escape(row.name)}: {escape(row.words)}</title></rect>"
        )
        if row.least != row.most:
            a, b = LABEL + scale(row.least), LABEL + scale(row.most)
            parts.append(f'<path class="whisker" d="M{_n(a)} {y + 11}H{_n(b)}M{_n(a)} {y + 6}v10M{_n(b)} {y + 6}v10"/>')
        x = LABEL + scale(row.bound)
        parts.append(f'<path class="mark" d="M{_n(x)} {y - 3}v28"><title>at least {row.bound:,.0f}</title></path>')
        end = LABEL + scale(max(row.most, row.bound)) + 9
        parts.append(f'<text x="{_n(end)}" y="{y + 16}">{escape(row.words)}</text>')
    return _svg(height, "".join(parts), "Swaps of each policy, with the number below which none can stay")


def ranges(rows: Sequence[Range], unit: str = "s") -> str:
    """Return for each row a line from the median to the longest wait, with p95 and p99 on it."""
    scale = _Scale(max([row.longest for row in rows] + [1]), WIDTH - LABEL - 120, root=True)
    parts: list[str] = []
    y = 4
    last_group = ""
    top = y
    for row in rows:
        if row.group != last_group:
            y += 22
            parts.append(f'<text x="0" y="{y - 5}">{escape(row.group)}</text>')
            last_group = row.group
        middle = y + 11
        told = (
            f"{row.group}, {row.name}: half waited {row.p50:.1f} s or less, 95 % {row.p95:.1f} s, "
            f"99 % {row.p99:.1f} s, the longest {row.longest:.1f} s"
        )
        parts.append(f'<text class="end soft" x="{LABEL - 12}" y="{middle + 4}">{escape(row.name)}</text>')
        x50, x95, x99, longest = (LABEL + scale(value) for value in (row.p50, row.p95, row.p99, row.longest))
        parts.append(
            f'<g stroke="{row.colour}" fill="{row.colour}"><title>{escape(told)}</title>'
            f'<path d="M{_n(x50)} {middle}H{_n(longest)}" stroke-width="1.5" opacity=".6"/>'
            f'<path d="M{_n(x50)} {middle}H{_n(x99)}" stroke-width="6" opacity=".45" stroke-linecap="round"/>'
            f'<circle cx="{_n(x50)}" cy="{middle}" r="4.5" stroke="none"/>'
            f'<path d="M{_n(x95)} {middle - 6}v12" stroke-width="2.5"/>'
            f'<path d="M{_n(x99)} {middle - 9}v18" stroke-width="2.5"/></g>'
        )
        x = longest + 12
        parts.append(f'<text class="soft" x="{_n(x)}" y="{middle + 4}">p99 {_seconds(row.p99)} {unit}</text>')
        y += 24
    height = y + 24
    parts.insert(0, _grid(scale, y - top, LABEL, unit))
    return _svg(height, "".join(parts), "Waits by priority and policy: median, p95, p99 and longest")


def areas(
    holders: Sequence[tuple[str, Sequence[float], str]], bucket_seconds: float, end: float, capacity: float, top: float
) -> str:
    """Return memory over time as stacked steps.

    Args:
        holders: Name, bytes in each bucket, colour; the first lies at the bottom.
        bucket_seconds: Width of a bucket.
        end: Seconds at the right edge.
        capacity: Bytes that may be granted.
        top: Bytes at the upper edge.
    """
    height, left = 170, 56
    width = WIDTH - left - 8
    count = max((len(column) for _, column, _ in holders), default=0)
    together = max(1, math.ceil(count / MOST_STEPS))
    step = bucket_seconds * together
    below = [0.0] * math.ceil(count / together)
    parts = [_memory_grid(left, width, height, top, end)]
    for name, column, colour in holders:
        means = _thinned(column, together, len(below))
        above = [low + mean for low, mean in zip(below, means, strict=True)]
        if any(means):
            path = _steps(above, below, left, width, height, top, step, end)
            parts.append(f'<path d="{path}" fill="{colour}"><title>{escape(name)}</title></path>')
        below = above
    y = height - height * capacity / top
    parts.append(f'<path class="limit-line" fill="none" d="M{left} {_n(y)}h{width}"/>')
    parts.append(f'<text class="limit" x="{left + 4}" y="{_n(y - 5)}">may be granted: {capacity / GIB:.1f} GiB</text>')
    return _svg(height + 24, "".join(parts), "Memory over time by holder")


def fitting(parts_of: Sequence[tuple[str, float, str]], capacity: float, total: float) -> str:
    """Return what everything together would need beside what there is.

    Args:
        parts_of: Name, bytes, colour.
        capacity: Bytes that may be granted.
        total: Bytes of the whole card.
    """
    longest = max(sum(amount for _, amount, _ in parts_of), total)
    parts, x = [], 0.0
    for name, amount, colour in parts_of:
        wide = WIDTH * amount / longest
        parts.append(
            f'<rect x="{_n(x)}" y="0" width="{_n(max(wide - 2, 1))}" height="34" rx="3" fill="{colour}">'
            f"<title>{escape(name)}: {amount / GIB:.1f} GiB</title></rect>"
        )
        x += wide
    granted, whole = WIDTH * capacity / longest, WIDTH * total / longest
    parts.append(
        f'<rect x="0.5" y="44" width="{_n(whole - 1)}" height="22" rx="3" fill="none" class="axis"/>'
        f'<path class="limit-line" fill="none" d="M{_n(granted)} -4V70"/>'
        f'<text class="limit end" x="{_n(granted - 8)}" y="60">may be granted: {capacity / GIB:.1f} GiB</text>'
    )
    if whole - granted > 110:
        parts.append(f'<text class="soft" x="{_n(granted + 8)}" y="60">kept free</text>')
    return _svg(72, "".join(parts), "All models together beside the memory that may be granted")


class _Scale:
    def __init__(self, most: float, width: float, *, root: bool = False) -> None:
        self.most, self._width, self._is_root = most, width, root

    def __call__(self, value: float) -> float:
        share = max(0.0, value) / self.most
        return self._width * (math.sqrt(share) if self._is_root else share)

    def ticks(self) -> list[float]:
        if self._is_root:
            nice = [0, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 3600, 7200]
            return [tick for tick in nice if tick <= self.most]
        return _ticks(self.most)


def _ticks(most: float, steps: Sequence[float] = (1, 2, 5, 10)) -> list[float]:
    rough = most / 6
    power = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1
    step = next(power * factor for factor in steps if power * factor >= rough)
    return [step * number for number in range(int(most / step) + 1)]


def _grid(scale: _Scale, height: float, left: float, unit: str = "") -> str:
    parts = []
    for tick in scale.ticks():
        x = _n(left + scale(tick))
        parts.append(f'<path class="grid" d="M{x} 0V{_n(height)}"/>')
        words = f"{tick:,.0f}{' ' + unit if unit else ''}"
        parts.append(f'<text class="soft middle" x="{x}" y="{_n(height + 17)}">{words}</text>')
    return "".join(parts)


def _memory_grid(left: float, width: float, height: float, top: float, end: float) -> str:
    parts = []
    for tick in _ticks(top / GIB):
        y = _n(height - height * tick * GIB / top)
        parts.append(f'<path class="grid" d="M{left} {y}h{width}"/>')
        parts.append(f'<text class="soft end" x="{left - 8}" y="{float(y) + 4:.1f}">{tick:.0f} GiB</text>')
    in_hours = end > 3 * 3600
    unit = 3600 if in_hours else 60
    for tick in _ticks(end / unit, (1, 2, 3, 6, 12) if in_hours else (1, 1.5, 2, 3, 6, 10)):
        x = _n(left + width * tick * unit / end)
        words = f"{tick:g} {'h' if in_hours else 'min'}"
        parts.append(f'<text class="soft middle" x="{x}" y="{height + 18}">{words}</text>')
    return "".join(parts)


def _thinned(column: Sequence[float], together: int, count: int) -> list[float]:
    means = []
    for start in range(0, count * together, together):
        piece = column[start : start + together]
        means.append(sum(piece) / len(piece) if piece else 0.0)
    return means


def _steps(
    above: list[float],
    below: list[float],
    left: float,
    width: float,
    height: float,
    top: float,
    step: float,
    end: float,
) -> str:
    def y(value: float) -> str:
        return _n(height - height * value / top)

    xs = [left + width * min(1.0, step * number / end) for number in range(len(above) + 1)]
    forward = "".join(f"V{y(value)}H{_n(x)}" for value, x in zip(above, xs[1:], strict=True))
    back = "".join(f"V{y(value)}H{_n(x)}" for value, x in zip(reversed(below), reversed(xs[:-1]), strict=True))
    return f"M{_n(xs[0])} {y(below[0])}{forward}{back}Z"


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _svg(height: float, inner: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {_n(height)}" role="img" aria-label="{escape(label)}">{inner}</svg>'
