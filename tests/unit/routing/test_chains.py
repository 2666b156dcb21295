"""Whom a role asks, in order, and what ``auto`` means on a machine where nothing was configured."""

from __future__ import annotations

from typing import Any

import pytest

from support.samples import a_target
from turnout.core.snapshot import Snapshot
from turnout.core.words import Target
from turnout.routing.chains import chain_of, choose_default

GIB = 2**30


def world(*targets: Target, **facts: Any) -> Snapshot:
    return Snapshot(targets={target.name: target for target in targets}, **facts)


def names(role: str, snapshot: Snapshot) -> list[str]:
    return [choice.target for choice in chain_of(role, snapshot)]


CODER = a_target("local/coder", roles=("coding",))
LEAD = a_target("local/lead", roles=("orchestrator",))
PLAIN = a_target("local/plain")
VLLM = a_target("local/vllm/q", engine="vllm", origin="found", is_loaded=True)
WARM = a_target("local/ollama/warm", engine="ollama", origin="found", is_loaded=True)
COLD = a_target("local/ollama/cold", engine="ollama", origin="found", state="cold")
DEMO = a_target("local/orchestrator", roles=("orchestrator",), origin="built-in", is_demonstration=True)
EMBED = a_target("local/embedding", roles=("embedding",), origin="built-in", can=frozenset({"embedding"}))


def test_a_configured_chain_is_taken_as_it_stands() -> None:
    snapshot = world(
        LEAD, CODER, chains={"orchestrator": ("local/gone", "local/coder"), "coding": ()}, default=LEAD.name
    )

    assert names("orchestrator", snapshot) == ["local/gone", "local/coder"]
    assert names("coding", snapshot) == []
    assert chain_of("orchestrator", snapshot)[0].reason == "chains.orchestrator of the configuration"


def test_a_name_twice_in_a_chain_is_asked_once() -> None:
    snapshot = world(LEAD, CODER, chains={"coding": (CODER.name, LEAD.name, CODER.name)})
    assert names("coding", snapshot) == [CODER.name, LEAD.name]


def test_carriers_come_in_the_order_of_the_file_and_configured_ones_replace_built_in_ones() -> None:
    second = a_target("local/second", roles=("coding",))
    builtin = a_target("local/builtin", roles=("coding",), origin="built-in")

    assert names("coding", world(CODER, second, builtin)) == ["local/coder", "local/second"]
    assert names("coding", world(builtin)) == ["local/builtin"]
    assert names("vision", world(CODER, builtin)) == []
    assert names("embedding", world(EMBED)) == ["local/embedding"]


def test_the_orchestrator_asks_configured_then_vllm_then_loaded_ollama() -> None:
    snapshot = world(WARM, COLD, VLLM, DEMO, LEAD, PLAIN, CODER)
    assert names("orchestrator", snapshot) == ["local/lead", "local/vllm/q", "local/ollama/warm"]


def test_a_model_without_a_role_serves_only_where_nobody_carries_it() -> None:
    assert names("orchestrator", world(PLAIN, DEMO)) == ["local/plain"]
    assert names("orchestrator", world(PLAIN, LEAD)) == ["local/lead"]


@pytest.mark.parametrize("other", [LEAD, PLAIN, VLLM, WARM])
def test_the_demonstration_steps_aside_for_anything_else(other: Target) -> None:
    assert names("orchestrator", world(DEMO, other)) == [other.name]


def test_the_demonstration_serves_where_nothing_else_may_and_nobody_else_is_called_one() -> None:
    # A cold Ollama model was not chosen, and a coder was not given this role: neither is loaded by surprise.
    chain = chain_of("orchestrator", world(COLD, CODER, DEMO, EMBED))

    assert [choice.target for choice in chain] == [DEMO.name]
    assert "demonstration" in chain[0].reason
    assert names("orchestrator", world(COLD, CODER)) == []


def test_the_default_leads_whoever_else_is_there() -> None:
    snapshot = world(LEAD, VLLM, WARM, COLD, default=COLD.name)

    assert names("orchestrator", snapshot) == [COLD.name, "local/lead", "local/vllm/q", "local/ollama/warm"]
    assert names("orchestrator", world(LEAD, default="local/gone")) == ["local/gone", "local/lead"]


def chosen(*targets: Target, gib: float = 8, **facts: Any) -> str | None:
    choice = choose_default(world(*targets, **facts), int(gib * GIB))
    return choice.target if choice else None


SMALL, MEDIUM, LARGE = (
    a_target(f"local/ollama/{gib}", engine="ollama", origin="found", state="cold", size_bytes=gib * GIB)
    for gib in (2, 5, 40)
)


def test_the_configuration_decides_where_it_says_anything() -> None:
    assert chosen(SMALL, chains={"orchestrator": ()}) is None
    assert chosen(SMALL, CODER) is None
    assert chosen(DEMO, EMBED) is None
    assert chosen() is None
    assert chosen(SMALL, a_target("local/e", can=frozenset({"embedding"}))) == SMALL.name


def test_a_vllm_is_taken_first_then_what_is_loaded_then_the_largest_that_fits() -> None:
    assert chosen(SMALL, WARM, VLLM) == VLLM.name
    assert chosen(SMALL, WARM, MEDIUM) == WARM.name
    assert chosen(SMALL, LARGE, MEDIUM) == MEDIUM.name


def test_weights_need_a_fifth_of_room_beside_them() -> None:
    assert chosen(SMALL, MEDIUM, gib=6.0) == MEDIUM.name
    assert chosen(SMALL, MEDIUM, gib=5.9) == SMALL.name


def test_where_none_fits_the_smallest_is_tried_and_told() -> None:
    choice = choose_default(world(LARGE, MEDIUM), GIB)

    assert choice is not None
    assert choice.target == MEDIUM.name
    assert "none fits into 1.0 GiB" in choice.reason


def test_embedding_models_are_never_the_default() -> None:
    embedder = a_target("local/ollama/e", engine="ollama", origin="found", can=frozenset({"embedding"}), is_loaded=True)
    assert chosen(embedder) is None
