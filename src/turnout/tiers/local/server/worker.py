"""The keeper process: ``python -m turnout.tiers.local.server.worker``; the spec comes on stdin (../worker.py)."""

from __future__ import annotations

from turnout.tiers.local.server.keeper import Keeper
from turnout.tiers.local.server.runtime import Runtime, ServerProcess, StartFailed
from turnout.tiers.local.server.spec import ContainerSpec, ServerSpec
from turnout.tiers.local.worker import announce_failed, read_spec


def main() -> None:
    """Keep one server until it, the daemon, or a signal ends."""
    spec = read_spec(ServerSpec)
    if not spec.key:
        announce_failed("the spec has no key: the port would serve everybody")
    if spec.container is not None and spec.container.is_to_go:
        remove(spec, spec.container)
    else:
        Keeper(spec, runtime_of(spec)).run()


def runtime_of(spec: ServerSpec) -> Runtime:
    """Return what holds a server."""
    if spec.container is None:
        return ServerProcess(spec)
    from turnout.tiers.local.server.container import ServerContainer  # brings the docker package

    return ServerContainer(spec, spec.container)


def remove(spec: ServerSpec, container: ContainerSpec) -> None:
    """Remove what an earlier daemon left."""
    from turnout.tiers.local.server.container import ServerContainer

    try:
        ServerContainer(spec, container).remove_left_behind()
    except StartFailed as error:
        announce_failed(str(error))


if __name__ == "__main__":
    main()
