"""A model server without a model: the simulated engine's worker process.

Two ways to start it::

    python -m turnout.tiers.local.simulated.worker                 the spec comes on stdin: see worker.py
    python -m turnout.tiers.local.simulated.worker --port 9001     by hand; ends with Ctrl+C

The server listens at once and says 503 until the load time is over. app.py answers the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import sys
from collections.abc import Callable, Sequence

import msgspec

from turnout.core.clock import Clock, SystemClock
from turnout.tiers.local.simulated.app import SimulatedApp
from turnout.tiers.local.simulated.connection import AbortableProtocol
from turnout.tiers.local.simulated.spec import SimulatedSpec
from turnout.tiers.local.timing import Fault
from turnout.tiers.local.worker import (
    announce_failed,
    announce_progress,
    announce_ready,
    exit_with_parent,
    read_spec,
)
from turnout.tiers.local.worker_server import WorkerServer, address_of, configure, listen

PROGRESS_SECONDS = 0.1


async def serve(spec: SimulatedSpec, clock: Clock) -> None:
    """Serve until the process ends.

    Args:
        spec: What, how fast, and how it fails.
        clock: Where time comes from.
    """
    listener = listen(spec.port)
    app = SimulatedApp(spec, clock)
    server = WorkerServer(configure(app, http=AbortableProtocol))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listener]))
        await _load(spec, clock)
        app.is_loaded = True
        announce_ready(address_of(listener))


async def _load(spec: SimulatedSpec, clock: Clock) -> None:
    timing = spec.timing()
    began = clock.monotonic_seconds()
    fraction = 0.0
    while fraction < 1.0:
        fraction = timing.load_fraction(clock.monotonic_seconds() - began)
        announce_progress("loading", fraction)
        await asyncio.sleep(min(PROGRESS_SECONDS, (1.0 - fraction) * spec.load_seconds))
    if spec.load_error:
        announce_failed(spec.load_error)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _spec_by_hand(arguments: Sequence[str]) -> SimulatedSpec:
    parser = argparse.ArgumentParser(
        prog="python -m turnout.tiers.local.simulated.worker", description="Serve simulated answers on 127.0.0.1."
    )
    for field in msgspec.structs.fields(SimulatedSpec):
        if field.name != "faults":
            kind = float if field.type is float else type(field.default)
            parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    parser.add_argument("--fault", action="append", default=[], metavar="JSON", help='such as {"kind": "cut"}')
    options = vars(parser.parse_args(arguments))
    try:
        faults = tuple(msgspec.json.decode(fault, type=Fault) for fault in options.pop("fault"))
        return SimulatedSpec(**options, faults=faults)
    except ValueError as error:
        parser.error(str(error))


def _allow_many_connections() -> None:
    # The usual soft limit of 1,024 descriptors is less than 1,000 streams and their surroundings need.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and means 10,240
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str]) -> None:
    """Run the worker.

    Args:
        arguments: Of the command line; with none of them, the spec is read from stdin.
    """
    if arguments:
        spec = _spec_by_hand(arguments)
    else:
        spec = read_spec(SimulatedSpec)
        exit_with_parent()
    _allow_many_connections()
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(spec, SystemClock()))


if __name__ == "__main__":
    main(sys.argv[1:])
