"""Finds the profile of a name: built into the simulator, a file, or one of the user's ``turnout.yaml``."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from turnout.config.document import Document, parse_document, read_document
from turnout.config.loader import LoadedConfig, built_in_profiles, load_config
from turnout.config.paths import Paths
from turnout.core.errors import SetupError
from turnout.core.memory import GIB, Device, Model, Size
from turnout.scheduler.settings import SchedulerSettings
from turnout.simulate.profile import (
    PATIENCE_SECONDS,
    Profile,
    SimulatedModel,
    default_mix,
    parse_profile,
)
from turnout.tiers.local.timing import TimingModel

FOLDER = "profiles"
SMALLEST_CARD_GIB = 1.0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A profile, and what else its file said.

    Attributes:
        profile: What there is.
        settings: Of our scheduler.
        left_out: Models of the file that cannot be simulated, since nobody says how large they are.
    """

    profile: Profile
    settings: SchedulerSettings = SchedulerSettings()
    left_out: tuple[str, ...] = ()


class ConfiguredModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulator reads of an entry under ``models``; engines may say more."""

    vram_gib: float = 0.0
    load_seconds: float = 10.0
    tokens_per_second: float = 60.0
    prompt_tokens_per_second: float = 2000.0
    slots: int = 8
    roles: tuple[str, ...] = ()
    pinned: bool = False
    min_residency_seconds: float = 10.0


class ConfiguredDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulator reads of an entry under ``devices``."""

    id: str = "host/gpu0"
    vram_gib: float = 0.0
    headroom_gib: float = 0.0


def simulation_profiles() -> list[str]:
    """Return the names of the profiles that ship with the simulator."""
    folder = resources.files("turnout.simulate") / FOLDER
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def find_profile(name: str, paths: Paths, config: Path | None = None, vram_gib: float | None = None) -> Found:
    """Return the profile of a name.

    Args:
        name: ``dev``, ``small``, ``mixed``; a path to a file of that shape; or a profile of ``turnout.yaml``.
        paths: Where ``turnout.yaml`` lies.
        config: Another such file; then its profiles are looked at first.
        vram_gib: Another size of the first device.

    Raises:
        SetupError: There is no such profile, or it is wrong.
    """
    if config is None and name in simulation_profiles():
        text = (resources.files("turnout.simulate") / FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        found = Found(profile=parse_profile(parse_document(text, f"profile {name}"), name))
    elif (path := Path(name)).suffix in {".yaml", ".yml"}:
        found = _from_file(path, paths, vram_gib)
    else:
        found = _from_config(name, paths, config, vram_gib)
    if vram_gib is None:
        return found
    return msgspec.structs.replace(found, profile=found.profile.with_vram(vram_gib))


def _from_file(path: Path, paths: Paths, vram_gib: float | None) -> Found:
    document = read_document(path)
    if isinstance(document.values.get("models"), dict) and any(
        isinstance(entry, dict) and "engine" in entry for entry in document.values["models"].values()
    ):
        return _from_loaded(load_config(paths, file=path), path.stem, vram_gib)
    return Found(profile=parse_profile(document, path.stem))


def _from_config(name: str, paths: Paths, config: Path | None, vram_gib: float | None) -> Found:
    own = _own_profiles(paths, config)
    if name not in own and name not in built_in_profiles():
        known = sorted({*simulation_profiles(), *own})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}; a file's name works too"
        raise SetupError(f"there is no profile {name!r} to simulate", hint=hint)
    loaded = load_config(paths, file=config, flags={("profile",): name})
    return _from_loaded(loaded, name, vram_gib)


def _own_profiles(paths: Paths, config: Path | None) -> list[str]:
    file = config or paths.config_file
    document = read_document(file) if config or file.exists() else Document({}, {}, "no file")
    own = document.values.get("profiles")
    return list(own) if isinstance(own, dict) else []


def _from_loaded(loaded: LoadedConfig, name: str, vram_gib: float | None) -> Found:
    devices = _devices(loaded, name, vram_gib)
    models: list[SimulatedModel] = []
    left_out: list[str] = []
    for key, entry in loaded.merged.get("models", {}).items():
        told = _convert(entry, ConfiguredModel, loaded, ("models", key))
        if told.vram_gib > 0:
            models.append(_model(key, told, devices[0].id))
        else:
            left_out.append(f"local/{key}")
    if not models:
        raise SetupError(
            f"profile {name!r} has no model with a footprint to simulate",
            hint="say vram_gib of each model, or take one of " + ", ".join(simulation_profiles()),
        )
    settings = _convert(loaded.merged.get("scheduler", {}), SchedulerSettings, loaded, ("scheduler",))
    shapes = tuple(models)
    profile = Profile(
        name=name, devices=devices, models=shapes, mix=default_mix(shapes), patience_seconds=PATIENCE_SECONDS
    )
    return Found(profile=profile, settings=settings, left_out=tuple(left_out))


def _devices(loaded: LoadedConfig, name: str, vram_gib: float | None) -> tuple[Device, ...]:
    entries = loaded.merged.get("devices")
    entries = entries if isinstance(entries, list) else []
    if not entries and vram_gib is not None:
        entries = [{"vram_gib": vram_gib}]
    told = [_convert(entry, ConfiguredDevice, loaded, ("devices", index)) for index, entry in enumerate(entries)]
    devices = tuple(
        Device(
            id=device.id,
            kind="simulated",
            total_bytes=round(device.vram_gib * GIB),
            headroom_bytes=round(device.headroom_gib * GIB),
        )
        for device in told
        if device.vram_gib > 0
    )
    if not devices:
        raise SetupError(
            f"profile {name!r} does not say how large the card is",
            hint="give --vram-gib N, or devices: [{id: host/gpu0, kind: simulated, vram_gib: 32, headroom_gib: 4}]",
        )
    return devices


def _model(key: str, told: ConfiguredModel, device: str) -> SimulatedModel:
    return SimulatedModel(
        model=Model(
            name=f"local/{key}",
            sizes=(Size(devices={device: round(told.vram_gib * GIB)}, load_seconds=told.load_seconds),),
            lease_class="pinned" if told.pinned else "voice" if "transcription" in told.roles else "resident",
            slots=told.slots,
            min_residency_seconds=told.min_residency_seconds,
        ),
        timing=TimingModel(
            load_seconds=told.load_seconds,
            tokens_per_second=told.tokens_per_second,
            prompt_tokens_per_second=told.prompt_tokens_per_second,
            slots=told.slots,
        ),
        roles=told.roles,
        title=key,
    )


def _convert(values: Any, shape: Any, loaded: LoadedConfig, path: tuple[str | int, ...]) -> Any:
    try:
        return msgspec.convert(values, shape, strict=True)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at `$")[0].replace("`", "'")
        raise loaded.problem(path, message[:1].lower() + message[1:]) from None
