"""Small values that unit tests begin with; each names only what its test is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from turnout.config.paths import Paths
from turnout.config.schema import DeadlineSettings
from turnout.core.clock import Clock, ManualClock
from turnout.core.events import Emit
from turnout.core.words import Capability, Request, Target, Trace
from turnout.tiers.base import EngineContext
from turnout.tiers.transport import Transport

CHAT: frozenset[Capability] = frozenset({"chat", "completion"})


def a_target(name: str = "local/tiny", **facts: Any) -> Target:
    """Return a ready target that can chat."""
    base = Target(name=name, tier="local", engine="simulated", model=name.rpartition("/")[2], can=CHAT, state="ready")
    return msgspec.structs.replace(base, **facts)


def a_request(**facts: Any) -> Request:
    """Return a chat request for ``auto``."""
    return msgspec.structs.replace(Request(id="req_1", kind="chat", selector="auto"), **facts)


def a_trace(trace_id: str = "req_1", **facts: Any) -> Trace:
    """Return the story of a request that was answered at once."""
    base = Trace(
        id=trace_id, received_at=1.0, request=a_request(id=trace_id), plan=None, attempts=(), outcome="answered",
        http_status=200,
    )  # fmt: skip
    return msgspec.structs.replace(base, **facts)


def some_paths(root: Path) -> Paths:
    """Return directories below a test's own."""
    return Paths(config_dir=root / "config", state_dir=root / "state", data_dir=root / "data")


def a_context(
    root: Path,
    transport: Transport,
    *,
    emit: Emit = lambda event: None,
    clock: Clock | None = None,
    secrets: dict[str, str] | None = None,
    deadlines: DeadlineSettings | None = None,
    on_change: Any = lambda: None,
) -> EngineContext:
    """Return what an engine is given."""
    return EngineContext(
        clock=clock or ManualClock(),
        emit=emit,
        changed=on_change,
        transport=transport,
        paths=some_paths(root),
        deadlines=deadlines or DeadlineSettings(),
        secret=(secrets or {}).get,
    )
