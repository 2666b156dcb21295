"""Whom to move: the cheapest set that suffices, and no more."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from turnout.core.memory import Demand
from turnout.scheduler import evict
from turnout.scheduler.evict import Candidate, Choice, Option, choose


def stops(**sizes_and_prices: tuple[int, float]) -> list[Candidate]:
    return [
        Candidate(name, (Option("stop", 0, {"gpu": size}, price),)) for name, (size, price) in sizes_and_prices.items()
    ]


def names(found: list[Choice] | None) -> list[str] | None:
    return None if found is None else [name for name, _ in found]


def test_the_cheapest_that_suffices_goes() -> None:
    assert names(choose({"gpu": 8}, {}, stops(a=(8, 5.0), b=(8, 3.0), c=(4, 0.1)))) == ["b"]


def test_two_cheap_ones_may_be_cheaper_than_one() -> None:
    assert names(choose({"gpu": 8}, {}, stops(large=(8, 10.0), a=(4, 2.0), b=(4, 2.0)))) == ["a", "b"]


def test_nobody_is_moved_who_is_not_needed() -> None:
    assert names(choose({"gpu": 8}, {}, stops(tiny=(1, 0.0), enough=(8, 1.0)))) == ["enough"]


def test_nothing_is_chosen_if_nothing_suffices_and_nothing_if_nothing_is_needed() -> None:
    assert choose({"gpu": 9}, {}, stops(a=(4, 1.0), b=(4, 1.0))) is None
    assert choose({"gpu": 1}, {}, []) is None
    assert choose({}, {}, stops(a=(4, 1.0))) == []


def test_a_need_on_two_devices_is_covered_on_both() -> None:
    candidates = [
        Candidate("left", (Option("stop", 0, {"gpu0": 8}, 1.0),)),
        Candidate("right", (Option("stop", 0, {"gpu1": 8}, 1.0),)),
        Candidate("both", (Option("stop", 0, {"gpu0": 8, "gpu1": 8}, 3.0),)),
    ]
    assert names(choose({"gpu0": 8, "gpu1": 8}, {}, candidates)) == ["left", "right"]


def test_a_sleeper_needs_room_for_its_weights() -> None:
    sleepy = Candidate("a", (Option("sleep", 0, {"gpu": 7, "ram": -8}, 0.1), Option("stop", 0, {"gpu": 8}, 5.0)))
    roomy, full = choose({"gpu": 6}, {"ram": 8}, [sleepy]), choose({"gpu": 6}, {"ram": 7}, [sleepy])
    assert roomy is not None
    assert full is not None
    assert (roomy[0][1].move, full[0][1].move) == ("sleep", "stop")


def test_another_sleeper_may_leave_so_that_the_weights_have_room() -> None:
    candidates = [
        Candidate("a", (Option("sleep", 0, {"gpu": 7, "ram": -8}, 0.1), Option("stop", 0, {"gpu": 8}, 50.0))),
        Candidate("old", (Option("stop", 0, {"gpu": 1, "ram": 8}, 2.0),)),
    ]
    found = choose({"gpu": 6}, {"ram": 0}, candidates)
    assert found is not None
    assert [(name, option.move) for name, option in found] == [("a", "sleep"), ("old", "stop")]


GAINS = st.fixed_dictionaries(
    {"gpu": st.integers(0, 12)}, optional={"gpu1": st.integers(0, 6), "ram": st.integers(-12, 6)}
)
OPTIONS = st.lists(st.builds(Option, st.just("stop"), st.integers(0, 3), GAINS, st.floats(0.01, 9.0)), max_size=3)


@st.composite
def problems(draw: st.DrawFn, most: int) -> tuple[Demand, Demand, list[Candidate]]:
    count = draw(st.integers(0, most))
    candidates = [Candidate(f"m{number}", tuple(draw(OPTIONS))) for number in range(count)]
    need: Demand = {"gpu": draw(st.integers(1, 25))}
    if draw(st.booleans()):
        need["gpu1"] = draw(st.integers(1, 8))
    return need, {"ram": draw(st.integers(0, 20))}, candidates


def suffices(need: Demand, spare: Demand, options: list[Option]) -> bool:
    total: Demand = {}
    for option in options:
        for account, gain in option.gain.items():
            total[account] = total.get(account, 0) + gain
    return all(total.get(account, 0) >= amount for account, amount in need.items()) and all(
        amount >= -spare.get(account, 0) for account, amount in total.items() if account not in need
    )


def cheapest(need: Demand, spare: Demand, candidates: list[Candidate]) -> float | None:
    prices = [
        sum(option.price for option in taken)
        for picks in itertools.product(*[(None, *candidate.options) for candidate in candidates])
        if suffices(need, spare, taken := [option for option in picks if option is not None])
    ]
    return min(prices, default=None)


@given(problems(4))
def test_few_candidates_are_searched_exactly(problem: tuple[Demand, Demand, list[Candidate]]) -> None:
    need, spare, candidates = problem
    found, best = choose(need, spare, candidates), cheapest(need, spare, candidates)
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        options = [option for _, option in found]
        assert suffices(need, spare, options)
        assert abs(sum(option.price for option in options) - best) < 1e-9


@given(problems(20))
def test_many_candidates_suffice_and_none_is_superfluous(problem: tuple[Demand, Demand, list[Candidate]]) -> None:
    need, spare, candidates = problem
    found = choose(need, spare, candidates)
    if found is None:
        return
    assert len({name for name, _ in found}) == len(found)
    options = [option for _, option in found]
    assert suffices(need, spare, options)
    for left_out in range(len(options)):
        assert not suffices(need, spare, options[:left_out] + options[left_out + 1 :])


def test_stops_alone_always_suffice_greedily_if_they_can() -> None:
    many = stops(**{f"m{number}": (number + 1, float(number % 7) + 0.5) for number in range(30)})
    assert len(many) > evict.EXACT_CANDIDATES
    found = choose({"gpu": 100}, {}, many)
    assert found is not None
    assert sum(option.gain["gpu"] for _, option in found) >= 100
