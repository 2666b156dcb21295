"""What the planner says of cards and models, and what it never says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.shapes import a_card_of, a_model, a_program, a_shape
from turnout.core.memory import GIB
from turnout.profiles.planner import CardPlan, leaving, plan_card, tokens_in
from turnout.profiles.shape import Card, Shape, ShapedModel


def verdicts(plan: CardPlan) -> dict[str, str]:
    return {entry.model.name.removeprefix("local/"): entry.verdict for entry in plan.models}


def test_everything_fits_on_a_large_card() -> None:
    plan = plan_card(a_shape(a_model("a", 4, is_pinned=True), a_model("b", 5)), a_card_of(10))
    assert verdicts(plan) == {"a": "stays", "b": "beside"}
    assert plan.fits
    assert plan.groups == (("local/a", "local/b"),)
    assert plan.bytes_of(plan.groups[0]) == plan.wanted_bytes == 9 * GIB


def test_what_does_not_fit_beside_the_others_changes_places_with_whoever_is_back_soonest() -> None:
    models = (a_model("a", 3, load_seconds=30), a_model("b", 3, load_seconds=5), a_model("c", 3, load_seconds=9))
    plan = plan_card(a_shape(*models, a_model("d", 4, load_seconds=20)), a_card_of(9))
    swapping = plan.models[3]
    assert swapping.verdict == "swaps"
    assert swapping.makes_way == ("local/b", "local/c"), "14 s to have both back, 30 s for a"
    assert swapping.seconds == 21
    assert plan.groups[0] == ("local/a", "local/b", "local/c")
    assert ("local/a", "local/d") in plan.groups


def test_the_order_of_the_profile_decides_who_is_there_first() -> None:
    first, second = a_model("a", 6), a_model("b", 6)
    assert verdicts(plan_card(a_shape(first, second), a_card_of(10))) == {"a": "beside", "b": "swaps"}
    assert verdicts(plan_card(a_shape(second, first), a_card_of(10))) == {"a": "swaps", "b": "beside"}


def test_a_pinned_model_comes_first_wherever_it_stands_and_never_makes_way() -> None:
    plan = plan_card(a_shape(a_model("a", 6), a_model("b", 6, is_pinned=True), a_model("c", 4)), a_card_of(10))
    assert verdicts(plan) == {"a": "no_room", "b": "stays", "c": "beside"}
    assert not plan.fits
    assert plan.models[0].room_bytes == 4 * GIB
    assert plan.groups == (("local/b", "local/c"),)


def test_headroom_and_what_is_kept_free_are_not_for_models() -> None:
    shape = a_shape(a_model("a", 6), keep_free_bytes=3 * GIB)
    assert verdicts(plan_card(shape, a_card_of(10, 1))) == {"a": "beside"}
    assert verdicts(plan_card(shape, a_card_of(10, 1.5))) == {"a": "too_large"}
    assert plan_card(shape, a_card_of(2)).room_bytes == 0


def with_parts(granted: float, **facts: object) -> ShapedModel:
    """Return a model of 2 GiB of weights and 1 GiB beside them; a request of 8,192 tokens takes 2 GiB of cache."""
    parts = {"weights_bytes": 2 * GIB, "rest_bytes": GIB, "cache_bytes_per_token": 1 << 18, "context_tokens": 8192}
    return a_model("a", granted, **{**parts, **facts})


def test_a_share_that_does_not_hold_one_request_is_told() -> None:
    assert verdicts(plan_card(a_shape(with_parts(5)), a_card_of(8))) == {"a": "beside"}
    entry = plan_card(a_shape(with_parts(4)), a_card_of(8)).models[0]
    assert (entry.verdict, entry.fitting_tokens) == ("small_share", 4096)
    assert plan_card(a_shape(with_parts(2.5)), a_card_of(8)).models[0].fitting_tokens == 0


def test_what_does_not_fit_would_with_a_shorter_context() -> None:
    entry = plan_card(a_shape(with_parts(8)), a_card_of(3.84)).models[0]
    assert (entry.verdict, entry.fitting_tokens) == ("too_large", 3072), "0.8 GiB, in steps of 256 tokens"
    assert 3.7 * GIB < entry.room_bytes <= 3.8 * GIB, "as people write it"
    assert plan_card(a_shape(with_parts(8)), a_card_of(3.3)).models[0].fitting_tokens == 0, "too short for anything"
    entry = plan_card(a_shape(with_parts(8)), a_card_of(7)).models[0]
    assert entry.fitting_tokens == 8192, "no more than it asks for"


@given(st.integers(1, 200), st.integers(1, 200))
def test_what_is_said_to_fit_does(wants: int, room: int) -> None:
    entry = plan_card(a_shape(with_parts(wants / 10)), a_card_of(room / 10)).models[0]
    if entry.fitting_tokens:
        smaller = with_parts(entry.room_bytes / GIB, context_tokens=entry.fitting_tokens)
        assert verdicts(plan_card(a_shape(smaller), a_card_of(room / 10))) == {"a": "beside"}


def test_a_share_is_one_of_this_card() -> None:
    model = with_parts(0, share=0.5)
    assert plan_card(a_shape(model), a_card_of(16)).models[0].bytes == 8 * GIB
    assert verdicts(plan_card(a_shape(model), a_card_of(9))) == {"a": "small_share"}


def test_the_cache_is_counted_in_tokens() -> None:
    assert plan_card(a_shape(with_parts(5)), a_card_of(8)).models[0].cache_tokens == 8192
    assert tokens_in(with_parts(5), 1) == 0
    assert tokens_in(a_model("a", 5), 5 * GIB) == 0, "nobody knows its parts"


def test_models_elsewhere_take_nothing_and_unknown_ones_are_told() -> None:
    models = (a_model("a", 0, place="memory"), a_model("b", 0, place="elsewhere"), a_model("c", 0))
    plan = plan_card(a_shape(*models), a_card_of(8))
    assert verdicts(plan) == {"a": "memory", "b": "elsewhere", "c": "unknown"}
    assert (plan.wanted_bytes, plan.groups, plan.fits) == (0, (), False)


def test_programs_find_room_or_have_it_made() -> None:
    models = (a_model("a", 4, is_pinned=True), a_model("b", 6, load_seconds=8), a_model("c", 2, load_seconds=3))
    programs = (a_program("p", 3), a_program("q", 5), a_program("r", 7), a_program("s", 13))
    small, middle, large, huge = plan_card(a_shape(*models, programs=programs), a_card_of(16)).programs
    assert (small.fits, small.makes_way, small.seconds) == (True, (), 0)
    assert (middle.makes_way, middle.seconds) == (("local/c",), 3)
    assert (large.makes_way, large.seconds) == (("local/b",), 8)
    assert (huge.fits, huge.room_bytes) == (False, 12 * GIB)


def test_programs_may_have_what_is_kept_free_for_them() -> None:
    shape = a_shape(a_model("a", 4), programs=(a_program("p", 5),), keep_free_bytes=5 * GIB)
    assert plan_card(shape, a_card_of(10)).programs[0].makes_way == ()


def test_other_figures_are_shares_of_their_card_or_gib() -> None:
    shape = a_shape(
        with_parts(5), a_model("b", 2), compared_card_bytes=10 * GIB, compared={"local/a": 0.35, "local/b": 6}
    )
    first, second = plan_card(shape, a_card_of(80)).compared
    assert (first.theirs_bytes, first.theirs_share, first.theirs_tokens) == (round(3.5 * GIB), 0.35, 2048)
    assert (second.theirs_bytes, second.theirs_share, second.weights_bytes) == (6 * GIB, None, 0)


def test_who_has_no_place_in_the_plan_would_leave() -> None:
    plan = plan_card(a_shape(a_model("a", 4), a_model("b", 40)), a_card_of(8))
    assert leaving(plan, ["local/a", "local/b", "local/old"]) == ("local/b", "local/old")


SIZES = st.integers(0, 40).map(lambda quarter: quarter / 4)
MODELS = st.lists(
    st.tuples(SIZES, st.booleans(), st.integers(0, 60)), min_size=0, max_size=7
).map(lambda facts: tuple(a_model(f"m{index}", gib, is_pinned=pinned, load_seconds=float(seconds))
                          for index, (gib, pinned, seconds) in enumerate(facts)))  # fmt: skip
SHAPES = st.builds(
    lambda models, programs, free: a_shape(
        *models, programs=tuple(a_program(f"p{i}", gib) for i, gib in enumerate(programs)), keep_free_bytes=free * GIB
    ),
    MODELS, st.lists(SIZES, max_size=3), st.integers(0, 12),
)  # fmt: skip
CARDS = st.builds(a_card_of, st.integers(0, 60).map(lambda half: half / 2), st.integers(0, 4).map(float))


@given(SHAPES, CARDS)
def test_never_more_together_than_fits_and_whoever_stays_is_always_in(shape: Shape, card: Card) -> None:
    plan = plan_card(shape, card)
    stays = {entry.model.name for entry in plan.models if entry.verdict == "stays"}
    fitting = {entry.model.name for entry in plan.models if entry.verdict in ("stays", "beside", "swaps")}
    for group in plan.groups:
        assert plan.bytes_of(group) <= plan.room_bytes <= max(0, card.total_bytes - card.headroom_bytes)
        assert stays <= set(group) <= fitting
        for other in fitting - set(group):
            assert plan.bytes_of((*group, other)) > plan.room_bytes, "a set that could be larger is no answer"
    assert {name for group in plan.groups for name in group} == fitting, "whoever fits is in some set"
    pinned = [entry for entry in plan.models if entry.model.is_pinned and entry.bytes]
    if sum(entry.bytes for entry in pinned) <= plan.room_bytes:
        assert all(entry.verdict == "stays" for entry in pinned)
    assert not any(entry.verdict in ("beside", "swaps") for entry in pinned)


@given(SHAPES, CARDS)
def test_whoever_makes_way_makes_enough_and_is_not_pinned(shape: Shape, card: Card) -> None:
    plan = plan_card(shape, card)
    there = [entry for entry in plan.models if entry.verdict in ("stays", "beside")]
    movable = {entry.model.name for entry in there if entry.verdict == "beside"}
    taken = sum(entry.bytes for entry in there)
    for entry in plan.models:
        assert set(entry.makes_way) <= movable
        assert bool(entry.makes_way) == (entry.verdict == "swaps")
        if entry.verdict == "swaps":
            assert taken - plan.bytes_of(entry.makes_way) + entry.bytes <= plan.room_bytes
    grantable = max(0, card.total_bytes - card.headroom_bytes)
    for program in plan.programs:
        assert set(program.makes_way) <= movable
        if program.fits:
            assert taken - plan.bytes_of(program.makes_way) + program.program.bytes <= grantable
        else:
            assert program.program.bytes > program.room_bytes


@given(SHAPES, CARDS, st.integers(1, 20))
def test_a_larger_card_never_takes_a_model_away(shape: Shape, card: Card, more: int) -> None:
    larger = Card(total_bytes=card.total_bytes + more * GIB, headroom_bytes=card.headroom_bytes)
    fitting = {entry.model.name for entry in plan_card(shape, card).models if entry.verdict in ("beside", "swaps")}
    pinned = sum(model.bytes for model in shape.models if model.is_pinned)
    room = plan_card(shape, card).room_bytes
    if pinned <= room:  # else more of the pinned ones may now find room that others had
        later = {entry.model.name for entry in plan_card(shape, larger).models if entry.verdict in ("beside", "swaps")}
        assert fitting <= later
