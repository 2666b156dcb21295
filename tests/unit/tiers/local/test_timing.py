"""The timing model and the fault plan: properties that hold for any speed, and a few figures worked by hand."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.tiers.local.timing import Fault, FaultPlan, Job, TimingModel

RATES = st.floats(min_value=0.01, max_value=1e6)
SECONDS = st.floats(min_value=0, max_value=1e5)
TOKENS = st.integers(min_value=0, max_value=100_000)
MODELS = st.builds(
    TimingModel,
    load_seconds=SECONDS,
    tokens_per_second=RATES,
    prompt_tokens_per_second=RATES,
    slots=st.integers(min_value=1, max_value=5),
    first_token_seconds=SECONDS,
)
JOBS = st.lists(
    st.builds(
        Job,
        arrival_seconds=st.floats(min_value=0, max_value=100),
        prompt_tokens=st.integers(min_value=0, max_value=1000),
        tokens=st.integers(min_value=0, max_value=1000),
    ),
    max_size=30,
).map(lambda jobs: sorted(jobs, key=lambda job: job.arrival_seconds))
FAULTS = st.builds(
    Fault,
    kind=st.sampled_from(["error", "stall", "cut"]),
    times=st.integers(min_value=-1, max_value=5),
    skip=st.integers(min_value=0, max_value=10),
)


def model(**changes: float) -> TimingModel:
    figures = {"load_seconds": 2.0, "tokens_per_second": 50.0, "prompt_tokens_per_second": 1000.0, "slots": 2}
    return msgspec.convert(figures | changes, TimingModel)


def test_figures_worked_by_hand() -> None:
    timing = model(first_token_seconds=0.25)
    assert timing.seconds_to_first_token(500) == pytest.approx(0.75)
    assert timing.seconds_to_token(500, 0) == pytest.approx(0.75)
    assert timing.seconds_to_token(500, 50) == pytest.approx(1.75)
    assert timing.seconds_in_all(500, 51) == pytest.approx(1.75)
    assert timing.seconds_in_all(500, 0) == pytest.approx(0.75)
    assert timing.load_fraction(0.5) == pytest.approx(0.25)


def test_a_model_that_loads_at_once_is_loaded_at_once() -> None:
    assert model(load_seconds=0).load_fraction(0) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens_per_second", 0),
        ("tokens_per_second", math.inf),
        ("prompt_tokens_per_second", -1),
        ("load_seconds", -0.1),
        ("first_token_seconds", math.nan),
        ("slots", 0),
    ],
)
def test_impossible_figures_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        model(**{field: value})


@given(timing=MODELS, prompt_tokens=TOKENS, token=TOKENS)
def test_due_times_never_go_back(timing: TimingModel, prompt_tokens: int, token: int) -> None:
    here = timing.seconds_to_token(prompt_tokens, token)
    assert timing.seconds_to_token(prompt_tokens, token + 1) >= here
    assert timing.seconds_to_token(prompt_tokens + 1, token) >= here
    assert here >= timing.seconds_to_first_token(prompt_tokens)


@given(timing=MODELS, prompt_tokens=TOKENS, seconds=SECONDS)
def test_tokens_never_come_faster_than_the_rate(timing: TimingModel, prompt_tokens: int, seconds: float) -> None:
    due = timing.tokens_due(prompt_tokens, seconds)
    allowed = max(seconds - timing.seconds_to_first_token(prompt_tokens), -1) * timing.tokens_per_second + 1
    assert due <= max(allowed, 0) * (1 + 1e-9) + 1e-3


@given(timing=MODELS, prompt_tokens=TOKENS, seconds=SECONDS)
def test_tokens_due_is_the_inverse_of_due_times(timing: TimingModel, prompt_tokens: int, seconds: float) -> None:
    due = timing.tokens_due(prompt_tokens, seconds)
    assert timing.seconds_to_token(prompt_tokens, due) > seconds
    if due:
        assert timing.seconds_to_token(prompt_tokens, due - 1) <= seconds


@given(timing=MODELS, prompt_tokens=TOKENS, token=TOKENS)
def test_a_token_is_due_at_its_own_time(timing: TimingModel, prompt_tokens: int, token: int) -> None:
    assert timing.tokens_due(prompt_tokens, timing.seconds_to_token(prompt_tokens, token)) > token


@given(timing=MODELS, elapsed=st.floats(min_value=-10, max_value=2e5))
def test_load_fraction_stays_between_0_and_1(timing: TimingModel, elapsed: float) -> None:
    fraction = timing.load_fraction(elapsed)
    assert 0.0 <= fraction <= 1.0
    assert (fraction == 1.0) or elapsed < timing.load_seconds


@given(timing=MODELS, jobs=JOBS)
def test_never_more_jobs_run_than_there_are_slots(timing: TimingModel, jobs: list[Job]) -> None:
    starts = timing.start_seconds(jobs)
    ends = [
        start + timing.seconds_in_all(job.prompt_tokens, job.tokens) for start, job in zip(starts, jobs, strict=True)
    ]
    for start in starts:
        running = sum(1 for other, end in zip(starts, ends, strict=True) if other <= start < end)
        assert running <= timing.slots


@given(timing=MODELS, jobs=JOBS)
def test_jobs_start_in_their_order_and_without_waiting_for_nothing(timing: TimingModel, jobs: list[Job]) -> None:
    starts = timing.start_seconds(jobs)
    assert list(starts) == sorted(starts)
    assert starts == timing.start_seconds(jobs)
    ends: list[float] = []
    for start, job in zip(starts, jobs, strict=True):
        assert start == job.arrival_seconds or start in ends, "a job waits only until another one ends"
        ends.append(start + timing.seconds_in_all(job.prompt_tokens, job.tokens))


def test_the_third_job_of_two_slots_waits_for_the_shorter_one() -> None:
    timing = model()
    jobs = [Job(arrival_seconds=0, prompt_tokens=0, tokens=101), Job(0, 0, 51), Job(0.5, 0, 51), Job(9, 0, 1)]
    assert timing.start_seconds(jobs) == (0, 0, 1.0, 9)


def test_faults_hit_a_window_of_requests() -> None:
    fault = Fault(kind="cut", skip=2, times=3)
    assert [index for index in range(10) if fault.hits(index)] == [2, 3, 4]


def test_the_first_listed_fault_wins() -> None:
    once, always = Fault(kind="error", times=1), Fault(kind="stall")
    plan = FaultPlan((once, always))
    assert [plan.fault_of(index) for index in range(3)] == [once, always, always]
    assert FaultPlan().fault_of(0) is None


@given(faults=st.lists(FAULTS, max_size=5), indexes=st.lists(st.integers(min_value=0, max_value=30)))
def test_a_plan_gives_the_same_answer_in_any_order(faults: list[Fault], indexes: list[int]) -> None:
    plan, again = FaultPlan(tuple(faults)), FaultPlan(tuple(faults))
    forwards = [plan.fault_of(index) for index in indexes]
    backwards = [again.fault_of(index) for index in reversed(indexes)]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize(
    "fields", [{"times": -2}, {"skip": -1}, {"after_tokens": -1}, {"seconds": -1}, {"status": 200}, {"kind": "tired"}]
)
def test_impossible_faults_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "error"} | fields, Fault)
