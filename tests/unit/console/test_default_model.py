"""What ``auto`` means: chosen once, kept, changed by the user, and no file can spoil it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.samples import a_context, a_target
from turnout.console.default_model import DefaultModel
from turnout.core.errors import InvalidRequest, ModelNotFound
from turnout.core.events import DefaultChosen, Event, WorkerChanged
from turnout.core.words import Target
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.external import ExternalEngine, ExternalSettings
from turnout.tiers.scripted_transport import ScriptedTransport

SMALL = a_target("local/ollama/small", engine="ollama", origin="found", state="cold", size_bytes=2 << 30)
LARGE = a_target("local/ollama/large", engine="ollama", origin="found", state="cold", size_bytes=20 << 30)
EMBED = a_target("local/e", can=frozenset({"embedding"}))


class House:
    """A default model over one engine."""

    def __init__(self, root: Path, *targets: Target) -> None:
        self.events: list[Event] = []
        self.questions = 0
        self.path = root / "default.json"
        self.fleet = Fleet({}, {})
        settings = ExternalSettings(engine="external", base_url="http://x")
        self.engine = ExternalEngine("fixed", settings, a_context(root, ScriptedTransport()))
        self.fleet.add(self.engine)
        self.show(*targets)
        self.model = DefaultModel(self.path, self.fleet, self.events.append, self.memory)

    def memory(self) -> int:
        self.questions += 1
        return 8 << 30

    def show(self, *targets: Target) -> None:
        self.engine._targets = targets
        self.fleet.changed()


def test_the_choice_is_made_once_kept_and_told(tmp_path: Path) -> None:
    house = House(tmp_path, SMALL, LARGE)
    house.model.settle()
    house.model.settle()

    assert house.fleet.snapshot.default == SMALL.name
    assert [event.target for event in house.events if isinstance(event, DefaultChosen)] == [SMALL.name]
    later = House(tmp_path)
    later.model.load()
    later.model.settle()
    assert later.model.choice.target == SMALL.name, "an engine that is away for a while changes nothing"
    assert later.events == []


def test_a_model_that_its_engine_has_no_more_is_chosen_anew_unless_the_user_chose_it(tmp_path: Path) -> None:
    for by_user in (False, True):
        house = House(tmp_path / str(by_user), SMALL, LARGE)
        house.model.settle()
        if by_user:
            house.model.choose(SMALL.name)
        house.show(LARGE)
        house.model.settle()
        assert house.model.choice.target == (SMALL.name if by_user else LARGE.name)


@pytest.mark.parametrize("targets", [(), (a_target("local/own"), SMALL), (EMBED,)])
def test_nothing_is_chosen_and_no_card_is_asked_where_it_does_not_matter(
    tmp_path: Path, targets: tuple[Target, ...]
) -> None:
    house = House(tmp_path, *targets)
    house.model.settle()

    assert house.model.choice.target == ""
    assert house.questions == 0
    assert not house.path.exists()


def test_an_engine_that_comes_later_brings_the_first_choice(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.show(SMALL)
    house.model.hear(WorkerChanged(target=SMALL.name, engine="ollama", state="cold"))
    assert house.model.choice.target == "", "not before the first look at everything"
    house.show()
    house.model.settle()
    house.show(SMALL)
    house.model.hear(WorkerChanged(target=SMALL.name, engine="ollama", state="failed"))
    assert house.model.choice.target == ""
    house.model.hear(WorkerChanged(target=SMALL.name, engine="ollama", state="cold"))
    assert house.fleet.snapshot.default == SMALL.name


def test_the_users_choice_holds_until_it_is_given_back(tmp_path: Path) -> None:
    house = House(tmp_path, SMALL, LARGE)
    assert house.model.choose(LARGE.name).chosen_by == "user"
    again = House(tmp_path, SMALL, LARGE)
    again.model.load()
    again.model.settle()
    assert again.fleet.snapshot.default == LARGE.name

    assert again.model.choose("").target == SMALL.name
    assert again.model.choice.chosen_by == "turnout"


def test_what_cannot_be_chosen_says_why(tmp_path: Path) -> None:
    house = House(tmp_path, SMALL, EMBED)
    with pytest.raises(ModelNotFound) as raised:
        house.model.choose("local/ollama/smal")
    assert SMALL.name in raised.value.hint
    with pytest.raises(InvalidRequest, match="cannot chat"):
        house.model.choose("local/e")
    assert house.model.choice.target == ""


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"target": "\xff"}', b'{"chosen_by": "nobody"}', b"[" * 100_000])
def test_a_broken_file_counts_as_no_choice(tmp_path: Path, data: bytes) -> None:
    house = House(tmp_path, SMALL)
    house.path.write_bytes(data)
    house.model.load()
    house.model.settle()
    assert house.model.choice.target == SMALL.name


def test_a_full_disk_costs_the_memory_of_the_choice_only(tmp_path: Path) -> None:
    house = House(tmp_path, SMALL)
    house.path.mkdir()
    house.model.load()
    house.model.settle()
    assert house.fleet.snapshot.default == SMALL.name
