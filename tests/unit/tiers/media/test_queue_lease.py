"""A lease follows a queue, and ends when the memory is seen to be free."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from turnout.tiers.media.queue_lease import QueueFacts, QueueLease

BUSY, EMPTY = QueueFacts(jobs=2, held_bytes=900), QueueFacts(jobs=0, held_bytes=900)
FREE = QueueFacts(jobs=0, held_bytes=10)


def a_lease() -> QueueLease:
    return QueueLease(quiet_seconds=10.0, free_seconds=5.0, rest_bytes=100)


def test_the_whole_story() -> None:
    lease = a_lease()
    assert lease.looked(EMPTY, 0.0) == "nothing", "memory alone is no work"
    assert lease.looked(BUSY, 1.0) == "ask"
    assert lease.looked(BUSY, 2.0) == "nothing"
    lease.granted()
    assert lease.looked(EMPTY, 11.9) == "nothing"
    assert lease.looked(EMPTY, 12.0) == "free"
    assert lease.looked(EMPTY, 13.0) == "nothing", "it only set a flag"
    assert lease.looked(EMPTY, 17.0) == "free", "it is asked again"
    assert lease.unanswered == 1
    assert lease.looked(FREE, 18.0) == "release"
    assert (lease.phase, lease.unanswered) == ("idle", 0)


def test_work_that_comes_back_keeps_the_lease() -> None:
    lease = a_lease()
    lease.looked(BUSY, 0.0)
    lease.granted()
    lease.looked(EMPTY, 10.0)
    assert lease.phase == "freeing"
    assert lease.looked(BUSY, 11.0) == "nothing"
    assert lease.looked(FREE, 20.0) == "nothing", "quiet since nine seconds"
    assert lease.looked(FREE, 21.0) == "free"


def test_work_that_ends_before_the_grant_leaves_the_line() -> None:
    lease = a_lease()
    lease.looked(BUSY, 0.0)
    assert lease.looked(EMPTY, 10.0) == "give_up"
    lease.granted()
    assert lease.phase == "idle", "a grant that came too late is nobody's"


def test_a_refusal_is_followed_by_another_ask() -> None:
    lease = a_lease()
    lease.looked(BUSY, 0.0)
    lease.refused()
    assert lease.looked(BUSY, 1.0) == "ask"


def test_who_does_not_say_what_it_holds_keeps_the_lease() -> None:
    lease = a_lease()
    lease.looked(BUSY, 0.0)
    lease.granted()
    steps = [lease.looked(QueueFacts(jobs=0), float(at)) for at in range(10, 31, 5)]
    assert steps == ["free", "free", "free", "free", "free"]
    assert lease.phase == "freeing"


LOOKS = st.builds(QueueFacts, jobs=st.integers(0, 2), held_bytes=st.sampled_from([None, 10, 900]))
FACTS = st.lists(st.tuples(st.sampled_from(["look", "granted", "refused", "gone"]), LOOKS, st.floats(0.1, 20)))


@given(FACTS)
def test_nothing_is_given_back_twice_or_under_work(facts: list[tuple[str, QueueFacts, float]]) -> None:
    lease, now, asked, held = a_lease(), 0.0, False, False
    for kind, look, seconds in facts:
        now += seconds
        match kind:
            case "granted" if asked:
                lease.granted()
                asked, held = False, True
            case "refused" if asked:
                lease.refused()
                asked = False
            case "gone":
                assert lease.gone() == ("release" if held else "give_up" if asked else "nothing")
                asked = held = False
            case "look":
                step = lease.looked(look, now)
                if step == "ask":
                    assert look.jobs
                    assert not asked
                    assert not held
                    asked = True
                elif step == "give_up":
                    assert asked
                    assert not look.jobs
                    asked = False
                elif step == "free":
                    assert held
                    assert not look.jobs
                elif step == "release":
                    assert held
                    assert not look.jobs
                    assert look.held_bytes == 10, "only what is seen to be free is given back"
                    held = False
            case _:
                continue
        assert lease.phase in (("held", "freeing") if held else ("asking",) if asked else ("idle",))
