"""From one shape to another: who stays, who leaves, who comes."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.schema import ServerSettings, Settings
from turnout.profiles.moves import compare, needs_restart

SHAPES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2))


def test_who_is_to_be_something_else_leaves_and_comes_again() -> None:
    moves = compare({"a": 1, "b": 1, "c": 1}, {"d": 1, "b": 2, "a": 1})
    assert (moves.stay, moves.leave, moves.come) == (("a",), ("b", "c"), ("d", "b"))


@given(SHAPES, SHAPES)
def test_the_moves_lead_from_the_one_to_the_other(now: dict[str, int], then: dict[str, int]) -> None:
    moves = compare(now, then)
    left = {name: fact for name, fact in now.items() if name not in moves.leave}
    assert set(left) == set(moves.stay)
    assert left | {name: then[name] for name in moves.come} == then
    assert not set(moves.stay) & set(moves.come)
    back = compare(then, now)
    assert (set(back.stay), set(back.leave), set(back.come)) == (set(moves.stay), set(moves.come), set(moves.leave))


def test_some_sections_need_a_restart() -> None:
    now = Settings()
    assert needs_restart(now, msgspec.structs.replace(now, profile="x", models={"a": {}}, chains={"coding": []})) == ()
    changed = msgspec.structs.replace(now, server=ServerSettings(port=1), devices=[])
    assert needs_restart(now, changed) == ("server", "devices")
