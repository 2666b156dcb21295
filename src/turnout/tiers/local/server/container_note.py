"""How a container of ours is found again after a crash of the daemon: its name, labels, key and note."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

import msgspec

from turnout.config.paths import Paths
from turnout.core.errors import UNREADABLE_JSON, SetupError
from turnout.tiers.local.server.spec import ContainerSpec, ServerSpec

INSTALLATION_LABEL, MODEL_LABEL, SETTINGS_LABEL = "turnout.installation", "turnout.model", "turnout.settings"


class Note(msgspec.Struct, frozen=True):
    """What is written down about a container that runs.

    Attributes:
        container: Its id.
        pid: Its first process.
    """

    container: str
    pid: int


def identified(container: ContainerSpec, name: str, server: ServerSpec, paths: Paths) -> ContainerSpec:
    """Return a container with its name, its note and the labels that find it again.

    Args:
        container: As the settings want it.
        name: The key under ``models``.
        server: What runs in it; the port does not count when an old container is compared with it.
        paths: The installation.
    """
    installation = installation_id(paths)
    arguments = tuple(word for word in server.arguments if word != str(server.port))
    stated = (container, msgspec.structs.replace(server, port=0, stages=(), arguments=arguments))
    return msgspec.structs.replace(
        container,
        name=f"turnout-{installation[:8]}-{re.sub('[^A-Za-z0-9_.-]', '-', name)}",
        note=str(note_path(paths, name)),
        labels={
            INSTALLATION_LABEL: installation,
            MODEL_LABEL: name,
            SETTINGS_LABEL: hashlib.sha256(msgspec.json.encode(stated)).hexdigest()[:32],
        },
    )


def installation_id(paths: Paths) -> str:
    """Return a word for this installation: two on one machine must not take over each other's containers."""
    return hashlib.sha256(str(paths.state_dir.absolute()).encode()).hexdigest()[:16]


def note_path(paths: Paths, name: str) -> Path:
    """Return where the note about a model's container is."""
    return paths.state_dir / "containers" / paths.engine_log(name).with_suffix(".json").name


def kept_key(paths: Paths, name: str) -> str:
    """Return the key of a model's container; the same one at every start of the daemon.

    Raises:
        SetupError: It cannot be written down.
    """
    path = note_path(paths, name).with_suffix(".key")
    with contextlib.suppress(OSError):
        if key := path.read_text(encoding="ascii").strip():
            return key
    key = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key)
    except OSError as error:
        raise SetupError(f"the container's key cannot be kept in {path.parent}: {error.strerror}") from error
    return key


def read_note(path: Path) -> int:
    """Return the process of the container that a note tells of, or 0 if it is not there any more."""
    try:
        note = msgspec.json.decode(path.read_bytes(), type=Note)
    except (OSError, *UNREADABLE_JSON):
        return 0
    return note.pid if _is_in_container(note) else 0


def _is_in_container(note: Note) -> bool:
    """Return whether the process lives and is the container's: its control group carries the container's id."""
    with contextlib.suppress(OSError):
        return note.container in Path(f"/proc/{note.pid}/cgroup").read_text(encoding="ascii")
    return False
