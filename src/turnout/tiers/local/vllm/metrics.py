"""What a vLLM tells of its load on ``/metrics``. Pure: text in, a struct out."""

from __future__ import annotations

import re

from turnout.tiers.base import EngineLoad

__all__ = ["EngineLoad", "parse_load"]

SAMPLE = re.compile(r"^(vllm:\w+)(?:\{[^}]*\})?\s+([0-9.eE+-]+|NaN|[+-]Inf)\s*$", re.MULTILINE)
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
CACHE_USE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
"""The second is what versions before 0.10 call it. A fraction, whatever the name says."""


def parse_load(text: str) -> EngineLoad | None:
    """Return the load, or None if the text is not a vLLM's. Several engines behind one server count together.

    Args:
        text: In Prometheus' exposition format.
    """
    sums: dict[str, float] = {}
    most: dict[str, float] = {}
    for name, value in SAMPLE.findall(text):
        number = float(value)
        if number == number and abs(number) != float("inf"):
            sums[name] = sums.get(name, 0.0) + number
            most[name] = max(most.get(name, number), number)
    if RUNNING not in sums:
        return None
    use = next((most[name] for name in CACHE_USE if name in most), None)
    return EngineLoad(running=int(sums[RUNNING]), waiting=int(sums.get(WAITING, 0)), cache_use=use)
