"""The composition root: configuration to objects to running daemon. The only file that knows every class.

``python -m turnout.app`` is the daemon; ``turnout up`` becomes it. SIGTERM and Ctrl-C drain: running answers may go on
for ``server.drain_seconds``, then each is ended with a proper error and end marker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from turnout import __version__
from turnout.config.daemon_file import DaemonFile, process_birth, write_daemon_file
from turnout.config.document import KeyPath
from turnout.config.kept_profile import ProfileFiles
from turnout.config.loader import LoadedConfig, load_config
from turnout.config.lock import hold_lock
from turnout.config.paths import Paths, find_paths
from turnout.config.schema import Settings
from turnout.config.secrets import secret_reader
from turnout.config.start import Start, choose_start
from turnout.console.api import Console
from turnout.console.default_model import DefaultModel
from turnout.console.leases import Leases, device_facts, lease_facts
from turnout.console.log import log_event, logger, open_log
from turnout.console.models import Models, all_target_facts, told_loads
from turnout.console.profile_switch import ProfileSwitch
from turnout.console.profiles import Profiles
from turnout.console.talk import TOLD, Talk, what_to_try
from turnout.core.clock import Clock, SystemClock
from turnout.core.errors import Busy, LoadFailed, SetupError
from turnout.core.events import (
    DaemonReady,
    DaemonStopping,
    EventBus,
    RequestFinished,
    TracesDegraded,
    WorkerChanged,
)
from turnout.core.process import allow_many_connections, loop_factory
from turnout.dispatch.dispatcher import Dispatcher
from turnout.dispatch.traces import TraceStore
from turnout.dispatch.watch import AnswerLimits
from turnout.gateway.connection import ServerLimits
from turnout.gateway.guard import Guard
from turnout.gateway.keys import KeyStore
from turnout.gateway.metrics import Metrics
from turnout.gateway.routes import Gateway
from turnout.gateway.server import HttpServer, bind_socket
from turnout.routing.chains import chain_of
from turnout.scheduler.decide import Decider
from turnout.scheduler.journal import LeaseJournal
from turnout.scheduler.loop import SchedulerLoop
from turnout.scheduler.pins import Pins
from turnout.tiers.base import EngineContext
from turnout.tiers.build import build_engines, build_readers
from turnout.tiers.fleet import Fleet
from turnout.tiers.local.devices.nvml import find_cards, model_memory_bytes
from turnout.tiers.routed_transport import RoutedTransport

PRELOADED_ROLES = ("orchestrator",)
LOADS_BY_ITSELF = ("ollama", "lm-studio")
GC_ALLOCATIONS = 5_000
"""New objects between two looks of the collector; with Python's own 700 it takes 8 % of the time under load. Not many
more: what it frees may hold buffers."""
SERVER_GRACE_SECONDS = 5.0
"""Between ending running answers properly and cutting whoever still does not take the end."""


class Daemon:
    """Everything that runs, put together.

    Args:
        loaded: The configuration.
        paths: The installation's directories.
        clock: Time.
        talk: The terminal.
        configured: The profile that the configuration names, where another one runs.
        flags: Of the command line: they count for every profile.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        paths: Paths,
        clock: Clock,
        talk: Talk,
        *,
        configured: str = "",
        flags: Mapping[KeyPath, Any] | None = None,
    ) -> None:
        self._settings = loaded.settings
        self._loaded = loaded
        self._flags = dict(flags or {})
        self._paths = paths
        self._clock = clock
        self._talk = talk
        self._started_at = clock.monotonic_seconds()
        self._stopping = asyncio.Event()
        self._token = secrets.token_urlsafe(32)
        self.url = ""
        self.bus = EventBus()
        self.transport = RoutedTransport()
        chains = {role: tuple(names) for role, names in self._settings.chains.items()}
        self.fleet = Fleet(dict(self._settings.aliases), chains)
        readers = build_readers(loaded, self.fleet)
        devices = tuple(device for reader in readers for device in reader.devices())
        self.scheduling = SchedulerLoop(
            Decider(devices, settings=self._settings.scheduler),
            self.fleet,
            LeaseJournal(paths.leases_file),
            readers,
            clock,
            self.bus.emit,
            queue_seconds=self._settings.deadlines.queue,
            load_seconds=self._settings.deadlines.load,
            pins=Pins(paths.state_dir / "pins.json"),
        )
        context = EngineContext(
            clock=clock,
            emit=self.bus.emit,
            changed=self.fleet.changed,
            transport=self.transport,
            paths=paths,
            deadlines=self._settings.deadlines,
            secret=secret_reader(loaded.file),
            devices=devices,
            loader=self.scheduling.requests,
            leases=self.scheduling.leases,
        )
        for engine in build_engines(loaded, context):
            self.fleet.add(engine)
        self.dispatcher = Dispatcher(
            self.fleet,
            clock,
            self.bus.emit,
            self._settings.deadlines,
            answer_limits(self._settings),
            self.scheduling.requests,
        )
        self.profiles = ProfileSwitch(
            loaded=loaded,
            configured=configured or loaded.settings.profile,
            load=self._with_profile,
            build=lambda wanted: build_engines(wanted, context),
            moved=self._moved,
            fleet=self.fleet,
            dispatcher=self.dispatcher,
            scheduling=self.scheduling,
            files=ProfileFiles(paths.state_dir),
            clock=clock,
            emit=self.bus.emit,
        )
        self.keys = KeyStore(paths.keys_file, clock)
        self.default_model = DefaultModel(paths.default_model_file, self.fleet, self.bus.emit, model_memory_bytes)
        self.metrics = Metrics()
        self._loop = asyncio.get_running_loop()
        self.traces = TraceStore(paths.traces_file, self._settings.store.traces.keep, self._traces_degraded)
        self.bus.subscribe(self.traces.hear, RequestFinished)
        self.bus.subscribe(self.metrics.hear)
        self.bus.subscribe(self.dispatcher.hear, WorkerChanged)
        self.bus.subscribe(self.scheduling.hear, WorkerChanged)
        self.bus.subscribe(self.default_model.hear, WorkerChanged)
        self.bus.subscribe(log_event)
        self.bus.subscribe(talk.hear, *TOLD)

    def _with_profile(self, name: str) -> LoadedConfig:
        return load_config(self._paths, file=self._loaded.file, flags={**self._flags, ("profile",): name})

    def _moved(self, loaded: LoadedConfig) -> None:
        self._loaded, self._settings = loaded, loaded.settings
        self.default_model.settle()

    def stop(self) -> None:
        """Begin to drain; the second call does not wait for anybody."""
        if self._stopping.is_set():
            self.dispatcher.end_running()
        self._stopping.set()

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            SetupError: The port is taken, or a key is needed and there is none.
        """
        server_settings = self._settings.server
        guard = Guard(
            server_settings.host,
            server_settings.allowed_hosts,
            server_settings.allowed_origins,
            self.keys,
            self._token,
        )
        if guard.is_open_bind and self.keys.is_empty:
            raise SetupError(
                f"listening on {server_settings.host!r} needs at least one key, so that not everybody can use it",
                hint="`turnout keys create NAME`, then start again",
            )
        sock = bind_socket(server_settings.host, server_settings.port)
        host, port = server_settings.host, sock.getsockname()[1]
        shown_host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        self.url = f"http://{shown_host}:{port}"
        console = Console(
            status=self.status,
            traces=self.traces,
            default_model=self.default_model,
            shut_down=self.stop,
            loads=lambda: told_loads(self.fleet),
            routes=[
                *Leases(self.scheduling).routes(),
                *Models(self.fleet, self.scheduling).routes(),
                *Profiles(self.profiles, self._with_profile).routes(),
            ],
        )
        gateway = Gateway(
            dispatcher=self.dispatcher,
            fleet=self.fleet,
            guard=guard,
            metrics=self.metrics,
            health=self.health,
            console=console.app(),
            clock=self._clock,
            privacy=self._settings.privacy.default,
        )
        server = HttpServer(gateway, limits=server_limits(self._settings), sockets=[sock])
        self.default_model.load()
        self.scheduling.begin()
        write_daemon_file(self._paths.daemon_file, self._describe())
        try:
            await self._live(server)
        finally:
            self._paths.daemon_file.unlink(missing_ok=True)
            await self.transport.aclose()
            self.scheduling.close()
            self.traces.close()

    async def _live(self, server: HttpServer) -> None:
        async with asyncio.TaskGroup() as tasks:
            fleet = tasks.create_task(self.fleet.run(), name="fleet")
            scheduling = tasks.create_task(self.scheduling.run(), name="scheduling")
            serving = tasks.create_task(server.serve(), name="server")
            settling = tasks.create_task(self._settle(), name="settle")
            switching = tasks.create_task(self.profiles.run(), name="profiles")
            await self._stopping.wait()
            settling.cancel()
            switching.cancel()
            await self._drain(server, serving)
            scheduling.cancel()
            fleet.cancel()

    async def _settle(self) -> None:
        await self.fleet.wait_known()
        self.default_model.settle()
        seconds = self._clock.monotonic_seconds() - self._started_at
        # What was made at the start stays for ever: the collector need not look at it again, nor at every 700 objects.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)
        self.bus.emit(DaemonReady(url=self.url, seconds=round(seconds, 3)))
        await self._preload()
        for line in what_to_try(self.url, self.fleet.snapshot, find_cards()[0]):
            self._talk.say(line)

    async def _preload(self) -> None:
        for role in PRELOADED_ROLES:
            for choice in chain_of(role, self.fleet.snapshot)[:1]:
                engine = self.fleet.owner(choice.target)
                if engine is None or not engine.capabilities.owns_process:
                    continue
                engine.wish(choice.target)
                if self.fleet.snapshot.targets[choice.target].state == "cold":
                    self._talk.say(f"  {choice.target} is loaded when somebody asks for it: there is no room now")
                    continue
                with contextlib.suppress(LoadFailed, Busy):  # it was told already
                    await engine.ready(choice.target)

    async def _drain(self, server: HttpServer, serving: asyncio.Task[None]) -> None:
        seconds = self._settings.server.drain_seconds
        running = self.dispatcher.running_requests
        self.bus.emit(DaemonStopping(running_requests=running, drain_seconds=seconds))
        self.dispatcher.refuse_new()
        self.scheduling.stop()
        server.stop(seconds + SERVER_GRACE_SECONDS)
        await asyncio.wait([serving], timeout=seconds)
        self.dispatcher.end_running()
        await serving

    def status(self) -> dict[str, Any]:
        """Return what ``turnout ps`` shows."""
        snapshot = self.fleet.snapshot
        chain = [choice.target for choice in chain_of("orchestrator", snapshot)]
        return {
            "version": __version__,
            "url": self.url,
            "pid": self._describe().pid,
            "profile": self._settings.profile,
            "config_file": str(self._loaded.file) if self._loaded.file else None,
            "uptime_seconds": round(self._clock.monotonic_seconds() - self._started_at, 1),
            "running_requests": self.dispatcher.running_requests,
            "is_ready": self._is_ready(),
            "auto": chain,
            "default": msgspec.to_builtins(self.default_model.choice),
            "targets": all_target_facts(self.fleet, self.scheduling),
            "devices": device_facts(self.scheduling),
            "leases": lease_facts(self.scheduling),
        }

    def health(self) -> dict[str, object]:
        """Return the body of ``/health``: no details, since it is open to everybody who can connect."""
        targets = self.fleet.snapshot.targets.values()
        return {
            "status": "stopping" if self._stopping.is_set() else "ok",
            "ready": self._is_ready(),
            "version": __version__,
            "engines": [{"target": t.name, "engine": t.engine, "state": t.state} for t in targets],
        }

    def _is_ready(self) -> bool:
        snapshot = self.fleet.snapshot
        chain = [snapshot.targets.get(choice.target) for choice in chain_of("orchestrator", snapshot)]
        # A cold model of an engine that loads by itself answers too; only what is being loaded or broken does not.
        return any(
            t is not None and (t.state == "ready" or (t.state == "cold" and t.engine in LOADS_BY_ITSELF)) for t in chain
        )

    def _describe(self) -> DaemonFile:
        pid = os.getpid()
        return DaemonFile(
            url=self.url,
            pid=pid,
            birth=process_birth(pid),
            token=self._token,
            version=__version__,
            started_at=self._clock.wall_seconds(),
        )

    def _traces_degraded(self, reason: str, dropped: int) -> None:
        event = TracesDegraded(reason=reason, dropped=dropped)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.bus.emit, event)


def server_limits(settings: Settings) -> ServerLimits:
    """Return the server's limits as configured."""
    server, deadlines = settings.server, settings.deadlines
    return ServerLimits(
        header_bytes=server.max_header_kib << 10,
        header_seconds=deadlines.header,
        body_bytes=server.max_body_mib << 20,
        body_gap_seconds=deadlines.body_gap,
        write_stall_seconds=deadlines.write_stall,
        connections=server.max_connections,
    )


def answer_limits(settings: Settings) -> AnswerLimits:
    """Return how much one answer may be, as configured."""
    return AnswerLimits(settings.limits.answer_mib << 20, settings.limits.event_kib << 10)


async def run_daemon(start: Start, paths: Paths, talk: Talk) -> None:
    """Build the daemon and run it until a signal comes.

    Args:
        start: What to start with.
        paths: The installation's directories.
        talk: The terminal.
    """
    daemon = Daemon(start.loaded, paths, SystemClock(), talk, configured=start.configured, flags=start.flags)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    await daemon.run()


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon; return the exit status: 0 ended as asked, 1 the user can mend it."""
    parser = argparse.ArgumentParser(prog="turnout up", description="Run the turnout daemon in the foreground.")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--profile")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args(arguments)
    by_path: dict[KeyPath, Any] = {
        ("profile",): given.profile,
        ("server", "host"): given.host,
        ("server", "port"): given.port,
    }
    flags = {path: value for path, value in by_path.items() if value is not None}
    talk = Talk()
    paths = find_paths()
    try:
        load_config(paths, file=given.config, flags=flags)  # what is wrong there is told before anything else
        allow_many_connections()
        with hold_lock(paths):
            start = choose_start(paths, given.config, flags, talk.say)
            for warning in start.loaded.warnings:
                talk.say(f"warning: {warning}")
            open_log(paths.log_dir / "daemon.log", is_verbose=given.verbose)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(run_daemon(start, paths, talk))
    except SetupError as error:
        talk.say(f"error: {error.message}")
        if error.hint:
            talk.say(f"hint:  {error.hint}")
        return 1
    except Exception as error:  # noqa: BLE001  the outermost supervisor: a bug ends in one line, its story is in the log
        logger.exception("the daemon failed")
        talk.say(f"error: {type(error).__name__}: {error}; this is a bug in turnout")
        talk.say(f"hint:  the whole story is in {paths.log_dir / 'daemon.log'}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
