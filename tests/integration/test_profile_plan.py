"""`turnout profile plan` beside a running daemon: what is on the card now, and what would have to leave it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from support.daemon import RunningDaemon, StartDaemon

TURNOUT = str(Path(sys.executable).with_name("turnout"))
CONFIG: dict[str, Any] = {
    "profile": "one",
    "profiles": {
        "one": {"models": {"a": {"engine": "simulated", "vram_gib": 6, "roles": ["orchestrator"]}}},
        "two": {"models": {"b": {"engine": "simulated", "vram_gib": 7}}},
    },
    "devices": [{"id": "host/gpu0", "kind": "simulated", "vram_gib": 16, "headroom_gib": 1}],
}


async def plan(daemon: RunningDaemon, *arguments: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TURNOUT_", "XDG_"))}
    kept |= {f"XDG_{kind}_HOME": str(daemon.home / kind.lower()) for kind in ("CONFIG", "STATE", "DATA")}
    process = await asyncio.create_subprocess_exec(
        TURNOUT, "profile", "plan", *arguments, "--config", str(daemon.home / "turnout.yaml"),
        stdout=asyncio.subprocess.PIPE, env=kept,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_what_would_have_to_leave_the_card(start_daemon: StartDaemon) -> None:
    daemon = await start_daemon(CONFIG)
    await daemon.until_state("local/a", "ready")

    assert "Nothing that is on the card now would have to leave it." in await plan(daemon)
    assert "Now on the card, and without a place in this profile: a." in await plan(daemon, "two")
    told = json.loads(await plan(daemon, "two", "--json"))
    assert told["leaving_now"] == ["local/a"]
    assert json.loads(await plan(daemon, "two", "--vram-gib", "16", "--json"))["leaving_now"] is None, "another card"
