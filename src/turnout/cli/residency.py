"""``turnout models load | unload | pin | unpin``: which models stay in memory."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from turnout.cli.daemon import find_daemon
from turnout.cli.options import ConfigOption, JsonOption, UrlOption, given
from turnout.cli.ps import spell_until
from turnout.cli.terminal import hint, put_json, say
from turnout.core.errors import SetupError
from turnout.core.keep_alive import EXPECTED, read_keep_alive

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="A target, as `turnout ps` shows it; `local/` may be left out.")
]
KeepAliveOption = Annotated[
    str,
    typer.Option(
        "--keep-alive", metavar="TIME", help="How long it stays while nobody uses it: 300, 5m, 24h; -1 keeps it."
    ),
]


def load(
    context: typer.Context,
    name: NameArgument,
    keep_alive: KeepAliveOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Load a model; idle ones make way for it."""
    if keep_alive and read_keep_alive(keep_alive) is None:
        raise SetupError(f"--keep-alive {keep_alive!r} is no duration", hint=f"write {EXPECTED}")
    with find_daemon(given(context, config, url)) as daemon:
        told = daemon.load_model(name, keep_alive=keep_alive or None, on_step=_say_step())
    _tell(told, f"{told['name']} is loaded{_stays(told)}", is_json=json)


def unload(
    context: typer.Context,
    name: NameArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Unload a model once its running answers have ended; the next request loads it again."""
    with find_daemon(given(context, config, url)) as daemon:
        told = daemon.unload_model(name, on_step=_say_step())
    words = "is unloaded" if told["was_loaded"] else "was not loaded"
    _tell(told, f"{told['name']} {words}", is_json=json)
    if not json and told["worker"]["is_pinned"]:
        hint("it is pinned still: once a request has loaded it again, it stays")


def pin(
    context: typer.Context,
    name: NameArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Keep a model in memory once it is loaded, whoever needs the room; also after a restart."""
    with find_daemon(given(context, config, url)) as daemon:
        told = daemon.pin_model(name)
    _tell(told, f"{told['name']} is pinned: nothing makes it move", is_json=json)
    if not json and told["worker"]["phase"] == "cold":
        hint(f"it is not loaded now: `turnout models load {told['name']}`")


def unpin(
    context: typer.Context,
    name: NameArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Let a pinned model make way again."""
    with find_daemon(given(context, config, url)) as daemon:
        told = daemon.pin_model(name, is_pinned=False)
    _tell(told, f"{told['name']} is not pinned{_stays(told)}", is_json=json)


def add_to(app: typer.Typer) -> None:
    """Make these commands of a group."""
    for command in (load, unload, pin, unpin):
        app.command()(command)


def _say_step() -> Any:
    """Return what says each step once."""
    said = ""

    def step(words: str) -> None:
        nonlocal said
        if words != said:
            said = words
            say(f"  {words} …", "dim")

    return step


def _stays(told: dict[str, Any]) -> str:
    """Return how long a model stays, to be added to a sentence."""
    words = spell_until(told)
    return f", until {words}" if words.endswith("from now") else f", {words}" if words else ""


def _tell(told: dict[str, Any], words: str, *, is_json: bool) -> None:
    if is_json:
        put_json(told)
    else:
        say(words, "good")
