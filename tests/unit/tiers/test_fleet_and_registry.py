"""All engines together, and how an entry under ``models`` becomes one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.samples import a_context, a_target, some_paths
from turnout.config.loader import LoadedConfig, load_config
from turnout.core.errors import SetupError
from turnout.core.words import Target
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.external import ExternalEngine, ExternalSettings
from turnout.tiers.local.simulated.engine import SimulatedEngine, SimulatedSettings
from turnout.tiers.registry import decode_model, engine_entry_points, find_engine
from turnout.tiers.scripted_transport import ScriptedTransport


class ListEngine(ExternalEngine):
    """An engine whose targets the test sets, and which counts how often it is asked."""

    def __init__(self, root: Path, name: str, *names: str) -> None:
        settings = ExternalSettings(engine="external", base_url="http://x")
        super().__init__(name, settings, a_context(root, ScriptedTransport()))
        self.asked = 0
        self._targets = tuple(a_target(target, engine=name) for target in names)

    def targets(self) -> tuple[Target, ...]:
        self.asked += 1
        return super().targets()

    async def look(self) -> tuple[Target, ...]:
        return self._targets


def fleet_of(*engines: Any) -> Fleet:
    fleet = Fleet({"x": "coding"}, {"coding": ("local/a",)})
    for engine in engines:
        fleet.add(engine)
    return fleet


def test_the_first_engine_wins_a_name_and_keeps_its_place(tmp_path: Path) -> None:
    one, two = ListEngine(tmp_path, "one", "local/a", "local/b"), ListEngine(tmp_path, "two", "local/b", "local/c")
    fleet = fleet_of(one, two)

    assert list(fleet.snapshot.targets) == ["local/a", "local/b", "local/c"]
    assert fleet.snapshot.targets["local/b"].engine == "one"
    assert (fleet.owner("local/b"), fleet.owner("local/c"), fleet.owner("local/x")) == (one, two, None)
    assert (fleet.snapshot.aliases, fleet.snapshot.chains) == ({"x": "coding"}, {"coding": ("local/a",)})


def test_the_snapshot_is_the_same_object_until_something_changes(tmp_path: Path) -> None:
    engine = ListEngine(tmp_path, "one", "local/a")
    fleet = fleet_of(engine)
    first = fleet.snapshot

    assert fleet.snapshot is first
    assert fleet.owner("local/a") is engine
    assert engine.asked == 1
    fleet.changed()
    assert fleet.snapshot is not first
    fleet.set_default("local/a")
    assert fleet.snapshot.default == "local/a"
    assert first.default == "", "a snapshot that was taken stays as it was"


def test_an_owner_is_forgotten_with_its_target(tmp_path: Path) -> None:
    engine = ListEngine(tmp_path, "one", "local/a")
    fleet = fleet_of(engine)
    assert fleet.owner("local/a") is engine
    engine._targets = ()
    fleet.changed()
    assert fleet.owner("local/a") is None


async def test_the_fleet_is_known_when_every_engine_is(tmp_path: Path) -> None:
    fleet = fleet_of(ListEngine(tmp_path, "one", "local/a"), ListEngine(tmp_path, "two", "local/b"))
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(fleet.run())
        await fleet.wait_known()
        running.cancel()


def load(tmp_path: Path, text: str) -> LoadedConfig:
    paths = some_paths(tmp_path)
    paths.config_dir.mkdir(exist_ok=True)
    paths.config_file.write_text(text)
    return load_config(paths, environment={})


def decode(tmp_path: Path, text: str, key: str = "m") -> tuple[type, Any]:
    loaded = load(tmp_path, text)
    return decode_model(key, loaded.settings.models[key], loaded)


def test_every_shipped_engine_is_found_by_its_name() -> None:
    assert {"external", "llamacpp", "ollama", "onnx", "simulated"} <= set(engine_entry_points())
    assert find_engine("simulated") is SimulatedEngine
    for name in engine_entry_points():
        assert find_engine(name).Settings.__struct_fields__[:2] == ("engine", "roles")


def test_an_entry_is_decoded_by_its_engine(tmp_path: Path) -> None:
    engine, settings = decode(
        tmp_path, "models: {m: {engine: simulated, load_seconds: 2, roles: [coding], faults: [{kind: cut}]}}"
    )
    assert engine is SimulatedEngine
    assert isinstance(settings, SimulatedSettings)
    assert (settings.load_seconds, settings.roles, settings.faults[0].kind) == (2.0, ["coding"], "cut")


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ("{}", "turnout.yaml:2: models.m: 'engine' is missing", "one of: comfyui, external, llama-server, llamacpp"),
        ("{engine: 3}", "turnout.yaml:2: models.m: 'engine' is missing", ""),
        (
            "{engine: simulatd}",
            "turnout.yaml:2: models.m.engine: there is no engine 'simulatd'",
            "did you mean 'simulated'?",
        ),
        (
            "{engine: zzz}",
            "turnout.yaml:2: models.m.engine: there is no engine 'zzz'",
            "installed engines: comfyui, external",
        ),
        (
            "{engine: simulated, slot: 1}",
            "turnout.yaml:2: models.m.slot: there is no such setting",
            "did you mean slots?",
        ),
        ("{engine: simulated, slots: 0}", "turnout.yaml:2: models.m.slots: expected 'int' >= 1", ""),
        (
            "{engine: simulated, roles: [codin]}",
            "turnout.yaml:2: models.m.roles[0]: there is no role 'codin'",
            "roles: orch",
        ),
        ("{engine: simulated, roles: [coding, 3]}", "turnout.yaml:2: models.m.roles[1]: expected 'str', got 'int'", ""),
        (
            "{engine: simulated,\n  faults: [{kind: cut},\n    {kind: cut, tims: 1}]}",
            "turnout.yaml:4: models.m.faults[1].tims: there is no such setting",
            "did you mean times?",
        ),
        ("{engine: llamacpp}", "turnout.yaml:2: models.m: object missing required field 'source'", ""),
        ("{engine: external}", "turnout.yaml:2: models.m: object missing required field 'base_url'", ""),
    ],
)
def test_a_wrong_entry_names_file_line_and_path(tmp_path: Path, entry: str, message: str, hint: str) -> None:
    with pytest.raises(SetupError) as raised:
        decode(tmp_path, f"models:\n  m: {entry}\n")
    assert raised.value.message.partition(str(some_paths(tmp_path).config_dir) + "/")[2].startswith(message)
    assert hint in raised.value.hint


async def test_engines_come_and_go_while_the_fleet_lives(tmp_path: Path) -> None:
    one, two = ListEngine(tmp_path, "one", "local/a"), ListEngine(tmp_path, "two", "local/b")
    fleet = fleet_of(one)
    life = asyncio.get_running_loop().create_task(fleet.run())
    await one.wait_known()
    fleet.add(two)
    await two.wait_known()
    fleet.arrange([two])
    assert list(fleet.engines) == [two, one]
    fleet.set_routes({}, {"reasoning": ("local/b",)})
    assert (fleet.snapshot.aliases, fleet.snapshot.chains) == ({}, {"reasoning": ("local/b",)})
    await fleet.end(one)
    assert list(fleet.snapshot.targets) == ["local/b"]
    await fleet.end(one)
    await fleet.end(two)
    await asyncio.sleep(0)
    assert not life.done(), "an empty fleet lives on"
    life.cancel()
    await asyncio.wait([life])
