"""``turnout config``: check and show the configuration. Needs no daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from turnout.cli.config_schema import config_schema
from turnout.cli.config_show import Shown, effective, spell_yaml
from turnout.cli.options import ConfigOption, Given, JsonOption, given, new_app, show_help
from turnout.cli.terminal import put, put_json, say, warn
from turnout.config.document import KeyPath, spell
from turnout.config.loader import LoadedConfig, load_config
from turnout.config.paths import find_paths
from turnout.core.errors import SetupError
from turnout.tiers.registry import decode_model

app = new_app()


@app.callback(invoke_without_command=True)
def config_group(context: typer.Context, config: ConfigOption = None) -> None:
    """Check and show the configuration."""
    given(context, config)
    if context.invoked_subcommand is None:
        show_help(context)


@app.command()
def check(context: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check the configuration, models included."""
    options = given(context, config)
    try:
        loaded = load(options)
        warnings = check_models(loaded)
    except SetupError as error:
        if json:
            put_json({"valid": False, "error": error.message, "hint": error.hint})
        raise
    for warning in warnings:
        warn(warning)
    file = str(loaded.file) if loaded.file else None
    if json:
        put_json({"valid": True, "file": file, "warnings": warnings})
    else:
        say(f"{file or 'the built-in configuration (there is no file)'} is valid", "good")


@app.command()
def show(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say behind each value who set it.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Print the configuration as it is in effect; secrets are left out."""
    loaded = load(given(context, config))
    shown = effective(loaded)
    if json:
        put_json(_with_origins(shown) if origin else shown.values)
        return
    for line in spell_yaml(shown, with_origins=origin):
        put(line)


@app.command()
def schema(context: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:  # noqa: ARG001
    """Print the JSON Schema of turnout.yaml, for editors."""
    given(context, config)
    put_json(config_schema())


@app.command()
def path(context: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print which file is read, or would be."""
    options, paths = given(context, config), find_paths()
    loaded_file = options.config or _file_of_variable() or paths.config_file
    if not json:
        put(str(loaded_file))
        return
    put_json(
        {
            "config_file": str(loaded_file),
            "exists": loaded_file.exists(),
            "config_dir": str(paths.config_dir),
            "state_dir": str(paths.state_dir),
            "data_dir": str(paths.data_dir),
            "log_dir": str(paths.log_dir),
        }
    )


def load(options: Given) -> LoadedConfig:
    """Return the configuration.

    Args:
        options: May name the file.

    Raises:
        SetupError: With file, line and path of what is wrong.
    """
    return load_config(find_paths(), file=options.config)


def check_models(loaded: LoadedConfig) -> list[str]:
    """Decode every model by its engine and return all warnings.

    Args:
        loaded: The configuration.

    Raises:
        SetupError: With file, line and path of a model's setting that is wrong.
    """
    settings = loaded.settings
    for key, entry in settings.models.items():
        decode_model(key, entry, loaded)
    warnings = list(loaded.warnings)
    named: list[tuple[KeyPath, str]] = [(("aliases", alias), meaning) for alias, meaning in settings.aliases.items()]
    for role, chain in settings.chains.items():
        named += [(("chains", role, index), target) for index, target in enumerate(chain)]
    for where, target in named:
        tier, _, key = target.partition("/")
        # local/<engine>/<model> is found at run time: only the daemon knows it.
        if tier == "local" and "/" not in key and key not in settings.models:
            known = ", ".join(settings.models) or "none"
            warnings.append(f"{loaded.where(where)}: {spell(where)}: there is no model {key!r} (models: {known})")
    return warnings


def _file_of_variable() -> Path | None:
    name = os.environ.get("TURNOUT_CONFIG")
    return Path(name) if name else None


def _with_origins(shown: Shown) -> dict[str, Any]:
    return {"values": shown.values, "origins": {spell(leaf): origin for leaf, origin in shown.origins.items()}}
