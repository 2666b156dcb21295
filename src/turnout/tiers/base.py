"""What every engine is, as protocols: the contract that tests/contract/test_engine_contract.py holds each one to.

An engine is a program that serves models. turnout either owns its process (llamacpp, onnx, simulated) or only speaks
to it (external, ollama). Either way it answers OpenAI's paths over HTTP, so an answer is an ``HttpResponse``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Protocol

import msgspec
from msgspec import Meta

from turnout.config.paths import Paths
from turnout.config.schema import DeadlineSettings
from turnout.core.clock import Clock
from turnout.core.events import Emit
from turnout.core.words import PATHS, Origin, RequestKind, Target
from turnout.tiers.transport import Deadlines, HttpResponse, Transport


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an entry under ``models`` may say whatever its engine; each engine adds its own settings."""

    engine: Annotated[str, Meta(description="The program that serves the model.")]
    roles: Annotated[list[str], Meta(description="What the model is for; `auto` asks the orchestrator.")] = (
        msgspec.field(default_factory=list)
    )


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can be asked to do.

    Attributes:
        owns_process: Starting, stopping and restarting it is our business.
        loads_on_demand: A cold model is loaded by ``ready``.
    """

    owns_process: bool
    loads_on_demand: bool


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP exchange with an engine.

    Attributes:
        kind: Decides the path.
        body: JSON in which ``model`` already is the engine's own name for it.
        request_id: Passed on as ``x-request-id``, so that an engine's log can be matched.
        deadlines: In seconds.
    """

    kind: RequestKind
    body: bytes
    request_id: str
    deadlines: Deadlines


class EngineContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is given by the composition root.

    Attributes:
        clock: Time.
        emit: Tells everybody about a fact.
        changed: Called after ``targets()`` would answer differently.
        transport: Speaks HTTP to engines.
        paths: Where files are.
        deadlines: The one table of deadlines.
        secret: Returns the value of an environment or ``.env`` variable, or None.
    """

    clock: Clock
    emit: Emit
    changed: Callable[[], None]
    transport: Transport
    paths: Paths
    deadlines: DeadlineSettings
    secret: Callable[[str], str | None]


class Engine(Protocol):
    """One program that serves one or more models.

    Class attributes:
        Settings: The struct that an entry under ``models`` with this engine is decoded into.
        capabilities: What it can be asked to do.
    """

    Settings: ClassVar[type[ModelSettings]]
    capabilities: ClassVar[Capabilities]
    name: str

    def __init__(self, name: str, settings: Any, context: EngineContext, origin: Origin = "configured") -> None:
        """Build without starting anything.

        Args:
            name: The key under ``models``, or the engine's name where it was found.
            settings: An instance of ``Settings``.
            context: What the composition root provides.
            origin: Who brought it.

        Raises:
            SetupError: The settings cannot work on this machine.
        """
        ...

    def targets(self) -> tuple[Target, ...]:
        """Return what is served, with the state of each; empty while nothing is known."""
        ...

    async def run(self) -> None:
        """Live: start, watch, restart, probe; returns only by cancellation, leaving nothing running."""
        ...

    async def wait_known(self) -> None:
        """Return once ``targets()`` rests on at least one look at the world."""
        ...

    async def ready(self, target: str) -> None:
        """Return when the target can take a call; load it first if it is cold.

        Raises:
            LoadFailed: It cannot be loaded, or is waiting to be restarted.
        """
        ...

    def wish(self, target: str) -> None:
        """Begin loading a target without waiting for it."""
        ...

    async def send(self, target: Target, call: Call) -> HttpResponse:
        """Make one call.

        Raises:
            Broken: The engine could not be reached or gave no proper answer.
        """
        ...


def call_path(call: Call) -> str:
    """Return the path of a call below an OpenAI-compatible base URL."""
    return PATHS[call.kind]
