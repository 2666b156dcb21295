"""What a keeper process is told: which server to start, and how to see that it is ready."""

from __future__ import annotations

import msgspec

REASON_MARK = "turnout: "
"""Begins the last line that a keeper writes to the log where it knows more than an exit status says."""


class Stage(msgspec.Struct, frozen=True):
    """A line of the server's log that tells how far loading is.

    Attributes:
        pattern: Regular expression; its first group, if it has one, is the percentage of this stage.
        name: What is going on, for people.
    """

    pattern: str
    name: str


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is put into a container.

    Attributes:
        image: Its image.
        name: Of the container.
        labels: ``turnout.installation``, ``turnout.model`` and ``turnout.settings`` find it again.
        note: File that says that the container exists, with its process id; gone when the container is.
        pull: Whether a missing image may be fetched.
        memory_bytes: Limit of the machine's memory; 0 for none.
        gpus: Device ids for the NVIDIA runtime.
        mounts: ``source:target[:ro]``.
        is_on_host_network: Whether it shares the host's network; else its port is published on loopback.
        docker_host: Where the Docker engine listens; empty for its usual place.
        is_to_go: What an earlier daemon left is removed, and nothing is started.
    """

    image: str
    name: str
    labels: dict[str, str]
    note: str
    pull: bool = False
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    is_on_host_network: bool = False
    docker_host: str = ""
    is_to_go: bool = False


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One server.

    Attributes:
        key: Bearer key that it demands below ``/v1``.
        program: What to call it when speaking to people.
        arguments: Program and arguments; never a shell.
        environment: What it gets beside the few variables that every worker gets.
        port: Where it listens on loopback.
        served_name: The model that ``/v1/models`` must list: another server on the port is not taken for ours.
        stages: Lines of its log that tell how far it is.
        container: How it is put into a container; a process of this machine if left out.
    """

    key: str
    program: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    port: int
    served_name: str
    stages: tuple[Stage, ...] = ()
    container: ContainerSpec | None = None
