"""Whom to move so that there is room, at the least price. Pure.

The price of a move is (seconds to get the worker back) x (how often it is likely to be wanted soon); whoever asks works
it out. Few candidates are searched exactly: depth first, pruned by the fractional relaxation of the account that lacks
most. More are taken greedily by price per useful byte. Either way nothing is moved that is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    problem = _Problem(_lacking(need, spare, candidates))
    names = [candidate.name for candidate in candidates if problem.add(candidate.options)]
    picks = problem.solve()
    if picks is None:
        return None
    return [(name, way.option) for name, way in zip(names, picks, strict=True) if way is not None]


def _lacking(need: Demand, spare: Demand, candidates: Sequence[Candidate]) -> Demand:
    """Return what is lacking, below 0 for what is spare, on the accounts that matter.

    Spare room matters only if there is less than all candidates might want of it together. An account on which all
    gains and the need are the same as on another one (a card, and the same card beside the room for voice) is left out.
    """
    wanted: Demand = {}
    for candidate in candidates:
        worst: Demand = {}
        for option in candidate.options:
            for account, gain in option.gain.items():
                if gain < 0 and account not in need:
                    worst[account] = max(worst.get(account, 0), -gain)
        for account, amount in worst.items():
            wanted[account] = wanted.get(account, 0) + amount
    columns: dict[tuple[int, ...], str] = {}
    for account, amount in need.items():
        gains = [option.gain.get(account, 0) for candidate in candidates for option in candidate.options]
        columns.setdefault((amount, *gains), account)
    lacking = {account: need[account] for account in columns.values()}
    for account, amount in wanted.items():
        if spare.get(account, 0) < amount:
            lacking[account] = -spare.get(account, 0)
    return lacking


class _Way:
    """An option with its gains as a vector."""

    __slots__ = ("gains", "option", "price")

    def __init__(self, option: Option, gains: tuple[int, ...]) -> None:
        self.option = option
        self.gains = gains
        self.price = option.price


_Picks = list[_Way | None]


class _Problem:
    """Cover what is lacking (below 0: room that may be used up) by at most one way of each row."""

    def __init__(self, lacking: Demand) -> None:
        self.accounts = tuple(lacking)
        self.lacking = tuple(lacking.values())
        self.rows: list[list[_Way]] = []

    def add(self, options: Sequence[Option]) -> bool:
        """Take a candidate in, cheapest way first, without those that gain nothing more; return whether any is left."""
        row: list[_Way] = []
        for option in sorted(options, key=_price):
            gains = tuple([option.gain.get(account, 0) for account in self.accounts])
            if max(gains) > 0 and not any(_is_no_better(gains, kept.gains) for kept in row):
                row.append(_Way(option, gains))
        if row:
            self.rows.append(row)
        return bool(row)

    def solve(self) -> _Picks | None:
        if len(self.rows) == 1:
            alone: Iterator[_Picks] = ([way] for way in self.rows[0])
            return next((picks for picks in alone if self.covers(picks)), None)
        for index, lack in enumerate(self.lacking):
            if lack > 0 and sum(max(0, *(way.gains[index] for way in row), 0) for row in self.rows) < lack:
                return None
        picks = self.greedy()
        if len(self.rows) <= EXACT_CANDIDATES:
            return _Search(self, picks).run()
        return picks

    def covers(self, picks: _Picks) -> bool:
        taken = [way.gains for way in picks if way is not None]
        return all(lack <= sum([gains[index] for gains in taken]) for index, lack in enumerate(self.lacking))

    def greedy(self) -> _Picks | None:
        picks: _Picks = [None] * len(self.rows)
        rest = self.lacking
        while max(rest) > 0:
            step = self._best_step(picks, rest)
            if step is None:
                return None
            place, way, more = step
            picks[place] = way
            rest = _minus(rest, more)
        return self._without_superfluous(picks)

    def _best_step(self, picks: _Picks, rest: tuple[int, ...]) -> tuple[int, _Way, tuple[int, ...]] | None:
        best: tuple[int, _Way, tuple[int, ...]] | None = None
        best_price = float("inf")
        for place, row in enumerate(self.rows):
            taken = picks[place]
            for way in row:
                if taken is not None and way.price <= taken.price:
                    continue  # only upwards, or it might go round in circles
                more = way.gains if taken is None else _minus(way.gains, taken.gains)
                useful = 0
                for gain, lack in zip(more, rest, strict=True):
                    if gain > 0 and lack > 0:
                        useful += min(gain, lack)
                if useful <= 0:
                    continue
                price = (way.price - (taken.price if taken else 0.0)) / useful
                if price < best_price:
                    best, best_price = (place, way, more), price
        return best

    def _without_superfluous(self, picks: _Picks) -> _Picks:
        """Put back what is not needed, the dearest first, until nothing is: one may have needed another."""
        while (lighter := self._lighter(picks)) is not None:
            picks = lighter
        return picks

    def _lighter(self, picks: _Picks) -> _Picks | None:
        taken = [(way.price, -place) for place, way in enumerate(picks) if way is not None]
        for _, minus_place in sorted(taken, reverse=True):
            place = -minus_place
            for instead in [None, *self.rows[place]]:
                if instead is picks[place]:
                    break
                trial = [*picks[:place], instead, *picks[place + 1 :]]
                if self.covers(trial):
                    return trial
        return None


class _Search:
    """Branch and bound over the rows, best price per byte first."""

    def __init__(self, problem: _Problem, start: _Picks | None) -> None:
        self.best = start
        self.best_price = float("inf") if start is None else sum([way.price for way in start if way])
        self.steps = 0
        self.lacking = problem.lacking
        main = self.main = max(range(len(problem.lacking)), key=problem.lacking.__getitem__)
        ratios = [
            min((way.price / way.gains[main] for way in row if way.gains[main] > 0), default=float("inf"))
            for row in problem.rows
        ]
        self.order = sorted(range(len(ratios)), key=ratios.__getitem__)
        self.rows = [problem.rows[place] for place in self.order]
        self.ratios = [ratios[place] for place in self.order]
        accounts = range(len(problem.lacking))
        most = [tuple([max(0, *(way.gains[i] for way in row), 0) for i in accounts]) for row in self.rows]
        self.most_of_main = [gains[main] for gains in most]
        left = [tuple([0] * len(problem.lacking))]  # what all rows from here on can free together
        for gains in reversed(most):
            left.append(tuple([a + b for a, b in zip(left[-1], gains, strict=True)]))
        self.left = left[::-1]
        self.picks: _Picks = [None] * len(self.rows)

    def run(self) -> _Picks | None:
        self._descend(0, self.lacking, 0.0)
        return self.best

    def _descend(self, depth: int, rest: tuple[int, ...], price: float) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            return
        if max(rest) <= 0:
            if price < self.best_price:
                best: _Picks = [None] * len(self.picks)
                for place, way in zip(self.order, self.picks, strict=True):
                    best[place] = way
                self.best, self.best_price = best, price
            return
        if depth == len(self.rows) or any(lack > most for lack, most in zip(rest, self.left[depth], strict=True)):
            return
        if price + self._at_least(depth, rest[self.main], self.best_price - price) >= self.best_price:
            return
        for way in self.rows[depth]:
            if price + way.price < self.best_price:
                self.picks[depth] = way
                self._descend(depth + 1, _minus(rest, way.gains), price + way.price)
        self.picks[depth] = None
        self._descend(depth + 1, rest, price)

    def _at_least(self, depth: int, lack: int, enough: float) -> float:
        """Return the price if everything could be moved by the byte: never more than the real one.

        Args:
            depth: Of the first row that is not decided.
            lack: Bytes of the main account.
            enough: It need not be worked out beyond this.
        """
        price = 0.0
        for index in range(depth, len(self.rows)):
            if lack <= 0 or price >= enough:
                break
            gain = self.most_of_main[index]
            if gain > 0:
                price += self.ratios[index] * min(gain, lack)
                lack -= gain
        return price


def _minus(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    if len(one) == 1:
        return (one[0] - other[0],)
    return tuple([a - b for a, b in zip(one, other, strict=True)])


def _is_no_better(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def _price(option: Option) -> float:
    return option.price
