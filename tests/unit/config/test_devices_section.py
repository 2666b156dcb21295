"""``devices:`` and ``scheduler:`` in the file: what is legal, and where an error points."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.samples import some_paths
from turnout.config.loader import LoadedConfig, load_config
from turnout.config.schema import DeviceEntry
from turnout.core.errors import SetupError
from turnout.tiers.build import build_readers
from turnout.tiers.fleet import Fleet


def load(tmp_path: Path, text: str) -> LoadedConfig:
    paths = some_paths(tmp_path)
    paths.config_dir.mkdir(parents=True)
    paths.config_file.write_text(text)
    return load_config(paths, environment={})


def test_by_default_devices_are_found(tmp_path: Path) -> None:
    loaded = load(tmp_path, "{}")
    assert loaded.settings.devices == "auto"
    assert loaded.warnings == []
    assert load(tmp_path / "b", "devices: auto").settings.devices == "auto"


def test_devices_are_typed(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, "devices: [{id: host/gpu0, kind: simulated, vram_gib: 32, headroom_gib: 4}, {id: host/ram}]"
    )
    assert loaded.settings.devices == [
        DeviceEntry(id="host/gpu0", kind="simulated", vram_gib=32, headroom_gib=4), DeviceEntry(id="host/ram"),
    ]  # fmt: skip
    assert loaded.warnings == [], "they are acted on: nothing is reserved"


def test_the_scheduler_can_be_told_how(tmp_path: Path) -> None:
    loaded = load(tmp_path, "scheduler: {aging_seconds: 5, starts_at_once_per_device: 2}")
    assert (loaded.settings.scheduler.aging_seconds, loaded.settings.scheduler.starts_at_once_per_device) == (5, 2)
    assert loaded.where(("scheduler", "aging_seconds")).endswith("turnout.yaml:1")


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("devices: [{kind: simulated}]", "turnout.yaml:1: devices[0]: object missing required field 'id'", ""),
        ("devices:\n- {id: gpu0}", "turnout.yaml:2: devices[0].id: expected 'str' matching regex", ""),
        ("devices:\n- {id: Host/GPU}", "devices[0].id: expected 'str' matching regex", ""),
        ("devices:\n- {id: host/gpu0, kind: tpu}", "turnout.yaml:2: devices[0].kind: invalid enum value 'tpu'", ""),
        ("devices:\n- {id: host/gpu0, vram: 3}", "devices[0].vram: there is no such setting", "did you mean vram_gib?"),
        ("devices:\n- {id: host/gpu0, vram_gib: 0}", "devices[0].vram_gib: expected 'float' > 0.0", ""),
        ("devices:\n- {id: host/gpu0, headroom_gib: -1}", "devices[0].headroom_gib: expected 'float' >= 0.0", ""),
        (
            "devices:\n- {id: a/b, vram_gib: 1}\n- {id: a/b, vram_gib: 1}",
            "turnout.yaml:3: devices[1].id: 'a/b' is there twice",
            "",
        ),
        (
            "devices:\n- {id: a/b, kind: simulated}",
            "turnout.yaml:2: devices[0]: a simulated device needs a size",
            "add vram_gib: 24",
        ),
        ("devices:\n- {id: a/b, kind: configured}", "a configured device needs a size", "add vram_gib: 24"),
        (
            "devices:\n- {id: a/b, vram_gib: 4, headroom_gib: 4}",
            "turnout.yaml:2: devices[0].headroom_gib: nothing is left of 4 GiB",
            "",
        ),
        ("devices: none", "turnout.yaml:1: devices: invalid enum value 'none'", ""),
        (
            "scheduler: {aging_second: 5}",
            "turnout.yaml:1: scheduler.aging_second: there is no such setting",
            "aging_seconds",
        ),
        ("scheduler: {aging_seconds: 0}", "turnout.yaml:1: scheduler.aging_seconds: expected 'float' > 0.0", ""),
    ],
)
def test_a_wrong_entry_names_file_line_and_path(tmp_path: Path, text: str, words: str, hint: str) -> None:
    with pytest.raises(SetupError) as raised:
        load(tmp_path, text)
    assert words in raised.value.message
    assert hint in raised.value.hint


def test_a_device_that_is_not_there_is_told_with_its_place(tmp_path: Path) -> None:
    loaded = load(tmp_path, "profile: auto\ndevices:\n- {id: host/gpu77}")
    with pytest.raises(SetupError) as raised:
        build_readers(loaded, Fleet({}, {}))
    assert "turnout.yaml:2: devices: there is no device 'host/gpu77' on this machine" in raised.value.message
    assert "found: " in raised.value.hint
