"""``turnout keys``: who may use the daemon. Works on the key file; a running daemon sees changes in a moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from turnout.cli.options import ConfigOption, JsonOption, given, new_app, show_help
from turnout.cli.terminal import put, put_json, put_table, say
from turnout.config.paths import find_paths
from turnout.core.clock import SystemClock
from turnout.gateway.keys import Key, KeyStore

app = new_app()
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_' and '-'.")]

OperatorOption = Annotated[
    bool, typer.Option("--operator", help="It may also see status and traces, choose the default and stop the daemon.")
]


@app.callback(invoke_without_command=True)
def keys(context: typer.Context, config: ConfigOption = None) -> None:
    """Create, list and revoke API keys."""
    given(context, config)
    if context.invoked_subcommand is None:
        show_help(context)


@app.command()
def create(
    context: typer.Context,
    name: NameArgument,
    operator: OperatorOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a key and print it, once."""
    given(context, config)
    secret = _store().create(name, SystemClock().wall_seconds(), is_operator=operator)
    if json:
        put_json({"name": name, "key": secret})
    else:
        put(secret)
    say(f"This is key {name!r}, shown this once: only its hash is kept. Callers send it as their API key.", "dim")


@app.command("list")
def list_keys(context: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the keys, without their secrets."""
    given(context, config)
    known = _store().all()
    if json:
        put_json({"keys": [_facts(key) for key in known]})
    elif known:
        put_table(
            ("NAME", "KEY", "MAY", "CREATED"), [(key.name, f"{key.start}…", _may(key), _created(key)) for key in known]
        )
    else:
        say("there are no keys; on loopback none is needed")


@app.command()
def revoke(context: typer.Context, name: NameArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Forget a key; whoever has it is refused from now on."""
    given(context, config)
    store = _store()
    key = store.revoke(name)
    if json:
        put_json({"revoked": _facts(key)})
        return
    say(f"key {name!r} is revoked")
    if store.is_empty:
        say("There are no keys now: a daemon on loopback lets every local program in.", "dim")


def _store() -> KeyStore:
    return KeyStore(find_paths().keys_file)


def _facts(key: Key) -> dict[str, object]:
    return {"name": key.name, "start": key.start, "created_at": key.created_at, "is_operator": key.is_operator}


def _may(key: Key) -> str:
    return "use and operate" if key.is_operator else "use"


def _created(key: Key) -> str:
    return datetime.fromtimestamp(key.created_at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
