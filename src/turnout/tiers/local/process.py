"""An engine whose worker process is ours: cold until wished for, loaded, watched, started again with back-off."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, ClassVar

import msgspec

from turnout.core.errors import LoadFailed, SetupError
from turnout.core.events import LoadProgressed, WorkerChanged, WorkerCrashed
from turnout.core.words import Capability, Origin, Target, WorkerState
from turnout.tiers.base import Call, Capabilities, EngineContext, ModelSettings, call_path
from turnout.tiers.local.child import Child, EngineLog, describe_exit, spawn_worker
from turnout.tiers.local.restart import RestartPolicy
from turnout.tiers.transport import HttpRequest, HttpResponse


class LifeEnd(msgspec.Struct, frozen=True):
    """How one life of a worker ended.

    Attributes:
        reason: In words.
        lived_seconds: How long it was ready; 0 if it never was.
        exit_code: Of the process, if it ended by itself.
        was_born: False if there never was a process: files or packages are missing.
    """

    reason: str
    lived_seconds: float = 0.0
    exit_code: int | None = None
    was_born: bool = True


class ProcessEngine:
    """Base of the engines with one worker process for one model.

    Subclasses say which worker module to run, what its spec is, and what the target can do.
    """

    Settings: ClassVar[type[ModelSettings]] = ModelSettings
    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=True, loads_on_demand=True)
    engine_name: ClassVar[str]
    worker_module: ClassVar[str]
    can: ClassVar[frozenset[Capability]]
    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, name: str, settings: Any, context: EngineContext, origin: Origin = "configured") -> None:
        self.name = name
        self.settings = settings
        self.context = context
        self.origin: Origin = origin
        self.target_name = f"local/{name}"
        self._key = secrets.token_urlsafe(32)
        self._log = EngineLog(context.paths.engine_log(name))
        self._wished = asyncio.Event()
        self._settled = asyncio.Event()
        self._state: WorkerState = "cold"
        self._detail = ""
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

    async def wait_known(self) -> None:
        """Return at once: our own process is always known."""

    def wish(self, target: str) -> None:  # noqa: ARG002  one target only
        """Begin loading."""
        self._wished.set()

    async def ready(self, target: str) -> None:
        """Return when the worker is ready.

        Raises:
            LoadFailed: Loading failed, or the worker waits to be started again.
        """
        self.wish(target)
        while self._state != "ready":
            if self._state == "failed":
                raise LoadFailed(f"{self.target_name}: {self._detail}", hint=f"`turnout logs {self.name}` shows why")
            self._settled.clear()
            await self._settled.wait()

    async def send(self, target: Target, call: Call) -> HttpResponse:  # noqa: ARG002  one target only
        """Make one call to the worker."""
        headers = (
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + self._key.encode()),
        )
        request = HttpRequest("POST", self._url, "/v1" + call_path(call), headers, call.body, call.request_id)
        return await self.context.transport.send(request, call.deadlines)

    async def run(self) -> None:
        """Live until cancelled."""
        policy = RestartPolicy()
        try:
            while True:
                await self._wished.wait()
                end = await self._live()
                if not end.was_born:
                    self._wished.clear()  # the next wish looks again: somebody may have mended it
                    self._change("failed", end.reason)
                    continue
                policy = policy.after_life(end.lived_seconds, was_killed=(end.exit_code or 0) < 0)
                self.context.emit(
                    WorkerCrashed(
                        target=self.target_name,
                        exit_code=end.exit_code,
                        last_lines=tuple(self._log.last_lines),
                        restart_in_seconds=policy.delay_seconds,
                    )
                )
                if policy.delay_seconds:
                    self._change("failed", f"{end.reason}; next start in {policy.delay_seconds:g} s")
                    await asyncio.sleep(policy.delay_seconds)
        finally:
            self._change("cold", "")

    async def _live(self) -> LifeEnd:
        self._change("loading", self._detail)  # what went wrong last stays in sight until it is ready
        try:
            spec = self.spec(self._key)
            child = await spawn_worker(self.worker_module, spec, self._log, self.environment)
        except (SetupError, LoadFailed) as error:
            return LifeEnd(f"{error.message} ({error.hint})" if error.hint else error.message, was_born=False)
        self.pid = child.pid
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child.pump_log())
            try:
                return await self._watch(child)
            finally:
                self.pid = None
                await child.stop()
        raise AssertionError("unreachable")  # pragma: no cover

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
        self._change("ready", "")
        code = await child.exited()
        lived = self.context.clock.monotonic_seconds() - born
        return LifeEnd(f"the worker ended with {describe_exit(code)}", lived, code)

    def _report(self, stage: str, fraction: float | None) -> None:
        self.context.emit(LoadProgressed(target=self.target_name, stage=stage, fraction=fraction))

    def _change(self, state: WorkerState, detail: str) -> None:
        self._state, self._detail = state, detail
        self.context.changed()  # before anybody is told: who hears it looks at the new world
        self._settled.set()
        self.context.emit(WorkerChanged(target=self.target_name, engine=self.engine_name, state=state, detail=detail))
