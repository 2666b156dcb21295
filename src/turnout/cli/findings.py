"""One line of a check-up."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        verdict: Whether it is well.
        name: What was looked at.
        words: What is there.
        mend: What to do about it, or worth knowing; empty for nothing.
    """

    verdict: Verdict
    name: str
    words: str
    mend: str = ""
