"""A ComfyUI of yours takes its turn on the card: a lease around its queue, until its memory is seen to be free.

It is never stopped, and no job of it is interrupted. What it says of itself: ``GET /queue``, ``GET /system_stats``;
what it is asked: ``POST /free`` (github.com/comfyanonymous/ComfyUI, server.py).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from turnout.core.errors import Broken, LeaseTooLarge, NotSupported, SetupError, TurnoutError
from turnout.core.events import JobMemoryKept
from turnout.core.loopback import is_loopback_url
from turnout.core.memory import GIB, HOST_RAM
from turnout.core.words import Origin, Target, WorkerState
from turnout.tiers.base import Call, Capabilities, EngineContext, ModelSettings
from turnout.tiers.local.placement import check_device_name
from turnout.tiers.local.probe import ProbedEngine, check_base_url
from turnout.tiers.media.queue_lease import QueueFacts, QueueLease
from turnout.tiers.transport import HttpResponse

DEFAULT_URL = "http://127.0.0.1:8188"
LOOK_SECONDS = 1.0
FREE_SECONDS = 30.0
TTL_SECONDS = 15.0
"""So long the lease outlives a program that does not answer: it may be dead, or only busy."""
WAIT_SECONDS = 3600.0
"""Its job has begun already: there is no sense in giving up early."""
REST_BYTES = GIB // 2
"""What torch keeps for itself after it has unloaded its models."""
LOOKS_UNTIL_GONE = 5
TELLING = ("cuda", "xpu", "npu")
"""Kinds of devices whose allocator says what it holds (ComfyUI's model_management.get_total_memory)."""
FREE = msgspec.json.encode({"unload_models": True, "free_memory": True})


class ComfyUiSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of a ComfyUI that shares a card."""

    base_url: Annotated[str, Meta(description="Where it listens.")] = DEFAULT_URL
    vram_gib: Annotated[float, Meta(gt=0, description="How much it may take while it works.")]
    device: Annotated[str | None, Meta(description="The device that it works on; the first card, if left out.")] = None
    idle_seconds: Annotated[
        float, Meta(ge=0, description="Its queue has to be empty for so long before its memory is asked back.")
    ] = 30.0


class QueueWire(msgspec.Struct, frozen=True):
    """``GET /queue``; only how many there are counts."""

    queue_running: list[msgspec.Raw]
    queue_pending: list[msgspec.Raw]


class DeviceWire(msgspec.Struct, frozen=True):
    """One device in ``GET /system_stats``; ``torch_vram_total`` is what its allocator holds."""

    type: str = ""
    torch_vram_total: int | None = None


class SystemWire(msgspec.Struct, frozen=True):
    """Who it is."""

    comfyui_version: str


class StatsWire(msgspec.Struct, frozen=True):
    """``GET /system_stats``."""

    system: SystemWire
    devices: list[DeviceWire] = []

    @property
    def held_bytes(self) -> int | None:
        """What it holds on its card. Elsewhere (cpu, mps) it only knows what everybody has, which counts as 0."""
        if not self.devices or self.devices[0].type not in TELLING:
            return 0
        return self.devices[0].torch_vram_total


class ComfyUi(ProbedEngine):
    """A ComfyUI that runs: shown, so that people see whose memory it is. It cannot chat.

    Args:
        base_url: Where it listens.
        context: What the composition root provides.
        name: Of its target.
        origin: Who brought it.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=False, loads_on_demand=False)
    Settings: ClassVar[type[ModelSettings]] = ComfyUiSettings

    def __init__(self, base_url: str, context: EngineContext, name: str = "comfyui", origin: Origin = "found") -> None:
        if wrong := check_base_url(base_url):
            raise SetupError(f"base_url {base_url!r}: {wrong}")
        super().__init__(context, base_url, None)
        self.name = name
        self.origin: Origin = origin
        self.roles: tuple[str, ...] = ()

    async def look(self) -> tuple[Target, ...]:
        """Ask who it is."""
        return self.seen(await self.ask("GET", "/system_stats", b"", StatsWire))

    def seen(self, stats: StatsWire, detail: str = "") -> tuple[Target, ...]:
        """Return what is shown of it.

        Args:
            stats: Its own word.
            detail: What it does.
        """
        return (self._target(f"ComfyUI {stats.system.comfyui_version}", "ready", detail),)

    def absent(self, reason: str) -> tuple[Target, ...]:
        """Keep a configured one visible; a found one is gone."""
        return () if self.origin == "found" else (self._target("ComfyUI", "unreachable", reason),)

    async def send(self, target: Target, call: Call) -> HttpResponse:  # noqa: ARG002  the protocol's signature
        """Refuse: no request goes there yet.

        Raises:
            NotSupported: Always.
        """
        raise NotSupported(f"{target.name} makes pictures in its own page; no request goes there yet")

    def _target(self, model: str, state: WorkerState, detail: str) -> Target:
        return Target(
            name=f"local/{self.name}",
            tier="local",
            engine="comfyui",
            model=model,
            can=frozenset(),
            roles=self.roles,
            origin=self.origin,
            state=state,
            detail=detail,
            is_loaded=state == "ready",
            is_beyond_loopback=not is_loopback_url(self.base_url),
        )


class ComfyUiEngine(ComfyUi):
    """A ComfyUI with a lease around its queue."""

    settings: ComfyUiSettings

    def __init__(
        self, name: str, settings: ComfyUiSettings, context: EngineContext, origin: Origin = "configured"
    ) -> None:
        super().__init__(settings.base_url, context, name, origin)
        check_device_name(settings.device, context.devices)
        self.settings = settings
        self.roles = tuple(settings.roles)
        cards = [device.id for device in context.devices if device.id != HOST_RAM]
        self._device = settings.device or next(iter(cards), "")
        self.lease = QueueLease(settings.idle_seconds, FREE_SECONDS, REST_BYTES)
        self._lease_id = ""
        self._renew_at = 0.0
        self._unseen = 0
        self._asking: asyncio.Task[None] | None = None
        self._refusal = ""
        self._targets = self.absent("not asked yet")

    async def run(self) -> None:
        """Look every second; ask for the lease, and give it back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._look_once(tasks)
                    self._known.set()
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._act("release")  # its memory is counted as used by others from now on

    async def _look_once(self, tasks: asyncio.TaskGroup) -> None:
        now = self.context.clock.monotonic_seconds()
        try:
            stats = await self.ask("GET", "/system_stats", b"", StatsWire)
            queue = await self.ask("GET", "/queue", b"", QueueWire)
        except Broken as error:
            self._unseen += 1
            if self._unseen == LOOKS_UNTIL_GONE:
                self._lease_id = ""  # it is kept no more, and ends by itself
                self._act(self.lease.gone())
            self._update(self.absent(error.message))
            return
        self._unseen = 0
        jobs = len(queue.queue_running) + len(queue.queue_pending)
        step = self.lease.looked(QueueFacts(jobs=jobs, held_bytes=stats.held_bytes), now)
        if step == "ask":
            self._asking = tasks.create_task(self._ask_for_room(), name=f"lease of {self.name}")
        elif step == "free":
            await self._ask_back()
        else:
            self._act(step)
        self._keep(now)
        self._update(self.seen(stats, self._in_words(jobs)))

    async def _ask_for_room(self) -> None:
        leases = self.context.leases
        if leases is None or not self._device:
            return
        devices = {self._device: int(self.settings.vram_gib * GIB)}
        try:
            lease = await leases.take(self.name, devices, "job", TTL_SECONDS, WAIT_SECONDS)
        except LeaseTooLarge as error:
            self._refusal = error.message  # asked again when its queue has been empty
            return
        except TurnoutError:
            self.lease.refused()
            return
        self._lease_id = lease.id
        self._renew_at = self.context.clock.monotonic_seconds() + TTL_SECONDS / 3
        self.lease.granted()

    async def _ask_back(self) -> None:
        if self.lease.unanswered:
            self.context.emit(JobMemoryKept(holder=self.name, tries=self.lease.unanswered))
        try:
            await self.ask("POST", "/free", FREE, object)
        except Broken:
            return  # it answers with an empty body, which is no JSON; whether it heard us, the memory will show

    def _act(self, step: str) -> None:
        if step == "give_up" and self._asking is not None:
            self._asking.cancel()
            self._refusal = ""
        if step == "release" and self._lease_id and self.context.leases is not None:
            self.context.leases.give_back(self._lease_id)
            self._lease_id = ""

    def _keep(self, now: float) -> None:
        if self._lease_id and now >= self._renew_at and self.context.leases is not None:
            self._renew_at = now + TTL_SECONDS / 3
            if not self.context.leases.keep(self._lease_id, TTL_SECONDS):  # somebody took it back by hand
                self._lease_id = ""
                self.lease.gone()

    def _in_words(self, jobs: int) -> str:
        match self.lease.phase:
            case "asking" if self._refusal:
                return f"{jobs} in its queue, and no lease: {self._refusal}"
            case "asking":
                return f"{jobs} in its queue, waits for the card"
            case "held":
                return f"{jobs} in its queue" if jobs else "its queue is empty"
            case "freeing":
                return "asked to free its memory"
            case _:
                return ""
