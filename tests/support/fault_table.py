"""The table of docs/concepts/faults.md, read strictly and expanded to cells: one request each.

A row becomes: streamed and whole, each variant of the fault, each thing that may have been delivered before it, with
one target and with a second one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from support.fault_answers import STREAMS, WHOLES, Behaviour, Phase
from support.fault_scripts import FAULTS

COLUMNS = ["fault", "phase", "streamed", "second target", "not streamed", "second target"]
AFTER: tuple[Phase, ...] = ("text", "tool_call", "inside_tool_call")
BEFORE: tuple[Phase, ...] = ("before",)
DEMANDED = {
    "refused": BEFORE, "reset-before-headers": BEFORE, "reset-after-headers": BEFORE, "slow-headers": BEFORE,
    "stall": BEFORE + AFTER, "cut": BEFORE + AFTER, "malformed": BEFORE + AFTER, "no-end-marker": BEFORE + AFTER,
    "wrong-content-type": BEFORE, "wrong-length": BEFORE + AFTER, "huge-chunk": BEFORE + AFTER,
    "endless": BEFORE + AFTER, "garbage-after-end": AFTER, "status-429": BEFORE, "status-500": BEFORE,
    "status-503": BEFORE, "redirect": BEFORE,
}  # fmt: skip
"""What the issue asks for, whatever the table says."""


class Outcome(NamedTuple):
    """What the caller sees: the code is empty for a good answer."""

    status: int
    code: str
    takes_over: bool


class Row(NamedTuple):
    """One line of the table."""

    fault: str
    phases: tuple[Phase, ...]
    streamed: Outcome | None
    whole: Outcome | None


class Cell(NamedTuple):
    """One request and what has to come of it."""

    key: str
    behaviour: Behaviour
    is_stream: bool
    has_second: bool
    expected: Outcome

    @property
    def takes_over(self) -> bool:
        """Whether the second target answers."""
        return self.has_second and self.expected.takes_over

    @property
    def is_good(self) -> bool:
        """Whether the caller gets a whole answer."""
        return self.takes_over or not self.expected.code

    @property
    def prefix(self) -> bytes:
        """What the caller has before the fault."""
        return b"".join(self.behaviour.delivered) if self.is_stream else b""

    @property
    def delivered(self) -> str:
        """The trace's word for it."""
        if self.takes_over:
            return "text"
        if not self.is_good and not self.prefix:
            return "nothing"
        given = self.prefix or WHOLES[self.behaviour.phase]
        return "tool_call" if b'"tool_calls"' in given else "text"


def read_table(text: str) -> list[Row]:
    """Read the one table of a Markdown text; anything unknown in it is an error."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert lines[0] == COLUMNS
    assert lines[1] == ["---"] * len(COLUMNS)
    rows = []
    for fault, phase, *outcomes in lines[2:]:
        assert fault in FAULTS, f"unknown fault {fault!r}"
        assert phase in ("before", "after"), f"unknown phase {phase!r} of {fault!r}"
        streamed, whole = _outcome(*outcomes[:2]), _outcome(*outcomes[2:])
        rows.append(Row(fault, AFTER if phase == "after" else BEFORE, streamed, whole))
    assert len({row[:2] for row in rows}) == len(rows), "a row is there twice"
    return rows


def _outcome(told: str, second: str) -> Outcome | None:
    if told == "-":
        assert second == "-"
        return None
    parts = re.fullmatch(r"(\d{3}) (-|[a-z][a-z0-9_]*)", told)
    assert parts, f"{told!r} is no status with a code"
    assert second in ("takes over", "not used"), f"unknown word {second!r}"
    status, takes_over = int(parts[1]), second == "takes over"
    assert takes_over == (status != 200), f"{told!r}: a second target is used where nothing has begun"
    return Outcome(status, parts[2].strip("-"), takes_over)


def cells_of(row: Row) -> Iterator[Cell]:
    """Expand a row."""
    for variant, phase, is_stream in ((v, p, s) for v in FAULTS[row.fault] for p in row.phases for s in (True, False)):
        expected = row.streamed if is_stream else row.whole
        if expected is None:
            continue
        name = ".".join(filter(None, (row.fault, variant, phase, "stream" if is_stream else "whole")))
        for has_second in (False, True):
            key = f"{name}.{'two' if has_second else 'one'}"
            yield Cell(key, Behaviour(row.fault, variant, phase), is_stream, has_second, expected)


def cuts_at_every_chunk(rows: list[Row]) -> Iterator[Cell]:
    """Return a cut before the first chunk and behind each that holds a part of the answer."""
    after, before = (next(r.streamed for r in rows if r[:2] == ("cut", phases)) for phases in (AFTER, BEFORE))
    assert after is not None
    assert before is not None
    yield Cell("cut.at.0", Behaviour("cut", "", "text", 0), True, False, before)
    for phase in ("text", "tool_call"):
        for count in range(2, len(STREAMS[phase]) + 1):
            yield Cell(f"cut.{phase}.at.{count}", Behaviour("cut", "", phase, count), True, False, after)
