"""Traces in the format of the Azure LLM inference traces of 2023: ``TIMESTAMP,ContextTokens,GeneratedTokens``.

https://github.com/Azure/AzurePublicDataset/blob/master/AzureLLMInferenceDataset2023.md. The columns ``Role``,
``Priority`` and ``Key`` may follow, in any order; where a column or a value is missing, the profile's mix decides.
A time is an ISO date or a number of seconds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from turnout.core.errors import SetupError
from turnout.core.memory import PRIORITIES, Priority
from turnout.simulate.profile import Profile
from turnout.simulate.traces.arrivals import Arrivals, ArrivalsBuilder
from turnout.simulate.traces.mix import Mix

NEEDED = ("timestamp", "contexttokens", "generatedtokens")
OPTIONAL = ("role", "priority", "key")
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
HINT = f"the first line names the columns: {HEADER}, and if you like Role, Priority, Key"
MOST_TOKENS = 10_000_000


def read_azure(path: Path, profile: Profile, seed: int, rate: float) -> Arrivals:
    """Return the arrivals of a CSV trace.

    Args:
        path: The file.
        profile: Whose models shall serve them.
        seed: For what the trace does not say.
        rate: How many times as fast as recorded they arrive.

    Raises:
        SetupError: With file and line.
    """
    builder = ArrivalsBuilder(profile, path.name)
    mix = Mix(profile, seed)
    indexes: dict[str, int | None] = {}
    for line, moment, prompt_tokens, answer_tokens, wanted, priority, key in _rows(path):
        role, urgency, caller = mix.draw(wanted, priority, key)
        if role not in indexes:
            indexes[role] = profile.model_index(role)
        if (model := indexes[role]) is None:
            known = sorted({name for entry in profile.models for name in entry.roles})
            raise SetupError(
                f"{path}:{line}: no model of profile {profile.name!r} has the role {role!r}",
                hint=f"its roles are {', '.join(known)}",
            )
        tokens = 0 if role == "embedding" else answer_tokens
        builder.add_request(moment, model, role, urgency, caller, prompt_tokens, tokens)
    if not len(builder):
        raise SetupError(f"{path}: the trace has no requests", hint=HINT)
    return builder.build(rate)


def _rows(path: Path) -> Iterator[tuple[int, float, int, int, str, Priority | None, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in NEEDED if name not in header]:
            raise SetupError(f"{path}:1: expected the column {_spell(missing[0])}", hint=HINT)
        if strange := [name for name in header if name not in NEEDED + OPTIONAL]:
            raise SetupError(f"{path}:1: there is no column {strange[0]!r}", hint=HINT)
        time, prompt, answer = (header.index(name) for name in NEEDED)
        role, priority, key = (header.index(name) if name in header else None for name in OPTIONAL)
        for row in reader:
            if not row:
                continue
            line = reader.line_num
            if len(row) < len(header):
                _refuse(path, line, f"expected {len(header)} values, found {len(row)}")
            yield (
                line,
                _seconds(row[time], path, line),
                _tokens(row[prompt], path, line, "ContextTokens"),
                _tokens(row[answer], path, line, "GeneratedTokens"),
                "" if role is None else row[role].strip(),
                None if priority is None else _priority(row[priority].strip(), path, line),
                "" if key is None else row[key].strip(),
            )


def _seconds(text: str, path: Path, line: int) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            seconds = float(text)
        except ValueError:
            seconds = float("nan")
        if not 0 <= seconds < 1e11:
            _refuse(path, line, f"expected an ISO date or a number of seconds as TIMESTAMP, found {text!r}")
        return seconds
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _tokens(text: str, path: Path, line: int, column: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = -1
    if not 0 <= count <= MOST_TOKENS:
        _refuse(path, line, f"expected a count of tokens as {column}, found {text!r}")
    return count


def _priority(text: str, path: Path, line: int) -> Priority | None:
    if text and text not in PRIORITIES:
        _refuse(path, line, f"expected {', '.join(PRIORITIES)} or nothing as Priority, found {text!r}")
    return text or None


def _spell(name: str) -> str:
    return next(spelt for spelt in HEADER.split(",") if spelt.lower() == name)


def _refuse(path: Path, line: int, message: str) -> NoReturn:
    raise SetupError(f"{path}:{line}: {message}", hint=f"a line looks like 2023-11-16 18:17:03.97,4808,10 ({HEADER})")
