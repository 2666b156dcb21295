"""The entry point: read the arguments, run one command, end with an exit code that means something.

Exit codes: 0 ok, 1 the user can fix it, 2 a bug, 3 daemon not reachable, 4 refused by budget, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from turnout import __version__
from turnout.cli.failures import end_of
from turnout.cli.group import LazyGroup
from turnout.cli.options import ConfigOption, UrlOption, given, show_help

COMPLETE_VARIABLE = "_TURNOUT_COMPLETE"
app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"turnout {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def turnout(
    context: typer.Context,
    config: ConfigOption = None,
    url: UrlOption = None,
    version: Annotated[  # noqa: ARG001  its callback does the work
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """One daemon that guides every AI request onto the right compute.

    `turnout up` starts it, `turnout run "Hello"` asks it. Any OpenAI client works too: its base URL is the daemon's
    address with /v1.
    """
    given(context, config, url)
    if context.invoked_subcommand is None:
        show_help(context)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: What follows ``turnout``; the process's own if left out.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without our dots and dashes is no reason to fail
    try:
        run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()  # here, where a closed pipe is still quiet
    except BaseException as error:  # noqa: BLE001  the one place where everything ends
        return end_of(error)
    return 0


def run(arguments: list[str]) -> None:
    """Run one command, without Click's own way of ending: its exit codes are others than ours.

    Args:
        arguments: What follows ``turnout``.
    """
    command: Any = typer.main.get_command(app)
    if COMPLETE_VARIABLE in os.environ:
        command.main(arguments, prog_name="turnout")  # a shell asks what may come next
        return
    with command.make_context("turnout", arguments) as context:
        command.invoke(context)


def _open_closed_streams() -> None:
    # Python has None where the shell closed a stream (`2>&-`), and print() would turn to the other one.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  until the end


if __name__ == "__main__":
    sys.exit(main())
