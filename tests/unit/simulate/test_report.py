"""Figures: nearest rank, and refusing never lowers one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.cards import a_card, asked, asked_and_leased, run, write_trace
from support.samples import some_paths
from turnout.core.errors import SetupError
from turnout.simulate.comparison import check_policies, scheduler_of, simulate
from turnout.simulate.finding import find_profile
from turnout.simulate.profile import Profile
from turnout.simulate.report import Report, quantiles, report_of
from turnout.simulate.traces.reading import read_trace
from turnout.simulate.world import REFUSED, World

CARD = a_card(8, a={}, b={}, c={})


def reported(profile: Profile = CARD, patience: float | None = None) -> Report:
    arrivals = asked(profile, (0, "a", 1), (1, "b", 1), (30, "c", 1), (31, "c", 1), patience=patience)
    return report_of(run(scheduler_of("fifo", profile), profile, arrivals), "fifo", 1)


def test_a_percentile_is_a_value_that_was_there() -> None:
    told = quantiles(float(number) for number in range(100, 0, -1))
    assert (told.p50, told.p95, told.p99, told.max, told.mean) == (50.0, 95.0, 99.0, 100.0, 50.5)
    assert quantiles([3.0]).p99 == 3.0
    assert quantiles([]).p50 is None


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_in_order(values: list[float]) -> None:
    told = quantiles(values)
    assert told.p50 is not None
    assert told.p95 is not None
    assert told.p99 is not None
    assert told.max is not None
    assert told.p50 <= told.p95 <= told.p99 <= told.max


def test_the_report_adds_up() -> None:
    told = reported()
    assert (told.requests, told.served, told.refused) == (4, 4, 0)
    assert (told.loads, told.swaps, told.evictions) == (3, 1, 1)
    assert told.wait_seconds["normal"].max == 6.0
    assert told.wait_seconds["interactive"].p50 is None
    assert told.first_token_seconds["normal"].p50 is None  # work of known length has no tokens
    assert {name: group.requests for name, group in told.by_role.items()} == {"a": 1, "b": 1, "c": 2}
    assert told.memory.capacity_bytes == 8 << 30
    assert set(told.memory.holders) == {"local/a", "local/b", "local/c"}
    # Of 8 GiB for 37 s: 4 GiB from 0 to the end; 4 GiB from 1 to 31, and for another model from then on.
    assert told.memory.held_share == pytest.approx((4 * 37 + 4 * 36) / (8 * 37), abs=0.001)
    assert max(sum(column) for column in zip(*told.memory.holders.values(), strict=True)) <= 8 << 30


def test_refused_ones_count_with_their_whole_patience() -> None:
    told = reported(patience=2)
    assert told.refused == 4
    assert told.refusals == {"deadline": 4}
    assert told.wait_seconds["normal"].p50 == 2.0
    assert told.by_role["c"].refused == 2


@given(refused=st.sets(st.integers(0, 19)))
def test_refusing_more_never_lowers_a_percentile(refused: set[int]) -> None:
    card = a_card(8, a={"slots": 1})
    arrivals = asked(card, *((0.5 * number, "a", 1.0) for number in range(20)), patience=12)
    world = run(scheduler_of("fifo", card), card, arrivals)
    before = report_of(world, "x", 1)
    for index in refused:
        world.status[index] = REFUSED
        world.wait[index] = arrivals.patience[index]
    after = report_of(world, "x", 1)
    for name in ("p50", "p95", "p99", "max"):
        assert getattr(after.wait_seconds["normal"], name) >= getattr(before.wait_seconds["normal"], name)


def test_leases_are_a_role_of_their_own() -> None:
    world = run(scheduler_of("lru", CARD), CARD, asked_and_leased(CARD, [(0, "a", 1)], [(3, 8, 10)]))
    told = report_of(world, "lru", 1)
    assert told.by_role["picture"].served == 1
    assert told.swaps == 1
    assert "painter" in told.memory.holders


def test_all_policies_get_the_same_arrivals_and_the_same_seed_the_same_report(tmp_path: Path) -> None:
    profile = find_profile("small", some_paths(tmp_path)).profile
    trace = write_trace(tmp_path / "t.csv", 300, seed=5, mean_gap=2)

    def both() -> list[Report]:
        return list(simulate(profile, lambda seed: read_trace(trace, profile, seed), seeds=(1, 2)))

    first, second = both(), both()
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert [(report.policy, report.seed) for report in first] == [
        (policy, seed) for seed in (1, 2) for policy in ("turnout", "lru", "fifo")
    ]
    assert first[0].by_role["coding"].requests == first[1].by_role["coding"].requests
    assert first[0].by_role["coding"].requests != first[3].by_role["coding"].requests


def test_progress_ends_with_all_of_them(tmp_path: Path) -> None:
    told: list[tuple[str, int, int, int]] = []
    arrivals = asked(CARD, (0, "a", 1), (1, "b", 1))
    list(simulate(CARD, lambda _: arrivals, policies=("fifo",), seeds=(3,), tell=lambda *facts: told.append(facts)))
    assert told == [("fifo", 3, 2, 2)]


def test_an_unknown_policy_has_near_ones() -> None:
    check_policies(["turnout", "lru", "fifo"])
    with pytest.raises(SetupError) as caught:
        check_policies(["fif"])
    assert caught.value.hint == "did you mean fifo?"


def test_a_run_leaves_nobody_undecided() -> None:
    world = World(scheduler_of("fifo", CARD), CARD, asked(CARD, (0, "a", 1)))
    world.run()
    assert 0 not in world.status
