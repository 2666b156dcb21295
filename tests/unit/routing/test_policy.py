"""The plan: everybody is in it exactly once, with a reason, and what nobody may serve is told as what it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.samples import a_request, a_target
from turnout.core.errors import ModelNotFound, NoTarget, NotSupported, Refused, TurnoutError
from turnout.core.snapshot import Snapshot
from turnout.core.words import Request, Target
from turnout.routing.policy import make_plan, objection

NAMES = ["local/a", "local/b", "local/c", "local/vllm/d", "rented/e", "mock/f"]


def world(*targets: Target, **facts: Any) -> Snapshot:
    return Snapshot(targets={target.name: target for target in targets}, **facts)


@st.composite
def targets(draw: st.DrawFn, name: str) -> Target:
    return a_target(
        name,
        tier=draw(st.sampled_from(["local", "rented", "frontier"])),
        engine=draw(st.sampled_from(["simulated", "vllm", "ollama"])),
        can=draw(st.frozensets(st.sampled_from(["chat", "completion", "embedding"]))),
        roles=tuple(draw(st.lists(st.sampled_from(["orchestrator", "coding", "embedding"]), max_size=2))),
        origin=draw(st.sampled_from(["configured", "found", "built-in"])),
        state=draw(st.sampled_from(["ready", "cold", "failed"])),
        is_loaded=draw(st.booleans()),
        is_demonstration=draw(st.booleans()),
        is_beyond_loopback=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    chain = st.lists(st.sampled_from([*NAMES, "local/gone"]), max_size=5).map(tuple)
    return Snapshot(
        targets={name: draw(targets(name)) for name in names},
        chains=draw(st.dictionaries(st.sampled_from(["orchestrator", "coding", "embedding"]), chain)),
        aliases=draw(st.dictionaries(st.sampled_from(["gpt-*", "x"]), st.sampled_from(["auto", "coding", *NAMES]))),
        default=draw(st.sampled_from(["", *NAMES])),
    )


requests = st.builds(
    a_request,
    kind=st.sampled_from(["chat", "completion", "embedding"]),
    selector=st.sampled_from(
        ["auto", "orchestrator", "coding", "embedding", "vision", "gpt-4", "x", "nonsense", *NAMES]
    ),
    privacy=st.sampled_from(["any", "no-frontier", "local-only"]),
)


def check_refusal(error: TurnoutError) -> None:
    assert error.message
    assert error.hint
    assert error.param == "model" or isinstance(error, Refused | NoTarget)


@given(requests, worlds())
def test_every_target_is_in_the_plan_exactly_once_and_may_serve_or_says_why_not(
    request_: Request, snapshot: Snapshot
) -> None:
    try:
        plan = make_plan(request_, snapshot)
    except (ModelNotFound, NotSupported, NoTarget, Refused) as error:
        check_refusal(error)
        return

    told = [choice.target for choice in (*plan.candidates, *plan.refusals)]
    assert len(told) == len(set(told))
    assert set(snapshot.targets) <= set(told)
    assert plan.candidates
    assert all(choice.reason for choice in (*plan.candidates, *plan.refusals))
    for choice in plan.candidates:
        target = snapshot.targets[choice.target]
        assert request_.kind in target.can
        assert not (request_.privacy == "local-only" and target.is_beyond_loopback)
        assert not (request_.privacy == "no-frontier" and target.is_beyond_loopback and target.tier == "frontier")
    assert make_plan(request_, snapshot) == plan


@given(requests, worlds())
def test_stricter_privacy_never_adds_a_candidate(request_: Request, snapshot: Snapshot) -> None:
    def candidates(privacy: str) -> set[str]:
        try:
            plan = make_plan(a_request(kind=request_.kind, selector=request_.selector, privacy=privacy), snapshot)
        except TurnoutError:
            return set()
        return {choice.target for choice in plan.candidates}

    assert candidates("local-only") <= candidates("no-frontier") <= candidates("any")


def test_a_named_target_is_alone_and_everybody_else_is_refused_with_the_reason() -> None:
    snapshot = world(a_target("local/a"), a_target("local/b"), a_target("local/e", can=frozenset({"embedding"})))
    plan = make_plan(a_request(selector="local/a"), snapshot)

    assert [(c.target, c.reason) for c in plan.candidates] == [("local/a", "named by the caller")]
    assert [(c.target, c.reason) for c in plan.refusals] == [
        ("local/b", "the caller named another target"), ("local/e", "it cannot do chat"),
    ]  # fmt: skip
    assert plan.resolution == "target 'local/a'"


def test_a_chain_keeps_its_order_and_tells_what_is_missing() -> None:
    snapshot = world(
        a_target("local/a"), a_target("local/b"), a_target("local/c"),
        chains={"coding": ("local/b", "rented/x", "local/a")},
    )  # fmt: skip
    plan = make_plan(a_request(selector="coding"), snapshot)

    assert [c.target for c in plan.candidates] == ["local/b", "local/a"]
    assert [(c.target, c.reason) for c in plan.refusals] == [
        ("rented/x", "not configured, and not found running"), ("local/c", "not in the chain of role 'coding'"),
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "serves"), [("chat", "local/o"), ("completion", "local/o"), ("embedding", "local/e")])
def test_auto_means_the_role_that_fits_the_kind(kind: str, serves: str) -> None:
    embedder = a_target("local/e", can=frozenset({"embedding"}), roles=("embedding",))
    snapshot = world(a_target("local/o", roles=("orchestrator",)), embedder)

    assert [c.target for c in make_plan(a_request(kind=kind), snapshot).candidates] == [serves]


@pytest.mark.parametrize(
    ("privacy", "tier", "is_beyond", "is_allowed"),
    [
        ("any", "frontier", True, True),
        ("any", "local", False, True),
        ("no-frontier", "frontier", True, False),
        ("no-frontier", "rented", True, True),
        ("no-frontier", "local", True, False),
        ("no-frontier", "local", False, True),
        ("local-only", "rented", True, False),
        ("local-only", "local", True, False),
        ("local-only", "local", False, True),
    ],
)
def test_privacy_keeps_text_where_it_belongs(privacy: str, tier: str, is_beyond: bool, is_allowed: bool) -> None:
    target = a_target(tier=tier, is_beyond_loopback=is_beyond)
    assert (objection(a_request(privacy=privacy), target) == "") is is_allowed


def test_privacy_that_forbids_everybody_is_refused_with_its_own_code() -> None:
    snapshot = world(a_target("local/far", is_beyond_loopback=True, roles=("coding",)))
    with pytest.raises(Refused, match="local/far: privacy 'local-only'") as raised:
        make_plan(a_request(selector="coding", privacy="local-only"), snapshot)
    assert (raised.value.status, raised.value.code) == (403, "refused_privacy")


def test_a_target_that_cannot_do_this_is_not_supported_and_those_that_can_are_named() -> None:
    snapshot = world(a_target("local/a"), a_target("local/e", can=frozenset({"embedding"})))
    with pytest.raises(NotSupported, match="'local/a' cannot do embeddings") as raised:
        make_plan(a_request(selector="local/a", kind="embedding"), snapshot)
    assert raised.value.hint == "these can: local/e"
    assert raised.value.status == 400
    with pytest.raises(NotSupported) as raised:
        make_plan(a_request(selector="local/e"), world(snapshot.targets["local/e"]))
    assert raised.value.hint == "no configured model can"


def test_a_role_that_nobody_carries_is_not_found_and_the_hint_says_what_to_write() -> None:
    with pytest.raises(ModelNotFound, match="no model carries the role 'vision'") as raised:
        make_plan(a_request(selector="vision"), world(a_target()))
    assert "roles: [vision]" in raised.value.hint
    with pytest.raises(ModelNotFound, match="no model carries the role 'orchestrator'"):
        make_plan(a_request(), world())


def test_a_chain_of_which_nothing_exists_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match=r"role 'coding' has no target that exists: rented/x") as raised:
        make_plan(a_request(selector="coding"), world(a_target(), chains={"coding": ("rented/x",)}))
    assert raised.value.param == "model"


def test_the_demonstration_is_told_why_it_does_not_serve() -> None:
    demo = a_target("local/demo", is_demonstration=True, roles=("orchestrator",), origin="built-in")
    plan = make_plan(a_request(), world(demo, a_target("local/a")))
    assert plan.refusals[0].reason == "the demonstration model serves only while nothing else is configured or found"


def test_a_default_that_does_not_run_is_told_and_the_demonstration_stays_aside() -> None:
    demonstration = a_target("local/demo", origin="built-in", is_demonstration=True)
    snapshot = Snapshot(targets={demonstration.name: demonstration}, default="local/ollama/big")

    with pytest.raises(NoTarget, match="'local/ollama/big' is not running") as told:
        make_plan(a_request(selector="auto"), snapshot)
    assert "--auto" in told.value.hint
    assert make_plan(a_request(selector="local/demo"), snapshot).candidates[0].target == "local/demo"
