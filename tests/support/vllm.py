"""A vLLM to test against: the double, or the real program that `make vllm` names."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import msgspec

from turnout.core.memory import GIB, HOST_RAM, Device
from turnout.tiers.local.vllm.settings import VllmSettings

DOUBLE = Path(__file__).parent / "vllm_double.py"
COMMAND, WEIGHTS = "TESTS_VLLM", "TESTS_VLLM_WEIGHTS"
"""Set by `make vllm`: how the real one is started, and a folder with a small instruct model."""
CARD = Device(id="host/gpu0", kind="configured", total_bytes=32 * GIB)
RAM = Device(id=HOST_RAM, kind="ram", total_bytes=24 * GIB)


def is_real() -> bool:
    """Return whether the tests run against a real vLLM."""
    return COMMAND in os.environ


def vllm_settings(root: Path, *, is_broken: bool = False, **more: Any) -> VllmSettings:
    """Return the settings of a model with one slot.

    Args:
        root: A folder of the test's own.
        is_broken: Its weights cannot be loaded.
        more: Other settings.
    """
    weights = root / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "config.json").write_text("{" if is_broken else "{}")
    command = [sys.executable, str(DOUBLE), "serve"]
    facts: dict[str, Any] = {"environment": {"DOUBLE_LOAD_SECONDS": "0.05"}}
    if is_real():
        command = shlex.split(os.environ[COMMAND])
        facts = {"environment": {"VLLM_CPU_KVCACHE_SPACE": "1"}, "device": HOST_RAM,
                 "arguments": ["--dtype", "bfloat16", "--enforce-eager"]}  # fmt: skip
        if not is_broken:
            weights = Path(os.environ[WEIGHTS])
    facts = {"slots": 1, "context_tokens": 8192, "command": command, "vram_gib": 4.0} | facts | more
    return msgspec.convert({"engine": "vllm", "source": f"file:{weights}"} | facts, VllmSettings)
