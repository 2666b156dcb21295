"""The vLLM engine: one model, one vLLM of ours, with sleep where that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import ClassVar

import msgspec

from turnout.core.errors import Broken, ConnectFailed, SetupError
from turnout.core.memory import HOST_RAM, Demand, Device, Model
from turnout.core.words import Capability, Origin, Target
from turnout.tiers.base import Call, Capabilities, EngineContext, ModelSettings
from turnout.tiers.local.child import Child
from turnout.tiers.local.placement import in_memory
from turnout.tiers.local.process import LifeEnd
from turnout.tiers.local.server.engine import Launch, ServerEngine, gpus_of
from turnout.tiers.local.vllm.command import STAGES, command_line, variables
from turnout.tiers.local.vllm.memory import (
    DEFAULT_SHARE,
    PROCESS_BYTES,
    READ_BYTES_PER_SECOND,
    START_SECONDS,
    share_of_card,
    sleep_cost,
    sleep_level,
)
from turnout.tiers.local.vllm.metrics import EngineLoad, parse_load
from turnout.tiers.local.vllm.naps import fall_asleep, is_sleeping, wake_up, warm_up
from turnout.tiers.local.vllm.residue import Residues, used_by_others
from turnout.tiers.local.vllm.settings import IMAGE, VllmSettings
from turnout.tiers.local.vllm.weights import parse_vllm_source, weights_bytes
from turnout.tiers.transport import HttpResponse

METRICS_SECONDS = 2.0
CONTAINER_WEIGHTS = "/weights"
CONTAINER_CACHE = "/caches/hub"
CONTAINER_COMPILED = "/caches/vllm"
"""Named by variables, so that it does not matter whose home the image has."""


class VllmEngine(ServerEngine):
    """A vLLM that turnout runs."""

    Settings: ClassVar[type[ModelSettings]] = VllmSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        owns_process=True, loads_on_demand=True, takes_orders=True, sleeps=True, tells_load=True
    )
    settings: VllmSettings
    engine_name = "vllm"
    starts_alone = True

    def __init__(
        self, name: str, settings: VllmSettings, context: EngineContext, origin: Origin = "configured"
    ) -> None:
        if settings.runtime == "docker" and not settings.image:
            settings = msgspec.structs.replace(settings, image=IMAGE)
        if settings.sleep and settings.runtime == "docker" and settings.network != "host":
            raise SetupError(
                "`sleep` opens routes without a key, and a container's network is more than loopback",
                hint="set `network: host`, or leave `sleep` out",
            )
        self._source = parse_vllm_source(settings.source, context.secret)
        self._weights_bytes = weights_bytes(self._source)
        settings = msgspec.structs.replace(settings, device=settings.device or _first_card(context.devices))
        super().__init__(name, settings, context, origin)
        self._served_name = settings.served_name or name
        self._sleep_level = sleep_level(settings.sleep_level, self._weights_bytes, self._device(HOST_RAM))
        self._residues = Residues()
        self._nap_asked = asyncio.Event()
        self._shall_sleep = False
        self._is_awake = True

    # What it is

    @property
    def _is_embedding(self) -> bool:
        return self._can() == {"embedding"}

    def _can(self) -> frozenset[Capability]:
        if self.settings.can is not None:
            return frozenset(self.settings.can)
        if self.settings.roles and set(self.settings.roles) == {"embedding"}:
            return frozenset({"embedding"})
        found: set[Capability] = {"chat", "completion", "json"}
        if self.settings.tool_parser:
            found.add("tools")
        if "vision" in self.settings.roles:
            found.add("vision")
        return frozenset(found)

    def describe(self, target: Target) -> Target:
        """Add its own name for the model, what it can, its context and the size of its weights."""
        return msgspec.structs.replace(
            target,
            model=self._served_name,
            can=self._can(),
            context_tokens=self.settings.context_tokens,
            size_bytes=self._weights_bytes or None,
        )

    can: ClassVar[frozenset[Capability]] = frozenset()

    def demand(self) -> Demand:
        """Return what it may take of its device, and what its processes take of the machine's memory."""
        device = self._device(self.settings.device or "")
        share = int(DEFAULT_SHARE * device.total_bytes) if device is not None else 0
        taken = in_memory(self.settings, self.context.devices, share)
        if taken and HOST_RAM not in taken and self._device(HOST_RAM) is not None:
            taken |= {HOST_RAM: PROCESS_BYTES}
        return taken

    @property
    def load_seconds(self) -> float:
        """Its own start, and the weights at the speed of a plain SSD."""
        return START_SECONDS + self._weights_bytes / READ_BYTES_PER_SECOND

    @property
    def slots(self) -> int:
        """As configured."""
        return self.settings.slots

    def models(self) -> tuple[Model, ...]:
        """Return what it wants, awake and asleep. It sleeps at one level: it cannot go from one to the other."""
        (model,) = super().models()
        if not self.settings.sleep:
            return (model,)
        weights = self._weights_bytes or sum(self.demand().values())
        is_ram_shared = self._device(HOST_RAM) is not None
        level = sleep_cost(
            self._sleep_level, weights, self.demand(), self._residues.settled(), is_ram_shared=is_ram_shared
        )
        return (msgspec.structs.replace(model, sleep_levels=(level,)),)

    def launch(self, key: str, host: str, port: int) -> Launch:
        """Return the command line; the weights have to be here unless it may download them.

        Raises:
            SetupError: Program or weights are missing, or it is more than the card has.
        """
        given = self.settings
        is_docker = given.runtime == "docker"
        if not self._source.is_here and not (given.download and self._source.name):
            raise SetupError(
                f"the weights {given.source!r} are not on this machine ({self._source.folder})",
                hint=f"`hf download {self._source.name}` fetches them, or `download: true` lets vLLM do it"
                if self._source.name
                else "correct `source`",
            )
        command = given.command if is_docker else [_find_program(given.command[0]), *given.command[1:]]
        model = self._source.name or (CONTAINER_WEIGHTS if is_docker else str(self._source.folder))
        demand = self._devices or self.demand()
        words = command_line(
            msgspec.structs.replace(given, command=command),
            model=model,
            served_name=self._served_name,
            host=host,
            port=port,
            share=self._share(demand),
            is_embedding=self._is_embedding,
            is_on_card=given.device != HOST_RAM,
        )
        gpus = gpus_of(demand)
        return Launch(
            program="vLLM",
            arguments=words,
            environment=variables(given, key) | self._cache_variables(),
            served_name=self._served_name,
            stages=STAGES,
            gpus=gpus or None,
            mounts=self._mounts() if is_docker else (),
        )

    def _share(self, demand: Demand) -> float:
        device = self._device(self.settings.device or "")
        if device is None or not device.total_bytes:
            return self.settings.vram_share or DEFAULT_SHARE  # nothing is known of the device: vLLM finds out
        wanted = demand.get(device.id) or self.demand().get(device.id, 0)
        counts = self.settings.memory_counts
        others = used_by_others(device) if counts == "card" else 0
        return share_of_card(wanted, device.total_bytes, others, counts)

    def _cache_variables(self) -> dict[str, str]:
        """Return where vLLM finds its caches: the variables that say so here do not reach it."""
        is_docker = self.settings.runtime == "docker"
        found = {"VLLM_CACHE_ROOT": CONTAINER_COMPILED} if is_docker else {}
        if self._source.cache is not None:
            found["HF_HUB_CACHE"] = CONTAINER_CACHE if is_docker else str(self._source.cache)
        return found

    def _mounts(self) -> tuple[str, ...]:
        """Return the weights, and a place for the graphs that vLLM compiles, which take minutes to make."""
        compiled = self.context.paths.data_dir / "vllm-cache"
        mounts = [(compiled, CONTAINER_COMPILED, "")]
        if self._source.cache is None:
            mounts.append((self._source.folder, CONTAINER_WEIGHTS, ":ro"))
        else:
            mounts.append((self._source.cache, CONTAINER_CACHE, "" if self.settings.download else ":ro"))
        for here, _, _ in mounts:
            here.mkdir(parents=True, exist_ok=True)  # else the engine makes it, for root alone
        return tuple(f"{here}:{there}{mode}" for here, there, mode in mounts)

    # Sleep

    async def ready(self, target: str) -> None:
        """Return when it can take a call; wake it if it sleeps and nobody else decides that.

        Raises:
            LoadFailed: It cannot be loaded, or waits to be started again.
        """
        if self._state == "asleep" and self.context.loader is None:
            self.wake(target)
        await super().ready(target)

    def sleep(self, target: str, level: int) -> None:  # noqa: ARG002  one target, one level
        """Order it to sleep."""
        self._order_nap(shall_sleep=True)

    def wake(self, target: str) -> None:  # noqa: ARG002  one target only
        """Order it to wake up."""
        self._order_nap(shall_sleep=False)

    def _order_nap(self, *, shall_sleep: bool) -> None:
        if not self._has_life or self._stop_asked.is_set() or (self._state == "loading" and self._is_awake):
            return  # the end of that will be told
        self._shall_sleep = shall_sleep
        if shall_sleep:
            self._is_awake = False  # from this moment on no request goes there: it would hang
        self._nap_asked.set()

    async def send(self, target: Target, call: Call) -> HttpResponse:
        """Make one call; never to a sleeper, where it would hang."""
        if not self._is_awake:
            raise ConnectFailed(f"{self.target_name} sleeps")
        return await super().send(target, call)

    async def _watch(self, child: Child) -> LifeEnd:
        self._is_awake, self._shall_sleep = True, False
        self._nap_asked.clear()
        async with asyncio.TaskGroup() as tasks:
            living = tasks.create_task(super()._watch(child))
            napping = tasks.create_task(self._nap())
            try:
                await asyncio.wait((living, napping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                living.cancel()
                napping.cancel()
        return living.result() if not living.cancelled() else napping.result()

    async def _nap(self) -> LifeEnd:
        """Follow the orders to sleep and to wake; return only if it came out of a wake unfit to go on."""
        is_asleep = False
        while True:
            await self._nap_asked.wait()
            self._nap_asked.clear()
            if self._shall_sleep == is_asleep:  # an order that has come to its end already: how it is is said again
                self._is_awake = not is_asleep
                self._change("asleep" if is_asleep else "ready", "")
                continue
            if self._shall_sleep:
                is_asleep = await self._fall_asleep()
            elif reason := await self._wake_up():
                return LifeEnd(reason, lived_seconds=1.0)
            else:
                is_asleep = False

    async def _fall_asleep(self) -> bool:
        self._change("draining", "")
        try:
            await fall_asleep(self.ask, self._sleep_level)
        except Broken as error:
            with contextlib.suppress(Broken):
                if await is_sleeping(self.ask):  # late, but it does
                    self._change("asleep", "")
                    return True
            self._is_awake = True
            self._change("ready", f"it did not fall asleep: {error.message}")
            return False
        if self.pid is not None:
            await self._residues.measure(self.demand(), self.workers())
        self._change("asleep", "")
        return True

    async def _wake_up(self) -> str:
        """Return what went wrong, if it cannot go on: half a model must not answer."""
        self._change("loading", "waking up")
        try:
            await wake_up(self.ask, self._sleep_level)
            if not self._is_embedding:
                await warm_up(self.ask, self._served_name)
        except Broken as error:
            return f"it did not wake up: {error.message}"
        self._is_awake = True
        self._change("ready", "")
        return ""

    # What it tells

    async def load(self) -> EngineLoad | None:
        """Return how busy it is, or None while it is not ready or does not say."""
        if self._state != "ready":
            return None
        try:
            text = await self.ask("GET", "/metrics", seconds=METRICS_SECONDS)
        except Broken:
            return None
        return parse_load(text.decode("utf-8", "replace"))

    def _device(self, name: str) -> Device | None:
        return next((device for device in self.context.devices if device.id == name), None)

    def start(self, target: str, size: str, devices: Demand) -> None:
        """Order a start; see ``ManagedEngine.start``."""
        if not self._has_life:
            self._residues.settle()
            self._weights_bytes = weights_bytes(self._source)  # somebody may have fetched them
        super().start(target, size, devices)


def _first_card(devices: object) -> str:
    cards = [device.id for device in devices if device.id.startswith("host/gpu")]  # type: ignore[attr-defined]
    return cards[0] if cards else HOST_RAM


def _find_program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SetupError(
            f"there is no program {name!r}",
            hint="install vLLM in an environment of its own and set `command: [/path/to/its/vllm, serve]`, "
            "or `runtime: docker`",
        )
    return str(Path(found)) if os.path.isabs(found) else found  # noqa: PTH117
