"""Where the weights for a vLLM are: a folder, or the hub's cache on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from turnout.core.errors import SetupError

WAYS = "write hf:OWNER/NAME or file:/path/to/folder"
HUB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


class VllmSource(msgspec.Struct, frozen=True):
    """Weights.

    Attributes:
        name: ``owner/name`` on the hub; empty for a folder.
        folder: Where they are or would be; of a hub model the folder of its snapshots.
        cache: The hub's cache; None for a folder.
    """

    name: str
    folder: Path
    cache: Path | None = None

    @property
    def is_here(self) -> bool:
        """Whether they are on this machine."""
        return self.folder.exists()


def parse_vllm_source(text: str, variable: Callable[[str], str | None]) -> VllmSource:
    """Read a source as a user writes it.

    Args:
        text: ``hf:OWNER/NAME`` or ``file:FOLDER``.
        variable: Returns an environment variable.

    Raises:
        SetupError: It is neither.
    """
    kind, _, rest = text.strip().partition(":")
    if kind == "hf" and HUB_NAME.fullmatch(rest):
        cache = hub_cache(variable)
        return VllmSource(rest, cache / f"models--{rest.replace('/', '--')}" / "snapshots", cache)
    if kind == "file" and rest:
        path = Path(rest).expanduser()
        if path.is_absolute():
            return VllmSource("", path)
        raise SetupError(f"{text!r} is no absolute path", hint=WAYS)
    raise SetupError(f"{text!r} is no source of weights for vLLM", hint=WAYS)


def hub_cache(variable: Callable[[str], str | None]) -> Path:
    """Return the hub's cache: ``HF_HUB_CACHE``, else below ``HF_HOME``, else in the home directory."""
    if cache := variable("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = variable("HF_HOME") or str(Path(variable("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


def weights_bytes(source: VllmSource) -> int:
    """Return the size of the weights; 0 where they are not here. Several snapshots of a model count as the largest."""
    if not source.is_here:
        return 0
    if source.folder.is_file():
        return source.folder.stat().st_size
    folders = [source.folder] if not source.name else [entry for entry in source.folder.iterdir() if entry.is_dir()]
    return max((_size_of(folder) for folder in folders), default=0)


def _size_of(folder: Path) -> int:
    sizes: dict[str, int] = {}
    for name in os.listdir(folder):  # noqa: PTH208  names only: links of the cache are followed below
        suffix = Path(name).suffix
        if suffix in WEIGHTS:
            with_links = (folder / name).resolve()
            sizes[suffix] = sizes.get(suffix, 0) + (with_links.stat().st_size if with_links.exists() else 0)
    return sizes.get(".safetensors") or max(sizes.values(), default=0)  # some bring both forms, vLLM reads one
