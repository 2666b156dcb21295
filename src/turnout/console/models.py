"""Models over HTTP: load, unload, pin and let go; and what ``turnout ps`` shows of each.

Loading and unloading take their time. Whoever sends ``Accept: text/event-stream`` gets an event about every second with
a step in words, and the model or the error as the last one. Whoever disconnects while a model loads has left the line;
an unloading that was asked for goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.console.api import JsonResponse
from turnout.console.told_work import EVENTS, Tell, ToldWork
from turnout.core.errors import UNREADABLE_JSON, InvalidRequest, ModelNotFound
from turnout.core.keep_alive import EXPECTED, read_keep_alive
from turnout.core.words import Target
from turnout.routing.names import near_names
from turnout.scheduler.loop import SchedulerLoop
from turnout.scheduler.messages import WaitingView, WorkerView
from turnout.tiers.base import EngineLoad, TellingEngine
from turnout.tiers.fleet import Fleet

Step = Callable[[str], Awaitable[None]]
"""Tells how far something is."""
Work = Callable[[Step | None], Awaitable[dict[str, Any]]]


class LoadBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /turnout/v1/models/{target}/load``."""

    keep_alive: float | str | None = None


class Models:
    """The handlers.

    Args:
        fleet: Knows the targets.
        scheduling: Loads and unloads.
    """

    def __init__(self, fleet: Fleet, scheduling: SchedulerLoop) -> None:
        self._fleet = fleet
        self._scheduling = scheduling

    def routes(self) -> list[Route]:
        """Return what they answer."""
        base = "/turnout/v1/models/{target:path}"
        return [
            Route(f"{base}/load", self.load, methods=["POST"]),
            Route(f"{base}/unload", self.unload, methods=["POST"]),
            Route(f"{base}/pin", self.pin, methods=["POST"]),
            Route(f"{base}/unpin", self.unpin, methods=["POST"]),
        ]

    async def load(self, request: Request) -> Response:
        """Load a model; the answer comes when it is loaded."""
        target, keep_seconds = self._ours(request), _keep_seconds(await request.body())

        async def work(step: Step | None) -> dict[str, Any]:
            async def progress(place: WaitingView) -> None:
                if step is not None:
                    await step(self._load_step(target, place))

            await self._scheduling.requests.load(target, progress, keep_seconds)
            return self._facts(target)

        return await _answer(request, work)

    async def unload(self, request: Request) -> Response:
        """Unload a model; the answer comes when it has gone, after the last of the answers that run."""
        target = self._ours(request)

        async def work(step: Step | None) -> dict[str, Any]:
            async def watch(worker: WorkerView) -> None:
                if step is not None:
                    await step(_unload_step(worker))

            was_there = await self._scheduling.unloads.unload(target, watch)
            return {**self._facts(target), "was_loaded": was_there}

        return await _answer(request, work)

    async def pin(self, request: Request) -> Response:
        """Let a model stay once it is loaded, whoever needs the room."""
        target = self._ours(request)
        self._scheduling.pin(target, is_pinned=True)
        return JsonResponse(self._facts(target))

    async def unpin(self, request: Request) -> Response:
        """Let a model make way again."""
        target = self._ours(request)
        self._scheduling.pin(target, is_pinned=False)
        if self._scheduling.requests.models[target].lease_class == "pinned":
            raise InvalidRequest(
                f"the configuration pins {target!r}",
                hint=f"say `pinned: false` at models.{target.partition('/')[2]} and start again",
                status=409,
                code="pinned_by_configuration",
            )
        return JsonResponse(self._facts(target))

    def _ours(self, request: Request) -> str:
        """Return the target that the path names.

        Raises:
            ModelNotFound: There is none.
            InvalidRequest: It is not managed by us.
        """
        name, snapshot = request.path_params["target"], self._fleet.snapshot
        target = name if name in snapshot.targets else f"local/{name}"
        if target not in snapshot.targets:
            raise ModelNotFound(f"there is no target {name!r}", hint=near_names(name, snapshot), param="target")
        if not self._scheduling.requests.manages(target):
            raise InvalidRequest(
                f"{target!r} is not managed by turnout: it is somebody else's process, which turnout never unloads",
                hint=f"its own tools load and unload it ({snapshot.targets[target].engine})",
                status=409,
                code="not_managed",
                param="target",
            )
        return target

    def _facts(self, target: str) -> dict[str, Any]:
        found = self._fleet.snapshot.targets.get(target)
        if found is None:
            raise ModelNotFound(f"{target!r} was removed meanwhile", hint="`turnout ps` shows what is served")
        return target_facts(found, self._scheduling.worker(target))

    def _load_step(self, target: str, place: WaitingView) -> str:
        worker, found = self._scheduling.worker(target), self._fleet.snapshot.targets.get(target)
        wait = place.expected_wait_seconds
        about = "" if wait is None else f", about {wait:.0f} s more" if wait >= 1 else ", nearly there"
        if worker is None or worker.phase in {"cold", "failed"}:
            return f"waiting for room{about}"
        detail = f": {found.detail}" if found is not None and found.detail else ""
        return f"{worker.phase.replace('_', ' ')}{detail}{about}"


def target_facts(target: Target, worker: WorkerView | None) -> dict[str, Any]:
    """Return a target and its worker as plain values; ``worker`` is null where turnout does not manage it.

    Args:
        target: What is served.
        worker: How the scheduler sees it.
    """
    facts: dict[str, Any] = msgspec.to_builtins(target)
    return {**facts, "worker": None if worker is None else worker_facts(worker)}


def all_target_facts(fleet: Fleet, scheduling: SchedulerLoop) -> list[dict[str, Any]]:
    """Return every target and its worker as plain values."""
    workers = {worker.model: worker for worker in scheduling.view().workers}
    return [target_facts(target, workers.get(target.name)) for target in fleet.snapshot.targets.values()]


async def told_loads(fleet: Fleet) -> dict[str, EngineLoad]:
    """Return how busy engines are, by target, as far as they say so."""
    engines = [cast("TellingEngine", engine) for engine in fleet.engines if engine.capabilities.tells_load]
    loads = await asyncio.gather(*(engine.load() for engine in engines))
    told = zip(engines, loads, strict=True)
    return {target.name: load for engine, load in told if load is not None for target in engine.targets()}


def worker_facts(worker: WorkerView) -> dict[str, Any]:
    """Return a worker as callers see it."""
    return {
        "phase": worker.phase,
        "class": worker.lease_class,
        "size": worker.size,
        "reserved": worker.devices,
        "measured": worker.measured,
        "running": worker.running,
        "waiting": worker.waiting,
        "is_pinned": worker.lease_class == "pinned",
        "is_unloading": worker.is_unloading,
        "idle_seconds": worker.idle_seconds,
        "put_away_in_seconds": None if worker.put_away_in_seconds is None else round(worker.put_away_in_seconds, 3),
        "load_seconds": round(worker.load_seconds, 3),
        "detail": worker.detail,
    }


async def _answer(request: Request, work: Work) -> Response:
    if EVENTS not in request.headers.get("accept", ""):
        return JsonResponse(await work(None))

    async def told(tell: Tell) -> dict[str, Any]:
        async def step(words: str) -> None:
            await tell({"step": words})

        return await work(step)

    return ToldWork(told)


def _keep_seconds(body: bytes) -> float | None:
    try:
        given = msgspec.json.decode(body or b"{}", type=LoadBody).keep_alive
    except UNREADABLE_JSON as error:
        raise InvalidRequest(f"expected a body like {{'keep_alive': '5m'}}, or {{}}: {error}") from None
    seconds = None if given is None else read_keep_alive(given)
    if given is not None and seconds is None:
        raise InvalidRequest(f"keep_alive {given!r} is no duration", param="keep_alive", hint=f"send {EXPECTED}")
    return seconds


def _unload_step(worker: WorkerView) -> str:
    if worker.running:
        return f"waiting for {worker.running} running answer{'' if worker.running == 1 else 's'}"
    return worker.phase.replace("_", " ")
