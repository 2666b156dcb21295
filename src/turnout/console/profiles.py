"""Profiles over HTTP: which there are, which runs, and the switch to another one.

A switch takes as long as models need to load. Whoever sends ``Accept: text/event-stream`` gets an event for every step,
and the end or the error as the last one. Whoever disconnects meanwhile does not stop the switch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.config.loader import LoadedConfig, built_in_profiles
from turnout.console.api import JsonResponse
from turnout.console.profile_switch import ProfileSwitch, Switched
from turnout.console.told_work import EVENTS, Tell, ToldWork
from turnout.core.errors import UNREADABLE_JSON, InvalidRequest, SetupError, TurnoutError


class UseBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /turnout/v1/profiles/active``."""

    profile: str


class Profiles:
    """The handlers.

    Args:
        switch: The one switch.
        load: Returns the configuration with another profile.
    """

    def __init__(self, switch: ProfileSwitch, load: Callable[[str], LoadedConfig]) -> None:
        self._switch = switch
        self._load = load

    def routes(self) -> list[Route]:
        """Return what they answer."""
        return [
            Route("/turnout/v1/profiles", self.show, methods=["GET"]),
            Route("/turnout/v1/profiles/active", self.use, methods=["POST"]),
        ]

    async def show(self, _: Request) -> Response:
        """Return every profile, the one that runs, and how far a switch is."""
        switch = self._switch
        moving = {"to": switch.wanted, "step": switch.step} if switch.wanted else None
        profiles = await run_in_threadpool(self._all)
        return JsonResponse({"active": switch.active, "switching": moving, "profiles": profiles})

    async def use(self, request: Request) -> Response:
        """Switch to a profile; the answer comes when it runs, or when the old one runs again."""
        try:
            name = msgspec.json.decode(await request.body(), type=UseBody).profile
        except UNREADABLE_JSON as error:
            raise InvalidRequest(f"expected a body like {{'profile': NAME}}: {error}", param="profile") from None
        if EVENTS in request.headers.get("accept", ""):
            return ToldWork(lambda tell: self._use_and_tell(name, tell))
        return JsonResponse(await self._use(name))

    async def _use(self, name: str) -> Switched:
        try:
            return await self._switch.use(name)
        except SetupError as error:
            raise _mendable(error) from None

    async def _use_and_tell(self, name: str, tell: Tell) -> Switched:
        async def tell_steps() -> None:
            with self._switch.watch() as steps:
                while True:
                    await tell({"step": await steps.get()})

        failure: TurnoutError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(tell_steps())
                try:
                    return await self._use(name)
                finally:
                    telling.cancel()
        except* TurnoutError as group:
            failure = next(each for each in group.exceptions if isinstance(each, TurnoutError))
        assert failure is not None
        raise failure

    def _all(self) -> list[dict[str, Any]]:
        own = self._switch.loaded.settings.profiles
        return [self._facts(name, is_own=name in own) for name in dict.fromkeys([*built_in_profiles(), *own])]

    def _facts(self, name: str, *, is_own: bool) -> dict[str, Any]:
        facts = {"name": name, "origin": "turnout.yaml" if is_own else "built in"}
        try:
            settings = self._load(name).settings
        except SetupError as error:
            return {**facts, "problem": error.message}
        return {**facts, "about": settings.shape.about, "models": [f"local/{key}" for key in settings.models]}


def _mendable(error: SetupError) -> TurnoutError:
    return InvalidRequest(error.message, hint=error.hint, code="profile_unusable", param="profile")
