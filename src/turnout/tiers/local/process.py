"""An engine whose worker process is ours: cold until it is ordered, loaded, watched, its end told with a back-off."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, ClassVar

import msgspec

from turnout.core.errors import LoadFailed, SetupError
from turnout.core.events import LoadProgressed, WorkerChanged, WorkerCrashed
from turnout.core.memory import Demand, Model, Size
from turnout.core.words import Capability, Origin, Target, WorkerState
from turnout.tiers.base import Call, Capabilities, EngineContext, LiveWorker, ModelSettings, call_path
from turnout.tiers.local.child import Child, EngineLog, describe_exit, spawn_worker
from turnout.tiers.local.placement import PlacedSettings, check_device, lease_class_of
from turnout.tiers.local.restart import FIRST_DELAY_SECONDS, RestartPolicy
from turnout.tiers.transport import HttpRequest, HttpResponse


class LifeEnd(msgspec.Struct, frozen=True):
    """How one life of a worker ended.

    Attributes:
        reason: In words; empty if it was stopped as ordered.
        lived_seconds: How long it was ready; 0 if it never was.
        exit_code: Of the process, if it ended by itself.
        was_born: False if there never was a process: files or packages are missing.
    """

    reason: str = ""
    lived_seconds: float = 0.0
    exit_code: int | None = None
    was_born: bool = True


class ProcessEngine:
    """Base of the engines with one worker process for one model.

    Subclasses say which worker module to run, what its spec is, what the target can do and what it takes of devices.
    """

    Settings: ClassVar[type[ModelSettings]] = PlacedSettings
    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=True, loads_on_demand=True, takes_orders=True)
    engine_name: ClassVar[str]
    worker_module: ClassVar[str]
    can: ClassVar[frozenset[Capability]]
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, name: str, settings: Any, context: EngineContext, origin: Origin = "configured") -> None:
        check_device(settings, context.devices)
        self.name = name
        self.settings = settings
        self.context = context
        self.origin: Origin = origin
        self.target_name = f"local/{name}"
        self._key = secrets.token_urlsafe(32)
        self._log = EngineLog(context.paths.engine_log(name))
        self._ordered = asyncio.Event()
        """A worker shall live."""
        self._stop_asked = asyncio.Event()
        """The worker that lives shall end."""
        self._has_life = False
        self._restarts = RestartPolicy()
        self._settled = asyncio.Event()
        self._state: WorkerState = "cold"
        self._detail = ""
        self._devices: Demand = {}
        self._url = ""
        self.pid: int | None = None

    # What subclasses say

    def spec(self, key: str) -> msgspec.Struct:
        """Return the worker's spec.

        Args:
            key: The bearer key that the worker must demand.

        Raises:
            SetupError: The model's files are missing, or a package is.
        """
        raise NotImplementedError

    def describe(self, target: Target) -> Target:
        """Return the target with what only this engine knows (context, size, demonstration)."""
        return target

    def demand(self) -> Demand:
        """Return the bytes that a ready worker takes on each device; empty if that is not worth counting."""
        return {}

    @property
    def load_seconds(self) -> float:
        """A first guess at a load; the scheduler learns the real one."""
        return 10.0

    @property
    def slots(self) -> int | None:
        """Requests that the worker serves at once; None for no limit."""
        return None

    # What the rest of turnout sees

    def targets(self) -> tuple[Target, ...]:
        """Return the one target."""
        target = Target(
            name=self.target_name,
            tier="local",
            engine=self.engine_name,
            model=self.name,
            can=self.can,
            roles=tuple(self.settings.roles),
            origin=self.origin,
            state=self._state,
            detail=self._detail,
            is_loaded=self._state == "ready",
        )
        return (self.describe(target),)

    def models(self) -> tuple[Model, ...]:
        """Return what the one target wants of the devices."""
        given: PlacedSettings = self.settings
        model = Model(
            name=self.target_name,
            sizes=(Size(devices=self.demand(), load_seconds=self.load_seconds),),
            lease_class=lease_class_of(given),
            slots=self.slots,
            queue_limit=given.queue_limit,
            min_residency_seconds=given.min_residency_seconds,
            idle_seconds=given.idle_seconds,
        )
        return (model,)

    def workers(self) -> tuple[LiveWorker, ...]:
        """Return the worker, if it lives."""
        pid = self.pid
        return () if pid is None else (LiveWorker(target=self.target_name, pid=pid, devices=self._devices),)

    async def wait_known(self) -> None:
        """Return at once: our own process is always known."""

    def wish(self, target: str) -> None:
        """Have the model loaded: by the scheduler where there is one, else at once."""
        if self.context.loader is not None:
            self.context.loader.wish(target)
        else:
            self.start(target, "", self.demand())

    async def ready(self, target: str) -> None:
        """Return when the worker is ready.

        Raises:
            LoadFailed: Loading failed, or the worker waits to be started again.
        """
        if self._state == "ready":
            return
        if self.context.loader is not None:
            await self.context.loader.load(target)
            return
        self.start(target, "", self.demand())
        while not self._is_ready():
            self._settled.clear()
            await self._settled.wait()

    def start(self, target: str, size: str, devices: Demand) -> None:  # noqa: ARG002  one target of one size
        """Order a start; nothing happens if it runs or starts already."""
        if self._ordered.is_set():
            return
        self._devices = dict(devices)
        self._ordered.set()
        if not self._has_life:
            self._change("loading", self._detail)  # what went wrong last stays in sight until it is ready

    def stop(self, target: str) -> None:  # noqa: ARG002  one target only
        """Order an end, also of a start that is under way."""
        self._ordered.clear()
        if not self._has_life:
            self._change("cold", "")
        elif not self._stop_asked.is_set():
            self._stop_asked.set()
            self._change("draining", "")

    async def send(self, target: Target, call: Call) -> HttpResponse:  # noqa: ARG002  one target only
        """Make one call to the worker."""
        headers = (
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + self._key.encode()),
            (b"x-request-id", call.request_id.encode()),
        )
        request = HttpRequest("POST", self._url, "/v1" + call_path(call), headers, call.body)
        return await self.context.transport.send(request, call.deadlines)

    async def run(self) -> None:
        """Live until cancelled."""
        try:
            while True:
                while not self._ordered.is_set():  # one that was ordered and stopped in one breath wakes us, too
                    await self._ordered.wait()
                self._has_life = True
                self._stop_asked.clear()
                try:
                    end = await self._live()
                finally:
                    self._has_life = False
                self._note(end)
        finally:
            self._ordered.clear()
            self._change("cold", "")

    def _is_ready(self) -> bool:
        if self._state == "failed":
            raise LoadFailed(f"{self.target_name}: {self._detail}", hint=f"`turnout logs {self.name}` shows why")
        return self._state == "ready"

    def _note(self, end: LifeEnd) -> None:
        """Say how a life ended. Whoever hears it may order the next one at once."""
        if self._stop_asked.is_set():
            self._restarts = RestartPolicy()
            self._change("cold", "")
            return
        self._ordered.clear()
        if not end.was_born:
            self._change("failed", end.reason, FIRST_DELAY_SECONDS)  # the next try looks again: somebody may mend it
            return
        policy = self._restarts = self._restarts.after_life(end.lived_seconds, was_killed=(end.exit_code or 0) < 0)
        self.context.emit(
            WorkerCrashed(
                target=self.target_name,
                exit_code=end.exit_code,
                last_lines=tuple(self._log.last_lines),
                restart_in_seconds=policy.delay_seconds,
            )
        )
        self._change("failed", end.reason, policy.delay_seconds)

    async def _live(self) -> LifeEnd:
        if self._state != "loading":
            self._change("loading", self._detail)
        try:
            spec = self.spec(self._key)
            child = await spawn_worker(self.worker_module, spec, self._log, self.environment)
        except (SetupError, LoadFailed) as error:
            return LifeEnd(f"{error.message} ({error.hint})" if error.hint else error.message, was_born=False)
        self.pid = child.pid
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child.pump_log())
            watching = tasks.create_task(self._watch(child))
            stopping = tasks.create_task(self._stop_asked.wait())
            try:
                await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                watching.cancel()
                stopping.cancel()
                await child.stop()
                self.pid = None
        return LifeEnd() if watching.cancelled() else watching.result()

    async def _watch(self, child: Child) -> LifeEnd:
        load_seconds = self.context.deadlines.load
        try:
            async with asyncio.timeout(load_seconds):
                self._url = await child.started(self._report)
        except TimeoutError:
            return LifeEnd(f"not loaded after {load_seconds:g} s")
        except LoadFailed as error:
            return LifeEnd(error.message, exit_code=child.exit_code)
        born = self.context.clock.monotonic_seconds()
        if not self._stop_asked.is_set():
            self._change("ready", "")
        code = await child.exited()
        lived = self.context.clock.monotonic_seconds() - born
        return LifeEnd(f"the worker ended with {describe_exit(code)}", lived, code)

    def _report(self, stage: str, fraction: float | None) -> None:
        self.context.emit(LoadProgressed(target=self.target_name, stage=stage, fraction=fraction))

    def _change(self, state: WorkerState, detail: str, retry_in_seconds: float | None = None) -> None:
        self._state, self._detail = state, detail
        self.context.changed()  # before anybody is told: who hears it looks at the new world
        self._settled.set()
        self.context.emit(
            WorkerChanged(
                target=self.target_name,
                engine=self.engine_name,
                state=state,
                detail=detail,
                retry_in_seconds=retry_in_seconds,
            )
        )
