"""Where words go: data to stdout, talk to stderr. Colour only on a terminal that wants it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

STYLES = {"error": "1;31", "warning": "33", "hint": "36", "good": "32", "dim": "2", "bold": "1"}
PIPE_COLUMNS = 1000
"""A reader that is no terminal gets whole words, however long the line."""


def is_terminal(stream: TextIO) -> bool:
    """Return whether a person is at the other end."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def has_colour(stream: TextIO) -> bool:
    """Return whether a stream may be coloured (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    """Return the text in a style of ``STYLES``, where the stream may be coloured."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style and text and has_colour(stream) else text


def say(text: str = "", style: str = "") -> None:
    """Talk: one line on stderr."""
    print(paint(text, style, sys.stderr), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Talk: a warning."""
    print(f"{paint('warning:', 'warning', sys.stderr)} {text}", file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """Talk: what to do next."""
    print(f"{paint('hint:', 'hint', sys.stderr)}  {text}", file=sys.stderr, flush=True)


def put(text: str = "", style: str = "") -> None:
    """Print data: one line on stdout."""
    print(paint(text, style, sys.stdout))


def put_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    import msgspec

    plain = msgspec.to_builtins(value)
    print(json.dumps(plain, indent=2, ensure_ascii=False))


def terminal_columns() -> int:
    """Return how many characters a line of stdout has."""
    if not is_terminal(sys.stdout):
        return PIPE_COLUMNS
    return shutil.get_terminal_size().columns


def put_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table without lines; on a narrow terminal long words are folded, never cut.

    Args:
        columns: The headings.
        rows: Plain text, a cell for each heading.
        right: Headings of the columns that stand to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_coloured = has_colour(sys.stdout)
    width = None if is_terminal(sys.stdout) else PIPE_COLUMNS
    console = Console(width=width, no_color=not is_coloured, highlight=False, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold" if is_coloured else "")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def printable(text: str) -> str:
    """Return a text without control characters: an engine's words must not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def spell_bytes(count: int | None) -> str:
    """Return ``98 MB``; an empty text for None."""
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def spell_seconds(seconds: float) -> str:
    """Return ``12 s``, ``3 min``, ``2 h 5 min`` or ``3 d 4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def count_of(number: int, noun: str) -> str:
    """Return ``1 model`` or ``2 models``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
