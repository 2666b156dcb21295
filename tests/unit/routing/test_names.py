"""What a caller's ``model`` means."""

from __future__ import annotations

import pytest

from support.samples import a_target
from turnout.core.errors import ModelNotFound
from turnout.core.snapshot import Snapshot
from turnout.routing.names import near_names, resolve


def world(*names: str, **aliases: str) -> Snapshot:
    return Snapshot(targets={name: a_target(name) for name in names}, aliases=aliases)


def test_auto_is_always_auto() -> None:
    assert resolve("auto", world()).kind == "auto"
    assert resolve("auto", Snapshot(targets={}, aliases={"*": "coding"})).kind == "auto"


def test_a_target_beats_an_alias_beats_a_role() -> None:
    snapshot = world("coding", "local/a", coding="reasoning", reasoning="local/a")

    assert resolve("coding", snapshot).kind == "target"
    found = resolve("reasoning", snapshot)
    assert (found.kind, found.name) == ("target", "local/a")
    assert found.story == "alias 'reasoning' -> target 'local/a'"
    assert resolve("vision", snapshot).kind == "role"


def test_globs_match_and_the_order_of_the_file_decides() -> None:
    snapshot = Snapshot(targets={}, aliases={"gpt-4o*": "reasoning", "gpt-*": "coding", "claude-?": "auto"})

    assert resolve("gpt-4o-mini", snapshot).name == "reasoning"
    assert resolve("gpt-3.5", snapshot).name == "coding"
    assert resolve("claude-3", snapshot).kind == "auto"
    assert resolve("gpt-4o-mini", snapshot).story == "alias 'gpt-4o*' -> role 'reasoning'"
    for unknown in ("claude-35", "GPT-4o", "my-gpt-4o"):
        with pytest.raises(ModelNotFound):
            resolve(unknown, snapshot)


def test_an_alias_of_something_that_is_not_there_says_so() -> None:
    snapshot = world("local/big", fast="local/bigg")
    with pytest.raises(ModelNotFound, match="stands for 'local/bigg'") as raised:
        resolve("fast", snapshot)
    assert "'local/big'" in raised.value.hint
    assert raised.value.param == "model"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("local/tinny", "local/tiny"), ("tiny", "local/tiny"), ("TINY", "local/tiny"), ("resoning", "reasoning"),
     ("atuo", "auto"), ("ollama/llama3.2", "local/ollama/llama3.2:3b")],
)  # fmt: skip
def test_unknown_names_get_near_matches(wrong: str, near: str) -> None:
    snapshot = world("local/tiny", "local/ollama/llama3.2:3b")
    with pytest.raises(ModelNotFound, match=f"there is no model '{wrong}'") as raised:
        resolve(wrong, snapshot)
    assert f"{near!r}" in raised.value.hint
    assert raised.value.status == 404


def test_where_nothing_is_near_the_list_is_named() -> None:
    assert near_names("zzzzzzzz", world("local/tiny")) == "GET /v1/models lists every name; 'auto' always works"
    assert near_names("", world("local/tiny")).startswith("GET /v1/models")
