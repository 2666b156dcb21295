"""Engines and device readers, as the configuration names them."""

from __future__ import annotations

from turnout.config.loader import LoadedConfig
from turnout.core.errors import SetupError
from turnout.tiers.base import Engine, EngineContext
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.devices.base import DeviceReader
from turnout.tiers.local.devices.find import choose_readers, found_readers
from turnout.tiers.local.discover import found_engines
from turnout.tiers.registry import decode_model


def build_engines(loaded: LoadedConfig, context: EngineContext) -> list[Engine]:
    """Return every engine that the configuration names, and those that look for running ones.

    Args:
        loaded: The configuration.
        context: What engines are given.

    Raises:
        SetupError: With file, line and path of a setting that cannot work.
    """
    engines: list[Engine] = []
    in_file = {path[1] for path, origin in loaded.origins.items() if path[:1] == ("models",) and len(path) > 1
               and "(built in" not in origin}  # fmt: skip
    for key, entry in loaded.settings.models.items():
        engine, settings = decode_model(key, entry, loaded)
        origin = "configured" if key in in_file else "built-in"
        try:
            engines.append(engine(key, settings, context, origin))  # type: ignore[arg-type]
        except SetupError as error:
            raise loaded.problem(("models", key), error.message, error.hint) from None
    configured = [engine for engine in engines if any(t.origin == "configured" for t in engine.targets())]
    built_in = [engine for engine in engines if engine not in configured]
    try:
        found = found_engines(loaded.settings, context)
    except SetupError as error:
        raise loaded.problem(("discover",), error.message, error.hint) from None
    return [*configured, *found, *built_in]


def build_readers(loaded: LoadedConfig, fleet: Fleet) -> list[DeviceReader]:
    """Return who reads the devices: those that the configuration names, or those that are found.

    Args:
        loaded: The configuration.
        fleet: Whose workers use memory.

    Raises:
        SetupError: A device that the configuration names is not there.
    """
    try:
        return choose_readers(loaded.settings.devices, found_readers(fleet.workers), fleet.workers)
    except SetupError as error:
        raise loaded.problem(("devices",), error.message, error.hint) from None
