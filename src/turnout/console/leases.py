"""Leases over HTTP: foreign programs ask for memory, renew, give back; everybody sees who holds what.

Waiting takes as long as ``wait_seconds`` says, and an HTTP client may have less patience with a silent server. So
whoever sends ``Accept: text/event-stream`` gets an event about every second with its place in the line, and the lease
or the error as the last one. Whoever disconnects while it waits has left the line.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.config.daemon_file import process_birth
from turnout.console.api import JsonResponse
from turnout.console.told_work import EVENTS, Tell, ToldWork
from turnout.core.errors import UNREADABLE_JSON, InvalidRequest
from turnout.core.memory import Lease, LeaseClass, Priority
from turnout.scheduler.leases import LeaseWish
from turnout.scheduler.loop import SchedulerLoop
from turnout.scheduler.messages import View, WaitingView

LONGEST_TTL_SECONDS = 86_400.0
LONGEST_WAIT_SECONDS = 7 * 86_400.0
MOST_BYTES = 1 << 53
"""As large as a number can be for every JSON reader."""
Body = TypeVar("Body", bound=msgspec.Struct)
Ttl = Annotated[float, Meta(ge=1, le=LONGEST_TTL_SECONDS)]


class LeaseBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /turnout/v1/leases``."""

    devices: Annotated[dict[str, Annotated[int, Meta(ge=1, le=MOST_BYTES)]], Meta(min_length=1, max_length=64)]
    lease_class: LeaseClass = msgspec.field(name="class")
    holder: Annotated[str, Meta(min_length=1, max_length=200)]
    ttl_seconds: Ttl
    priority: Priority = "normal"
    wait_seconds: Annotated[float, Meta(ge=0, le=LONGEST_WAIT_SECONDS)] = 0.0
    process: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0


class RenewBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /turnout/v1/leases/{id}/renew``."""

    ttl_seconds: Ttl


class Leases:
    """The handlers.

    Args:
        scheduling: Grants and knows.
    """

    def __init__(self, scheduling: SchedulerLoop) -> None:
        self._scheduling = scheduling

    def routes(self) -> list[Route]:
        """Return what they answer."""
        return [
            Route("/turnout/v1/devices", self.devices, methods=["GET"]),
            Route("/turnout/v1/leases", self.list_leases, methods=["GET"]),
            Route("/turnout/v1/leases", self.ask, methods=["POST"]),
            Route("/turnout/v1/leases/{lease_id}", self.release, methods=["DELETE"]),
            Route("/turnout/v1/leases/{lease_id}/renew", self.renew, methods=["POST"]),
        ]

    async def devices(self, _: Request) -> Response:
        """Return every device, and who holds what of it."""
        return JsonResponse({"devices": device_facts(self._scheduling)})

    async def list_leases(self, _: Request) -> Response:
        """Return the leases that hold, and those that are waited for."""
        return JsonResponse({"leases": lease_facts(self._scheduling), "waiting": waiting_facts(self._scheduling)})

    async def ask(self, request: Request) -> Response:
        """Grant a lease, at once or within ``wait_seconds``: 201; 409 if it cannot be granted in time."""
        wish = self._wish(_read(await request.body(), LeaseBody))
        if EVENTS in request.headers.get("accept", ""):
            return ToldWork(lambda tell: self._ask_and_tell(wish, tell))
        lease = await self._scheduling.leases.ask(wish)
        return JsonResponse(spell_lease(lease), status_code=201)

    async def _ask_and_tell(self, wish: LeaseWish, tell: Tell) -> dict[str, Any]:
        """Ask for a lease, tell about every second where it stands, and return it."""

        async def progress(place: WaitingView) -> None:
            await tell({"waiting": spell_waiting(place)})

        return {"lease": spell_lease(await self._scheduling.leases.ask(wish, progress))}

    async def renew(self, request: Request) -> Response:
        """Let a lease last so long from now on."""
        body = _read(await request.body(), RenewBody)
        lease = self._scheduling.leases.renew(request.path_params["lease_id"], body.ttl_seconds)
        return JsonResponse(spell_lease(lease))

    async def release(self, request: Request) -> Response:
        """Take a lease back."""
        lease = self._scheduling.leases.release(request.path_params["lease_id"])
        return JsonResponse({"released": spell_lease(lease)})

    def _wish(self, body: LeaseBody) -> LeaseWish:
        known = [entry.device.id for entry in self._scheduling.view().devices]
        for device in body.devices:
            if device not in known:
                near = difflib.get_close_matches(device, known, n=2)
                hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"
                raise InvalidRequest(
                    f"there is no device {device!r}", code="unknown_device", hint=hint, param="devices"
                )
        if body.process and not process_birth(body.process):
            raise InvalidRequest(
                f"there is no process {body.process} on this machine",
                code="unknown_process",
                hint="leave it out where the holder runs in a container or elsewhere: its lease then ends by its ttl",
                param="process",
            )
        return LeaseWish(
            devices=body.devices,
            lease_class=body.lease_class,
            holder=body.holder,
            ttl_seconds=body.ttl_seconds,
            priority=body.priority,
            wait_seconds=body.wait_seconds,
            process=body.process,
        )


def device_facts(scheduling: SchedulerLoop) -> list[dict[str, Any]]:
    """Return every device with who holds what of it, as plain values.

    Args:
        scheduling: Knows.
    """
    view: View = scheduling.view()
    holders = scheduling.holders(view)
    found = []
    for entry in view.devices:
        device = entry.device
        held = [
            {
                "holder": holder.holder,
                "class": holder.lease_class,
                "bytes": holder.devices[device.id],
                "lease": holder.lease,
                "phase": holder.phase,
                "running": holder.running,
            }
            for holder in holders
            if holder.devices.get(device.id)
        ]
        found.append(
            {
                "id": device.id,
                "kind": device.kind,
                "name": device.name,
                "total_bytes": device.total_bytes,
                "headroom_bytes": device.headroom_bytes,
                "granted_bytes": entry.granted_bytes,
                "measured_bytes": entry.measured_bytes,
                "unattributed_bytes": entry.unattributed_bytes,
                "free_bytes": entry.free_bytes,
                "holders": held,
            }
        )
    return found


def lease_facts(scheduling: SchedulerLoop) -> list[dict[str, Any]]:
    """Return the foreign leases that hold, as plain values."""
    return [spell_lease(lease) for lease in scheduling.leases.all()]


def waiting_facts(scheduling: SchedulerLoop) -> list[dict[str, Any]]:
    """Return the foreign leases that are waited for, as plain values."""
    found = []
    for place in scheduling.view().waiting:
        lease = scheduling.leases.find(place.id)
        if lease is not None:
            found.append({**spell_lease(lease), **spell_waiting(place)})
    return found


def spell_lease(lease: Lease) -> dict[str, Any]:
    """Return a lease as callers see it."""
    return {
        "id": lease.id,
        "devices": lease.devices,
        "class": lease.lease_class,
        "holder": lease.holder,
        "priority": lease.priority,
        "granted_at": lease.granted_at,
        "expires_at": lease.expires_at,
        "process": lease.process or None,
    }


def spell_waiting(place: WaitingView) -> dict[str, Any]:
    """Return a place in the line as callers see it."""
    return {
        "id": place.id,
        "position": place.position,
        "waited_seconds": round(place.waited_seconds, 3),
        "expected_wait_seconds": place.expected_wait_seconds,
    }


def _read(data: bytes, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE_JSON as error:
        message, _, place = str(error).replace("`", "'").partition(" - at '$")
        param = ".".join(re.findall(r"\w+", place)) or None
        where = f"{param}: " if param else ""
        hint = "see docs/reference/http.md; a body needs devices, class, holder and ttl_seconds"
        raise InvalidRequest(f"{where}{message[:1].lower()}{message[1:]}", hint=hint, param=param) from None
