"""The store of pulled model files: ``DATA/models/NAME/`` holds one file and ``model.json``, or only a reference.

Whatever is not finished lives in ``DATA/models/.partial-NAME/`` under a lock, so that Ctrl-C and crashes leave no half
model: the next pull sweeps away what nobody holds, except ``*.part`` files, which a later pull of that name resumes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from turnout.config.files import try_lock
from turnout.core.errors import SetupError

ENTRY = "model.json"
PARTIAL = ".partial-"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
SPARE_BYTES = 64_000_000
"""What a pull leaves free: a disk that is full to the last byte stops more than turnout."""

FreeBytes = Callable[[Path], int]


class PulledModel(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the store, as ``model.json`` keeps it."""

    name: str
    """The name of its folder."""
    source: str
    """Where it came from, as ``parse_source`` reads it."""
    file: str
    """The file's name within the folder; for ``file:`` sources its absolute path."""
    bytes: int
    """Its size when it was pulled."""
    sha256: str = ""
    """Its digest when it was pulled; empty for ``file:`` sources, which are not read."""
    pulled_at: str = ""
    """When, in ISO 8601 (UTC)."""
    version: str = ""
    """The package's version or the hub's revision."""
    problem: str = ""
    """What is wrong with the entry now; never stored."""

    def path_in(self, data_dir: Path) -> Path:
        """Return where the file is.

        Args:
            data_dir: The directory that holds ``models/``.
        """
        return Path(self.file) if self.is_reference else models_dir(data_dir) / self.name / self.file

    @property
    def is_reference(self) -> bool:
        """Whether the file is the user's own, and so never copied or deleted."""
        return self.source.startswith("file:")


def models_dir(data_dir: Path) -> Path:
    """Return the folder of the store."""
    return data_dir / "models"


def slug(text: str) -> str:
    """Return a name for the store: lower case, with everything but ``[a-z0-9._-]`` as a dash."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:128] or "model"


def checked_name(name: str) -> str:
    """Return the name, or raise SetupError where it could not be a folder of the store."""
    if NAME.fullmatch(name) is None:
        raise SetupError(
            f"{name!r} is not a name of a pulled model", hint="names are a-z, 0-9, '.', '_' and '-', at most 128"
        )
    return name


def list_pulled(data_dir: Path) -> list[PulledModel]:
    """Return every entry by name; one that cannot be used has a ``problem``.

    Args:
        data_dir: The directory that holds ``models/``.
    """
    folder = models_dir(data_dir)
    if not folder.is_dir():
        return []
    return [
        _read(entry, data_dir)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and entry.name[:1] not in (".", "")
    ]


def find_pulled(name: str, data_dir: Path) -> PulledModel | None:
    """Return the entry of this name, with a ``problem`` if it cannot be used; None if there is none."""
    entry = models_dir(data_dir) / checked_name(name)
    return _read(entry, data_dir) if entry.is_dir() else None


def remove(name: str, data_dir: Path) -> int:
    """Delete an entry and whatever was left of a broken pull of it; return the bytes given back.

    A ``file:`` entry loses its reference only.

    Args:
        name: The entry's name.
        data_dir: The directory that holds ``models/``.

    Raises:
        SetupError: There is no such entry, or it is being pulled, or it is not a folder of the store.
    """
    folder = models_dir(data_dir)
    entry, rest = folder / checked_name(name), folder / f"{PARTIAL}{name}"
    if entry.is_symlink():
        raise SetupError(f"{str(entry)!r} is a link out of the store", hint="remove the link yourself")
    if not entry.is_dir() and not rest.is_dir():
        known = ", ".join(model.name for model in list_pulled(data_dir)) or "none"
        raise SetupError(f"no pulled model is named {name!r}", hint=f"pulled models: {known}")
    with _locked(name, data_dir):
        given_back = size_of(entry) + size_of(rest)
        shutil.rmtree(rest, ignore_errors=True)
        if entry.is_dir():
            entry.rename(rest)  # in one step: a crash from here on leaves nothing that looks like a model
            shutil.rmtree(rest)
    return given_back


@contextmanager
def staging(name: str, data_dir: Path, *, is_resumable: bool) -> Iterator[Path]:
    """Hold the lock of a name and yield a folder to work in, which is gone afterwards.

    Args:
        name: The entry that is being made.
        data_dir: The directory that holds ``models/``.
        is_resumable: Keep the folder when the work fails or is cancelled.

    Raises:
        SetupError: Another process is at it.
    """
    folder = models_dir(data_dir) / f"{PARTIAL}{name}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(name, data_dir):
        _sweep(data_dir, but=name)
        if not is_resumable:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        is_done = False
        try:
            yield folder
            is_done = True
        finally:
            if is_done or not is_resumable:
                shutil.rmtree(folder, ignore_errors=True)


def place(model: PulledModel, file: Path | None, folder: Path, data_dir: Path) -> PulledModel:
    """Make an entry out of a finished file, in one rename; an older entry of that name goes.

    Args:
        model: What to write into ``model.json``.
        file: The finished file inside ``folder``; None for a reference.
        folder: The staging folder of this name.
        data_dir: The directory that holds ``models/``.
    """
    new, old, target = folder / "new", folder / "old", models_dir(data_dir) / model.name
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    if file is not None:
        file.rename(new / model.file)
        (new / model.file).chmod(0o644)
    stored = {field: value for field, value in msgspec.structs.asdict(model).items() if field != "problem"}
    (new / ENTRY).write_bytes(msgspec.json.format(msgspec.json.encode(stored), indent=2) + b"\n")
    for path in (new / ENTRY, new / model.file if file is not None else new):
        _flush(path)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    new.rename(target)
    return model


def size_of(folder: Path) -> int:
    """Return the bytes of the regular files below a folder; links are not followed."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(directory) / name).lstat().st_size
            except FileNotFoundError:
                continue  # a download that is being written renames its files
    return total


def free_bytes(folder: Path) -> int:
    """Return what may still be written to the disk of a folder."""
    return shutil.disk_usage(folder).free


def require_space(needed_bytes: int, folder: Path, free_bytes: FreeBytes) -> None:
    """Raise SetupError where a folder's disk has no room.

    Args:
        needed_bytes: What is still to be written.
        folder: Where to.
        free_bytes: How much room there is.
    """
    free, needed = free_bytes(folder), needed_bytes + SPARE_BYTES
    if free < needed:
        raise SetupError(
            f"the disk of {str(folder)!r} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed",
            hint="free some space, or choose a smaller model",
        )


def _read(entry: Path, data_dir: Path) -> PulledModel:
    try:
        model = msgspec.json.decode((entry / ENTRY).read_bytes(), type=PulledModel)
    except (OSError, msgspec.DecodeError) as error:
        return PulledModel(name=entry.name, source="", file="", bytes=0, problem=f"{ENTRY} cannot be read: {error}")
    model = msgspec.structs.replace(model, name=entry.name, problem="")
    if not model.is_reference and (not model.file or Path(model.file).name != model.file):
        return msgspec.structs.replace(model, file="", problem=f"{ENTRY} names a file elsewhere: {model.file!r}")
    path = model.path_in(data_dir)
    if not path.is_file():
        return msgspec.structs.replace(model, problem=f"{path} is missing")
    if (size := path.stat().st_size) != model.bytes:
        return msgspec.structs.replace(model, problem=f"{path} has {size} bytes, it had {model.bytes} when pulled")
    return model


def _sweep(data_dir: Path, *, but: str) -> None:
    for folder in models_dir(data_dir).glob(f"{PARTIAL}*/"):
        name = folder.name.removeprefix(PARTIAL)
        if name == but or NAME.fullmatch(name) is None or any(folder.glob("*.part")):
            continue
        lock = _try_lock(_lock_path(name, data_dir))
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(lock, _lock_path(name, data_dir))


@contextmanager
def _locked(name: str, data_dir: Path) -> Iterator[None]:
    path = _lock_path(name, data_dir)
    lock = _try_lock(path)
    if lock is None:
        raise SetupError(f"{name!r} is being pulled by another process", hint="wait for it to end")
    try:
        yield
    finally:
        _unlock(lock, path)


def _lock_path(name: str, data_dir: Path) -> Path:
    return models_dir(data_dir) / f"{PARTIAL}{name}.lock"


def _try_lock(path: Path) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        try:
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass  # its last holder has just deleted it: that lock guards nothing any more
        os.close(descriptor)


def _unlock(descriptor: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
