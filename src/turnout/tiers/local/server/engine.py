"""The daemon's side of an engine that is somebody else's server: one model, one keeper process, one server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from turnout.core.errors import LoadFailed, Malformed, SetupError
from turnout.core.memory import GIB, Demand
from turnout.core.words import Origin, WorkerState
from turnout.tiers.base import EngineContext, LiveWorker, ModelSettings
from turnout.tiers.local.child import spawn_worker
from turnout.tiers.local.process import LifeEnd, ProcessEngine
from turnout.tiers.local.server.container_note import identified, kept_key, note_path, read_note
from turnout.tiers.local.server.port import choose_port
from turnout.tiers.local.server.settings import ServerSettings
from turnout.tiers.local.server.spec import REASON_MARK, ContainerSpec, ServerSpec, Stage
from turnout.tiers.local.server.turn import Turn
from turnout.tiers.transport import Deadlines, HttpRequest

PID_STAGE = "pid "
"""A keeper whose server is no child of its own says by such a progress line whose memory counts."""
SMALL_ANSWER_BYTES = 8 << 20
CONTAINER_PORT = 8000
REMOVE_SECONDS = 10.0


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What a subclass says about its server.

    Attributes:
        program: What to call it when speaking to people.
        arguments: Program and arguments.
        environment: Beside what the settings add.
        served_name: As ``/v1/models`` lists it.
        stages: Lines of its log that tell how far it is.
        gpus: Indices of the cards that it may see; None leaves that alone.
        mounts: What a container needs to see beside what the settings name.
    """

    program: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    served_name: str
    stages: tuple[Stage, ...] = ()
    gpus: tuple[int, ...] | None = None
    mounts: tuple[str, ...] = ()


class ServerEngine(ProcessEngine):
    """Base of the engines whose worker is another program's HTTP server.

    Subclasses say by ``launch`` what to start; this class adds where: a port, a process or a container, and the turn.
    """

    Settings: ClassVar[type[ModelSettings]] = ServerSettings
    settings: ServerSettings
    worker_module = "turnout.tiers.local.server.worker"
    starts_alone: ClassVar[bool] = False
    """Whether no other engine of this kind may load on the same device meanwhile."""

    def __init__(self, name: str, settings: Any, context: EngineContext, origin: Origin = "configured") -> None:
        super().__init__(name, settings, context, origin)
        check_runtime(settings)
        self._server_pid = 0
        self._turn = Turn(self._turn_path()) if self.starts_alone else None

    def launch(self, key: str, host: str, port: int) -> Launch:
        """Return what to start.

        Args:
            key: Bearer key that the server must demand.
            host: Where it must listen.
            port: Where it must listen.

        Raises:
            SetupError: The program or the weights are missing.
        """
        raise NotImplementedError

    def spec(self, key: str) -> ServerSpec:
        """Return the keeper's spec.

        Raises:
            SetupError: The program or the weights are missing, or the port is taken.
        """
        given = self.settings
        is_docker = given.runtime == "docker"
        if is_docker:  # a container that outlives a crash of ours is taken over with its key
            key = self._key = kept_key(self.context.paths, self.name)
        is_published = is_docker and given.network == "published"
        # The wanted port may be taken by a container of ours from before; a free one harms nobody.
        port = given.port if given.port and self._is_left_behind() else choose_port(given.port)
        launch = self.launch(key, "0.0.0.0" if is_published else "127.0.0.1", CONTAINER_PORT if is_published else port)  # noqa: S104  in its own network
        environment = launch.environment | given.environment | self._handed_on()
        if launch.gpus is not None and not is_docker:
            # NVML counts cards by their place on the bus; CUDA does so only when asked.
            chosen = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, launch.gpus))}
            environment = chosen | environment
        spec = ServerSpec(
            key=key,
            program=launch.program,
            arguments=launch.arguments,
            environment=environment,
            port=port,
            served_name=launch.served_name,
            stages=launch.stages,
        )
        if not is_docker:
            return spec
        container = self._container_spec(launch.gpus or (), launch.mounts)
        return msgspec.structs.replace(spec, container=identified(container, self.name, spec, self.context.paths))

    def _container_spec(self, gpus: tuple[int, ...], mounts: tuple[str, ...]) -> ContainerSpec:
        given = self.settings
        return ContainerSpec(
            image=given.image,
            name="",
            labels={},
            note="",
            pull=given.pull,
            memory_bytes=int((given.memory_gib or 0) * GIB),
            gpus=tuple(map(str, gpus)),
            mounts=(*mounts, *given.mounts),
            is_on_host_network=given.network == "host",
            docker_host=self.context.secret("DOCKER_HOST") or "",
        )

    def workers(self) -> tuple[LiveWorker, ...]:
        """Return the worker: the container's process where there is one, also one that an earlier daemon left."""
        if self.pid is None:
            left = self._is_left_behind()
            return (LiveWorker(target=self.target_name, pid=left, devices=self.demand()),) if left else ()
        pid = self._server_pid or self.pid
        return (LiveWorker(target=self.target_name, pid=pid, devices=self._devices),)

    async def run(self) -> None:
        """Live until cancelled; a container that an earlier daemon left is wished for, so that it is taken over."""
        if self._is_left_behind():
            self.wish(self.target_name)
        try:
            await super().run()
        finally:
            if self._has_note():  # nobody took it over, or its keeper did not get to its end in time
                await self._remove_left_behind()

    # What it asks its server

    async def ask(self, method: str, path: str, body: Any = None, *, seconds: float) -> bytes:
        """Make a call beside the callers' own and return the answer's body.

        Args:
            method: HTTP's.
            path: From the server's root.
            body: Encoded as JSON, if there is one.
            seconds: Each wait's limit.

        Raises:
            Broken: No answer, or a status other than 200.
        """
        headers = (
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + self._key.encode()),
        )
        data = b"" if body is None else msgspec.json.encode(body)
        deadlines = Deadlines(connect=seconds, first_byte=seconds, gap=seconds, write=seconds)
        request = HttpRequest(method, self._url, path, headers, data)
        response = await self.context.transport.send(request, deadlines)
        try:
            answer = await response.read_all(SMALL_ANSWER_BYTES)
        finally:
            response.close()
        if response.status != 200:
            said = answer[:200].decode("utf-8", "replace").strip()
            raise Malformed(f"{method} {path} was answered with status {response.status}: {said}")
        return answer

    # Its life

    async def _live(self) -> LifeEnd:
        self._server_pid = 0
        if self._turn is not None and not await self._take_turn(self._turn):
            return LifeEnd()
        try:
            end = await super()._live()
        finally:
            if self._turn is not None:
                self._turn.give_back()
        if self._stop_asked.is_set() and self._has_note():  # its keeper did not get to its end in time
            await self._remove_left_behind()
        return end

    async def _take_turn(self, turn: Turn) -> bool:
        """Return whether it is our turn; false if we are to stop first."""
        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(turn.take())
            stopping = tasks.create_task(self._stop_asked.wait())
            try:
                await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                taking.cancel()
                stopping.cancel()
        if self._stop_asked.is_set():
            turn.give_back()
        return not self._stop_asked.is_set()

    def _note(self, end: LifeEnd) -> None:
        last = self._log.last_lines[-1] if self._log.last_lines else ""
        if end.lived_seconds and last.startswith(REASON_MARK):
            end = msgspec.structs.replace(end, reason=last.removeprefix(REASON_MARK))
        super()._note(end)

    def _report(self, stage: str, fraction: float | None) -> None:
        if stage.startswith(PID_STAGE):
            self._server_pid = int(stage.removeprefix(PID_STAGE))
        else:
            super()._report(stage, fraction)

    def _change(self, state: WorkerState, detail: str, retry_in_seconds: float | None = None) -> None:
        if self._turn is not None and state != "loading":
            self._turn.give_back()
        super()._change(state, detail, retry_in_seconds)

    def _is_left_behind(self) -> int:
        """Return the process of a container that an earlier daemon left running, or 0."""
        if self.settings.runtime != "docker":
            return 0
        return read_note(note_path(self.context.paths, self.name))

    async def _remove_left_behind(self) -> None:
        empty = ServerSpec(key=self._key, program="", arguments=(), environment={}, port=0, served_name="")
        container = identified(self._container_spec((), ()), self.name, empty, self.context.paths)
        spec = msgspec.structs.replace(empty, container=msgspec.structs.replace(container, is_to_go=True))
        with contextlib.suppress(LoadFailed, TimeoutError):
            child = await spawn_worker(self.worker_module, spec, self._log, self.environment)
            try:
                async with asyncio.timeout(REMOVE_SECONDS):
                    await child.exited()
            finally:
                await child.stop()

    def _has_note(self) -> bool:
        return self.settings.runtime == "docker" and note_path(self.context.paths, self.name).exists()

    def _handed_on(self) -> dict[str, str]:
        found = {name: self.context.secret(name) for name in self.settings.environment_from}
        if missing := [name for name, value in found.items() if value is None]:
            raise SetupError(f"{', '.join(missing)}: named by environment_from, but not set", hint="put it into `.env`")
        return {name: value for name, value in found.items() if value is not None}

    def _turn_path(self) -> Path:
        device = (self.settings.device or "default").replace("/", "-")
        return self.context.paths.state_dir / "turns" / f"{self.engine_name}-{device}.lock"


def check_runtime(settings: ServerSettings) -> None:
    """Refuse settings that say nothing to the chosen runtime.

    Raises:
        SetupError: With the setting.
    """
    if settings.runtime == "docker":
        if not settings.image:
            raise SetupError("`runtime: docker` needs an `image`")
        if os.name == "nt":
            raise SetupError("containers are started on Linux and in WSL2 only")
        return
    for name, value in (("image", settings.image), ("memory_gib", settings.memory_gib), ("mounts", settings.mounts)):
        if value:
            raise SetupError(f"`{name}` is for containers", hint="add `runtime: docker`")


def gpus_of(demand: Demand) -> tuple[int, ...]:
    """Return the indices of the cards that a demand names: ``host/gpu0`` is 0."""
    found = [device.removeprefix("host/gpu") for device in demand if device.startswith("host/gpu")]
    return tuple(sorted(int(index) for index in found if index.isdigit()))
