"""Writes docs/reference from the code: settings, commands, errors. `--check` fails where a page is not up to date."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from turnout.config.schema import RESERVED, Section, Settings
from turnout.core import errors
from turnout.tiers.registry import engine_entry_points, find_engine

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by `make docs` from the code; edits here are lost. -->\n"


def configuration() -> str:
    """Return the page of all settings."""
    text = [NOTE, "# Every setting", "", "One optional file, `turnout.yaml`; `turnout config path` says where it lies.",
            "Precedence: flag > `TURNOUT_*` variable > file > profile > default. A variable names the path with two",
            "underscores: `TURNOUT_SERVER__PORT=9000` sets `server.port`.", "", "## Top level", ""]  # fmt: skip
    text += _table(Settings)
    for name, hint in typing.get_type_hints(Settings).items():
        if isinstance(hint, type) and issubclass(hint, Section):
            text += ["", f"## `{name}`", "", inspect.getdoc(hint) or "", "", *_table(hint)]
            for nested, deeper in typing.get_type_hints(hint).items():
                if isinstance(deeper, type) and issubclass(deeper, Section):
                    text += ["", f"### `{name}.{nested}`", "", inspect.getdoc(deeper) or "", "", *_table(deeper)]
        for entry in _entries(hint):
            text += ["", f"## Entries of `{name}`", "", inspect.getdoc(entry) or "", "", *_table(entry)]
    text += [
        "",
        "## `models`",
        "",
        "An entry's key becomes the target `local/<key>`. What it may say depends on its engine.",
    ]
    for engine in sorted(engine_entry_points()):
        settings = find_engine(engine).Settings
        text += ["", f"### `engine: {engine}`", "", inspect.getdoc(settings) or "", "", *_table(settings)]
    text += [
        "",
        f"Reserved for later versions, checked for shape only: {', '.join(f'`{key}`' for key in RESERVED)}.",
        "",
    ]
    return "\n".join(text)


def _table(struct: type[msgspec.Struct]) -> list[str]:
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    hints = typing.get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, Section):
            continue
        meaning = " ".join(_descriptions(hints[field.name]))
        rows.append(
            f"| `{field.name}` | {_type_name(field.type)} | {_default(field)} | {meaning} |".replace("| |", "|  |")
        )
    return rows


def _entries(hint: Any) -> Iterator[type[Section]]:
    """Yield the sections that stand in a list."""
    for argument in typing.get_args(hint):
        if typing.get_origin(hint) is list and isinstance(argument, type) and issubclass(argument, Section):
            yield argument
        else:
            yield from _entries(argument)


def _descriptions(hint: Any) -> Iterator[str]:
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, msgspec.Meta) and extra.description:
            yield extra.description.replace("|", "\\|")


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (list, tuple):
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"mapping to {_type_name(arguments[1])}"
    if arguments:
        return " or ".join(_type_name(argument) for argument in arguments if argument is not type(None))
    return {"str": "text", "int": "integer", "float": "number", "bool": "yes/no", "Any": "value"}.get(
        getattr(hint, "__name__", ""), getattr(hint, "__name__", str(hint))
    )


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return "*required*"
    if value is None or value in ("", [], {}, ()):
        return "none"
    return f"`{msgspec.json.encode(value).decode()}`".replace('"', "")


def error_page() -> str:
    """Return the page of all errors."""
    rows = [NOTE, "# Every error", "", "Errors have OpenAI's shape, with `hint`, `source` (`gateway` or `upstream`),",
            "`retryable` and `request_id` added. After the first byte they come as an event before `[DONE]`.", "",
            "| status | code | type | retryable | meaning |", "|---|---|---|---|---|"]  # fmt: skip
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.TurnoutError)
    ]
    for kind in sorted(classes, key=lambda kind: (kind.status, kind.code)):
        if kind in (errors.TurnoutError, errors.SetupError):
            continue
        meaning = (inspect.getdoc(kind) or "").splitlines()[0]
        rows.append(
            f"| {kind.status} | `{kind.code}` | `{kind.kind}` | {'yes' if kind.retryable else 'no'} | {meaning} |"
        )
    return "\n".join([*rows, ""])


def commands() -> str:
    """Return the page of all commands: what `--help` says, command by command."""
    from turnout.cli.group import COMMANDS

    text = [NOTE, "# Every command", "", "Data goes to stdout, talk to stderr. Exit status: 0 ok, 1 you can mend it, 2 a bug,",
            "3 the daemon is not reachable, 4 refused by a budget.", ""]  # fmt: skip
    for name in COMMANDS:
        text += _help_of([name])
        module = importlib.import_module(f"turnout.cli.{COMMANDS[name].module}")
        for nested in sorted(filter(None, (info.name for info in module.app.registered_commands))):
            if nested != name:
                text += _help_of([name, nested])
    return "\n".join(text)


def _help_of(arguments: list[str]) -> list[str]:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "turnout.cli.main", *arguments, "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [f"## `turnout {' '.join(arguments)}`", "", "```", *(line.rstrip() for line in run.stdout.strip().splitlines()),
            "```", ""]  # fmt: skip


def main() -> int:
    """Write the pages, or compare them; return the exit status."""
    is_check = "--check" in sys.argv
    stale = []
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, write in (("configuration.md", configuration), ("errors.md", error_page), ("cli.md", commands)):
        page, text = REFERENCE / name, write()
        if is_check and (not page.exists() or page.read_text() != text):
            stale.append(name)
        elif not is_check:
            page.write_text(text)
    if stale:
        sys.stderr.write(f"error: not up to date: {', '.join(stale)}\nhint:  make docs\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
