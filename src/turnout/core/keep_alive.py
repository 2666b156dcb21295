"""How long a model is kept in memory after its last request, as Ollama's callers say it: ``keep_alive``.

A number counts seconds; a text is a duration of Go's ``time.ParseDuration`` (https://pkg.go.dev/time#ParseDuration) or
such a number; anything below 0 means for ever, 0 means not at all
(https://github.com/ollama/ollama/blob/main/docs/faq.md).
"""

from __future__ import annotations

import math
import re

FOR_EVER = -1.0
EXPECTED = "seconds as a number, or a duration such as '5m', '24h', '1h30m'; 0 unloads at once, -1 keeps"
MOST_SECONDS = 10 * 365 * 86_400.0
"""More counts as for ever."""

UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
NUMBER = r"(?:\d+\.?\d*|\.\d+)"
DURATION = re.compile(rf"([+-]?)((?:{NUMBER}(?:ns|us|µs|ms|s|m|h))+)", re.ASCII)
PART = re.compile(rf"({NUMBER})(ns|us|µs|ms|s|m|h)", re.ASCII)
PLAIN = re.compile(rf"[+-]?{NUMBER}", re.ASCII)


def read_keep_alive(value: float | str) -> float | None:
    """Return seconds, ``FOR_EVER`` for every value below 0, or None if the value makes no sense.

    Args:
        value: As the caller said it.
    """
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 40:
            return None
        if PLAIN.fullmatch(text):
            seconds = float(text)
        elif found := DURATION.fullmatch(text):
            seconds = sum(float(number) * UNIT_SECONDS[unit] for number, unit in PART.findall(found[2]))
            seconds = -seconds if found[1] == "-" else seconds
        else:
            return None
    else:
        seconds = float(value)
    if math.isnan(seconds):
        return None
    return FOR_EVER if seconds < 0 or seconds > MOST_SECONDS else seconds
