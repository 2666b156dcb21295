"""Two vLLMs of a whole daemon that do not fit on the card together: one sleeps while the other works."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from support.daemon import StartDaemon
from support.vllm import DOUBLE

CARD = "host/gpu0"


def a_model(root: Path, **more: Any) -> dict[str, Any]:
    """Return the settings of a model of which the card holds one."""
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(bytes(1000))
    return {
        "engine": "vllm", "source": f"file:{root}", "command": [sys.executable, str(DOUBLE), "serve"],
        "device": CARD, "vram_gib": 6.0, "min_residency_seconds": 0, "sleep": True, "sleep_level": 1,
        "environment": {"DOUBLE_LOAD_SECONDS": "2"}, **more,
    }  # fmt: skip


async def test_they_take_turns_by_sleeping_and_nobody_is_told_a_falsehood(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = await start_daemon({
        "devices": [{"id": CARD, "kind": "configured", "vram_gib": 10, "headroom_gib": 1}],
        "models": {"a": a_model(tmp_path), "b": a_model(tmp_path)},
    })  # fmt: skip
    for name, other, before in (("a", "b", "cold"), ("b", "a", "asleep"), ("a", "b", "asleep"), ("b", "a", "asleep")):
        answer = await daemon.chat(f"local/{name}", max_tokens=4)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-turnout-served-model"] == f"local/{name}"
        assert await daemon.state_of(f"local/{name}") == "ready"
        assert await daemon.state_of(f"local/{other}") == before

    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(daemon.chat(f"local/{'ab'[n % 2]}", max_tokens=4)) for n in range(12)]
    assert [call.result().status_code for call in calls] == [200] * 12
