"""How long a model is kept, as Ollama's callers say it."""

from __future__ import annotations

import pytest

from turnout.core.keep_alive import FOR_EVER, read_keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0), (300, 300.0), (1.5, 1.5), ("0", 0.0), ("300", 300.0), (" 5m ", 300.0), ("24h", 86_400.0),
        ("1h30m", 5400.0), ("1.5h", 5400.0), ("300ms", 0.3), ("+2s", 2.0), (".5m", 30.0), ("0s", 0.0),
    ],
)  # fmt: skip
def test_seconds_and_durations(value: float | str, seconds: float) -> None:
    assert read_keep_alive(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [-1, -0.5, "-1", "-5m", "-1s", 1e12, "100000000h", float("inf")])
def test_below_0_and_beyond_all_measure_is_for_ever(value: float | str) -> None:
    assert read_keep_alive(value) == FOR_EVER


@pytest.mark.parametrize("value", ["", "soon", "5x", "5 m", "m", "5m3", "--1", "1e3", "nan", "٣m", "1h" * 30])
def test_anything_else_makes_no_sense(value: str) -> None:
    assert read_keep_alive(value) is None
