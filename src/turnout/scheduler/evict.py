"""Whom to move so that there is room, at the least price. Pure.

The price of a move is (seconds to get the worker back) x (chance that it is wanted again soon); whoever asks works it
out. Few candidates are searched exactly: depth first, pruned by the fractional relaxation of the account that lacks
most. More are taken greedily by price per useful byte. Either way nothing is moved that is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from turnout.core.memory import Demand

EXACT_CANDIDATES = 12
"""Up to so many are searched exactly."""
MOST_STEPS = 5000
"""Of the exact search; then the best so far is taken. A few milliseconds, which only contrived cases need."""

Move = Literal["resize", "sleep", "stop"]


class Option(msgspec.Struct, frozen=True):
    """One way of making a worker smaller.

    Attributes:
        move: What would be ordered.
        index: Of the size or the sleep level; 0 for a stop.
        gain: Bytes by account; below 0 where it needs room itself (a sleeper's weights in the machine's memory).
        price: Seconds that this is likely to cost later; not below 0.
    """

    move: Move
    index: int
    gain: Demand
    price: float


class Candidate(msgspec.Struct, frozen=True):
    """One worker that may be moved.

    Attributes:
        name: Its model.
        options: The ways; at most one is taken.
    """

    name: str
    options: tuple[Option, ...]


Choice = tuple[str, Option]


def choose(need: Demand, spare: Demand, candidates: Sequence[Candidate]) -> list[Choice] | None:
    """Return the cheapest moves that free what is needed, in the order of the candidates, or None if nothing does.

    Args:
        need: Bytes that are lacking, by account, each above 0.
        spare: Bytes free on the other accounts, for options that need room themselves.
        candidates: Who may be moved.
    """
    if not need:
        return []
    accounts = dict.fromkeys(need)
    for candidate in candidates:
        for option in candidate.options:
            accounts.update(dict.fromkeys(account for account, gain in option.gain.items() if gain < 0))
    problem = _Problem([need.get(account, -spare.get(account, 0)) for account in accounts])
    names = [
        candidate.name
        for candidate in candidates
        if problem.add([_Way(option, [option.gain.get(a, 0) for a in accounts]) for option in candidate.options])
    ]
    picks = problem.solve()
    if picks is None:
        return None
    return [(name, way.option) for name, way in zip(names, picks, strict=True) if way is not None]


class _Way:
    """An option with its gains as a vector."""

    __slots__ = ("gains", "option", "price")

    def __init__(self, option: Option, gains: list[int]) -> None:
        self.option = option
        self.gains = gains
        self.price = option.price


_Picks = list[_Way | None]


class _Problem:
    """Cover ``lacking`` (below 0: room that may be used up) by at most one way of each row."""

    def __init__(self, lacking: list[int]) -> None:
        self.lacking = lacking
        self.rows: list[list[_Way]] = []

    def add(self, ways: list[_Way]) -> bool:
        """Take a candidate in, cheapest way first, without those that gain nothing more; return whether any is left."""
        row: list[_Way] = []
        for way in sorted(ways, key=lambda way: way.price):
            is_dearer_for_nothing = any(
                all(mine <= other for mine, other in zip(way.gains, kept.gains, strict=True)) for kept in row
            )
            if not is_dearer_for_nothing and any(gain > 0 for gain in way.gains):
                row.append(way)
        if row:
            self.rows.append(row)
        return bool(row)

    def solve(self) -> _Picks | None:
        for index, lack in enumerate(self.lacking):
            if lack > 0 and sum(max(0, *(way.gains[index] for way in row), 0) for row in self.rows) < lack:
                return None
        picks = self.greedy()
        if len(self.rows) <= EXACT_CANDIDATES:
            return _Search(self, picks).run()
        return picks

    def covers(self, picks: _Picks) -> bool:
        rest = list(self.lacking)
        for way in picks:
            if way is not None:
                rest = [lack - gain for lack, gain in zip(rest, way.gains, strict=True)]
        return all(lack <= 0 for lack in rest)

    def greedy(self) -> _Picks | None:
        picks: _Picks = [None] * len(self.rows)
        rest = list(self.lacking)
        while any(lack > 0 for lack in rest):
            step = self._best_step(picks, rest)
            if step is None:
                return None
            place, way, more = step
            picks[place] = way
            rest = [lack - gain for lack, gain in zip(rest, more, strict=True)]
        return self._without_superfluous(picks)

    def _best_step(self, picks: _Picks, rest: list[int]) -> tuple[int, _Way, list[int]] | None:
        best: tuple[int, _Way, list[int]] | None = None
        best_price = float("inf")
        for place, row in enumerate(self.rows):
            taken = picks[place]
            for way in row:
                if taken is not None and way.price <= taken.price:
                    continue  # only upwards, or it might go round in circles
                more = way.gains if taken is None else [a - b for a, b in zip(way.gains, taken.gains, strict=True)]
                useful = sum(min(gain, lack) for gain, lack in zip(more, rest, strict=True) if gain > 0 and lack > 0)
                if useful <= 0:
                    continue
                price = (way.price - (taken.price if taken else 0.0)) / useful
                if price < best_price:
                    best, best_price = (place, way, more), price
        return best

    def _without_superfluous(self, picks: _Picks) -> _Picks:
        taken = [(way.price, -place) for place, way in enumerate(picks) if way is not None]
        for _, minus_place in sorted(taken, reverse=True):
            place = -minus_place
            for lighter in [None, *self.rows[place]]:
                if lighter is picks[place]:
                    break
                trial = [*picks[:place], lighter, *picks[place + 1 :]]
                if self.covers(trial):
                    picks = trial
                    break
        return picks


class _Search:
    """Branch and bound over the rows, best price per byte first."""

    def __init__(self, problem: _Problem, start: _Picks | None) -> None:
        self.best = start
        self.best_price = float("inf") if start is None else sum(way.price for way in start if way)
        self.steps = 0
        self.problem = problem
        self.main = max(range(len(problem.lacking)), key=lambda index: problem.lacking[index])
        ratio = [self._ratio(row) for row in problem.rows]
        self.order = sorted(range(len(problem.rows)), key=lambda place: ratio[place])
        self.ratios = [ratio[place] for place in self.order]
        most = [
            [max(0, *(way.gains[i] for way in row), 0) for i in range(len(problem.lacking))] for row in problem.rows
        ]
        self.most = [most[place] for place in self.order]
        self.left = [[0] * len(problem.lacking)]  # what all rows from here on can free together
        for gains in reversed(self.most):
            self.left.append([a + b for a, b in zip(self.left[-1], gains, strict=True)])
        self.left.reverse()
        self.picks: _Picks = [None] * len(problem.rows)

    def run(self) -> _Picks | None:
        self._descend(0, list(self.problem.lacking), 0.0)
        return self.best

    def _ratio(self, row: list[_Way]) -> float:
        return min((way.price / way.gains[self.main] for way in row if way.gains[self.main] > 0), default=float("inf"))

    def _descend(self, depth: int, rest: list[int], price: float) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            return
        if all(lack <= 0 for lack in rest):
            if price < self.best_price:
                self.best, self.best_price = list(self.picks), price
            return
        if depth == len(self.order) or any(lack > most for lack, most in zip(rest, self.left[depth], strict=True)):
            return
        if price + self._at_least(depth, rest[self.main]) >= self.best_price:
            return
        place = self.order[depth]
        for way in self.problem.rows[place]:
            self.picks[place] = way
            self._descend(
                depth + 1, [lack - gain for lack, gain in zip(rest, way.gains, strict=True)], price + way.price
            )
        self.picks[place] = None
        self._descend(depth + 1, rest, price)

    def _at_least(self, depth: int, lack: int) -> float:
        """Return the price if everything could be moved by the byte: never more than the real one."""
        price = 0.0
        for index in range(depth, len(self.order)):
            if lack <= 0:
                break
            gain = self.most[index][self.main]
            if gain > 0:
                price += self.ratios[index] * min(gain, lack)
                lack -= gain
        return price
