"""What every engine is, as protocols: the contract that tests/contract/test_engine_contract.py holds each one to.

An engine is a program that serves models. turnout either owns its process (llamacpp, onnx, simulated) or only speaks
to it (external, ollama). Either way it answers OpenAI's paths over HTTP, so an answer is an ``HttpResponse``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Protocol

import msgspec
from msgspec import Meta

from turnout.config.paths import Paths
from turnout.config.schema import DeadlineSettings
from turnout.core.clock import Clock
from turnout.core.events import Emit
from turnout.core.memory import Demand, Device, Lease, LeaseClass, Model
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
        takes_orders: It is a ``ManagedEngine``: its models need room on the devices, and the scheduler says when to
            start and to stop them. Nothing is decided for other engines.
        sleeps: It is a ``SleepingEngine`` too.
        resizes: It is a ``ResizingEngine`` too.
        tells_load: It is a ``TellingEngine`` too.
    """

    owns_process: bool
    loads_on_demand: bool
    takes_orders: bool = False
    sleeps: bool = False
    resizes: bool = False
    tells_load: bool = False


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


class LiveWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process that lives.

    Attributes:
        target: What it serves.
        pid: Its process; its children count as itself.
        devices: The bytes that it was started for.
    """

    target: str
    pid: int
    devices: Demand


class Loader(Protocol):
    """Whoever decides when there is room for a model: the scheduler."""

    def wish(self, target: str) -> None:
        """Have a target loaded when there is room, without waiting for it."""
        ...

    async def load(self, target: str) -> None:
        """Return when a target is loaded.

        Raises:
            TurnoutError: It cannot be loaded, or not in time.
        """
        ...


class LeaseTaker(Protocol):
    """Whoever grants memory to programs that are not ours: the scheduler."""

    async def take(
        self, holder: str, devices: Demand, lease_class: LeaseClass, ttl_seconds: float, wait_seconds: float
    ) -> Lease:
        """Return a lease as soon as it is granted.

        Args:
            holder: For whom, in words.
            devices: Bytes on each device.
            lease_class: How it may be treated.
            ttl_seconds: How long it lasts without being kept.
            wait_seconds: How long to wait.

        Raises:
            TurnoutError: It is not granted in time, or never.
        """
        ...

    def keep(self, lease_id: str, ttl_seconds: float) -> bool:
        """Let a lease last so long from now on; False if it has ended."""
        ...

    def give_back(self, lease_id: str) -> None:
        """End a lease, if it has not ended yet."""
        ...


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
        devices: What there is to place models on; empty where nobody shares anything.
        leases: Grants memory to programs of others, where somebody does.
        loader: Decides when there is room; without one, a managed engine starts what it is wished for at once.
    """

    clock: Clock
    emit: Emit
    changed: Callable[[], None]
    transport: Transport
    paths: Paths
    deadlines: DeadlineSettings
    secret: Callable[[str], str | None]
    devices: Sequence[Device] = ()
    loader: Loader | None = None
    leases: LeaseTaker | None = None


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


class ManagedEngine(Engine, Protocol):
    """An engine whose models need room on devices that are shared.

    Orders return at once. Their ends are told as ``WorkerChanged``: a start ends in ``ready`` or ``failed``, a stop in
    ``cold``; a worker that dies by itself is told as ``failed``, with the time after which another start makes sense.
    Nothing starts without an order.
    """

    def models(self) -> tuple[Model, ...]:
        """Return what each target wants of the devices; may change while it is cold."""
        ...

    def workers(self) -> tuple[LiveWorker, ...]:
        """Return the processes that live now; also called from other threads."""
        ...

    def start(self, target: str, size: str, devices: Demand) -> None:
        """Order a start; nothing happens if it runs or starts already.

        Args:
            target: Which.
            size: A name of ``Model.sizes``.
            devices: What it may use.
        """
        ...

    def stop(self, target: str) -> None:
        """Order an end, also of a start that is under way."""
        ...


class SleepingEngine(ManagedEngine, Protocol):
    """A managed engine whose workers can sleep: told as ``asleep`` and ``ready``, or as what it was before."""

    def sleep(self, target: str, level: int) -> None:
        """Order a ready worker to sleep."""
        ...

    def wake(self, target: str) -> None:
        """Order a sleeping worker to wake up."""
        ...


class ResizingEngine(ManagedEngine, Protocol):
    """A managed engine whose workers can change their size while they run: told as ``ready``."""

    def resize(self, target: str, size: str, devices: Demand) -> None:
        """Order a ready worker to another size."""
        ...


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How busy an engine is.

    Attributes:
        running: Requests that it generates for.
        waiting: Requests that wait inside of it.
        cache_use: How much of its KV cache is taken, 0 to 1; None if it does not say.
    """

    running: int
    waiting: int
    cache_use: float | None = None


class TellingEngine(Engine, Protocol):
    """An engine that says how busy it is inside."""

    async def load(self) -> EngineLoad | None:
        """Return that, or None while it does not say; asked when a person looks, and by nobody else."""
        ...


def call_path(call: Call) -> str:
    """Return the path of a call below an OpenAI-compatible base URL."""
    return PATHS[call.kind]
