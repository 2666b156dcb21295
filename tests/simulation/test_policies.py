"""Policies against each other on the same arrivals: what ours promises, and that nobody breaks a rule of the card."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.cards import a_card, at_random, run, write_trace
from support.samples import some_paths
from turnout.simulate.bound import least_swaps
from turnout.simulate.comparison import POLICIES, scheduler_of, simulate
from turnout.simulate.finding import find_profile
from turnout.simulate.profile import Profile
from turnout.simulate.report import Report, report_of
from turnout.simulate.traces.arrivals import Arrivals, ArrivalsBuilder, LeaseShape
from turnout.simulate.traces.reading import read_trace
from turnout.simulate.world import SERVED

SEEDS = (1, 2, 3)
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Runs = dict[str, list[Report]]


def compared(profile: Profile, read: Callable[[int], Arrivals]) -> Runs:
    runs: Runs = {policy: [] for policy in POLICIES}
    for report in simulate(profile, read, seeds=SEEDS):
        runs[report.policy].append(report)
    return runs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def on_dev(root: Path) -> Runs:
    """Five models, of which the pinned one, the small one and one of the other three fit; a request every 4 s."""
    profile = find_profile("dev", some_paths(root)).profile
    trace = write_trace(root / "dev.csv", 2500, seed=17, mean_gap=4.0)
    return compared(profile, lambda seed: read_trace(trace, profile, seed))


@pytest.fixture(scope="module")
def on_small(root: Path) -> Runs:
    """Three models, of which two fit; a request every 4 s."""
    profile = find_profile("small", some_paths(root)).profile
    trace = write_trace(root / "small.csv", 2500, seed=17, mean_gap=4.0)
    return compared(profile, lambda seed: read_trace(trace, profile, seed))


@pytest.fixture(scope="module")
def on_mixed(root: Path) -> Runs:
    """Chat, code, reasoning, voice, pictures and meshes for two hours."""
    profile = find_profile("mixed", some_paths(root)).profile
    return compared(profile, lambda seed: read_trace(EXAMPLES / "workstation.yaml", profile, seed))


def swaps(runs: list[Report]) -> list[int]:
    return [report.swaps for report in runs]


def p99(runs: list[Report], priority: str = "interactive") -> list[float]:
    figures = [report.wait_seconds[priority].p99 for report in runs]
    return [figure for figure in figures if figure is not None]


def longest(runs: list[Report]) -> float:
    return max(figures.max or 0.0 for report in runs for figures in report.wait_seconds.values())


@pytest.mark.parametrize("rival", ["lru", "fifo"])
def test_on_dev_there_are_fewer_swaps_and_people_wait_less(on_dev: Runs, rival: str) -> None:
    assert max(swaps(on_dev["turnout"])) < min(swaps(on_dev[rival]))
    assert statistics.median(p99(on_dev["turnout"])) < statistics.median(p99(on_dev[rival]))


@pytest.mark.parametrize("rival", ["lru", "fifo"])
def test_on_small_there_are_fewer_swaps_and_people_wait_no_longer(on_small: Runs, rival: str) -> None:
    for ours, theirs in zip(swaps(on_small["turnout"]), swaps(on_small[rival]), strict=True):
        assert ours < theirs
    assert statistics.median(p99(on_small["turnout"])) <= max(p99(on_small[rival]))  # the same but for the spread


@pytest.mark.parametrize("rival", ["lru", "fifo"])
def test_on_the_mixed_workload_people_wait_less(on_mixed: Runs, rival: str) -> None:
    assert max(p99(on_mixed["turnout"])) < min(p99(on_mixed[rival]))
    for turnout, other in zip(on_mixed["turnout"], on_mixed[rival], strict=True):
        assert turnout.refused < other.refused


@pytest.mark.parametrize(("where", "given_up_share"), [("on_dev", 0.0), ("on_small", 0.0), ("on_mixed", 0.003)])
def test_nobody_starves(where: str, given_up_share: float, request: pytest.FixtureRequest) -> None:
    runs: Runs = request.getfixturevalue(where)
    for report in runs["turnout"]:
        assert report.refused <= given_up_share * report.requests
    assert longest(runs["turnout"]) < 240


def test_voice_begins_at_once_whatever_else_fills_the_card(on_mixed: Runs) -> None:
    for report in on_mixed["turnout"]:
        voice = report.by_role["transcription"].wait_seconds
        assert voice.p99 is not None
        assert voice.p99 < 5  # its own load takes 4 s


@pytest.mark.parametrize("where", ["on_dev", "on_small", "on_mixed"])
def test_no_policy_stays_below_the_bound(where: str, request: pytest.FixtureRequest) -> None:
    runs: Runs = request.getfixturevalue(where)
    for policy in POLICIES:
        for report in runs[policy]:
            assert report.swaps_lower_bound <= report.swaps + report.idle_unloads
            assert report.swaps_lower_bound > 0


CARDS = {
    "two of three": a_card(8, a={}, b={}, c={}),
    "pinned": a_card(9, a={"class": "pinned", "vram_gib": 4}, b={"slots": 1}, c={"vram_gib": 5}, d={"vram_gib": 1}),
    "voice": a_card(10, a={"class": "voice", "vram_gib": 2, "load_seconds": 1}, b={"vram_gib": 8}, c={"vram_gib": 6}),
    "asleep": a_card(
        9, a={"sleep": [{"residual_gib": 0.5}]}, b={"sleep": [{"residual_gib": 0.5}]}, c={"idle_seconds": 20}
    ),
}


def with_leases(profile: Profile, seed: int, count: int, gap: float, patience: float) -> Arrivals:
    plain = at_random(profile, seed, count, gap, patience)
    builder = ArrivalsBuilder(profile, "with leases")
    shape = builder.add_lease_shape(LeaseShape(holder="painter", devices={profile.devices[0].id: 3 << 30}))
    for index, at in enumerate(plain.at):
        is_lease = (index + seed) % 9 == 0
        target = shape if is_lease else plain.target[index]
        role = "picture" if is_lease else plain.roles[plain.role[index]]
        builder.add_work(at, target, role, "normal", "somebody", plain.work[index], patience)
    return builder.build()


@pytest.mark.parametrize("policy", POLICIES)
@given(
    card=st.sampled_from(sorted(CARDS)),
    seed=st.integers(0, 100_000),
    gap=st.sampled_from([0.3, 2.0, 10.0, 60.0]),
    patience=st.sampled_from([15.0, 60.0, 900.0]),
)
@example(card="pinned", seed=8358, gap=2.0, patience=15.0)  # somebody left the line of a model that was being loaded
@settings(max_examples=25, deadline=None)
def test_everybody_is_served_or_refused_in_time_and_the_card_is_never_overfilled(
    policy: str, card: str, seed: int, gap: float, patience: float
) -> None:
    profile = CARDS[card]
    arrivals = with_leases(profile, seed, 120, gap, patience)
    world = run(scheduler_of(policy, profile), profile, arrivals)  # raises where a rule of the card is broken
    report = report_of(world, policy, seed)
    assert report.served + report.refused == len(arrivals)
    assert max(world.wait) <= patience
    served = [status == SERVED for status in world.status]
    assert least_swaps(arrivals, profile.usable_bytes, served) <= report.swaps + report.idle_unloads
    if patience == 900.0 and gap >= 10:
        assert report.refused == 0
