"""Reads a profile for the planner: settings, the catalogue of known models, and the sizes of files on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from turnout.config.catalogue import BYTES_PER_NUMBER, find_known
from turnout.config.loader import LoadedConfig
from turnout.core.memory import GIB, HOST_RAM
from turnout.core.words import ROLES
from turnout.profiles.shape import Place, Program, Shape, ShapedModel

IN_MEMORY = frozenset({"llamacpp", "onnx"})
ELSEWHERE = frozenset({"ollama", "external"})

FileBytes = Callable[[str], int]
"""Returns the size of a source's file on this machine; 0 if it is not here."""


class PlannedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner reads of an entry under ``models``; engines may say more, and are told where they are wrong."""

    engine: str
    source: str = ""
    model: str | None = None
    device: str | None = None
    vram_gib: float | None = None
    vram_share: float | None = None
    context_tokens: int | None = None
    slots: int = 1
    pinned: bool = False
    load_seconds: float | None = None
    quantisation: str = ""
    roles: tuple[str, ...] = ()


def shape_of(loaded: LoadedConfig, file_bytes: FileBytes = lambda source: 0) -> Shape:  # noqa: ARG005
    """Return the profile of a configuration, with what the user's own file changes about it.

    Args:
        loaded: The configuration.
        file_bytes: Looks on the disk.

    Raises:
        SetupError: With the place of an entry that cannot be understood.
    """
    settings = loaded.settings
    given = settings.shape
    models = tuple(_model(key, entry, loaded, file_bytes) for key, entry in settings.models.items())
    return Shape(
        name=settings.profile,
        about=given.about,
        models=models,
        programs=tuple(
            Program(name=key, title=entry.title, bytes=round(entry.vram_gib * GIB), roles=tuple(entry.roles))
            for key, entry in given.programs.items()
        ),
        keep_free_bytes=round(given.keep_free_gib * GIB),
        chains={role: tuple(targets) for role, targets in settings.chains.items()},
        effort={band: _band(whom) for band, whom in settings.effort.items()},
        card_bytes=round((given.card_gib or 0) * GIB),
        compared_with=given.compared_with,
        compared_card_bytes=round(given.compared_card_gib * GIB),
        compared={f"local/{key}": figure for key, figure in given.compared.items()},
        notes=tuple(given.notes),
    )


def roles_of(shape: Shape) -> tuple[str, ...]:
    """Return every role that a profile speaks of, in the order of ``ROLES``.

    Args:
        shape: The profile.
    """
    spoken = {role for model in shape.models for role in model.roles}
    spoken |= {role for program in shape.programs for role in program.roles}
    return tuple(role for role in ROLES if role in spoken or role in shape.chains)


def chain_in(shape: Shape, role: str) -> tuple[str, ...]:
    """Return who serves a role in a profile, in order.

    Args:
        shape: The profile.
        role: One of ``ROLES``.
    """
    if role in shape.chains:
        return tuple(dict.fromkeys(shape.chains[role]))
    return tuple(model.name for model in shape.models if role in model.roles)


def _band(whom: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in whom) if isinstance(whom, Iterable) and not isinstance(whom, str) else (str(whom),)


def _model(key: str, values: dict[str, Any], loaded: LoadedConfig, file_bytes: FileBytes) -> ShapedModel:
    try:
        entry = msgspec.convert(values, PlannedEntry, strict=True)
    except msgspec.ValidationError as error:
        message = str(error).replace("`", "'")
        raise loaded.problem(("models", key), message[:1].lower() + message[1:]) from None
    place = _place(entry)
    known = find_known(entry.source) if place == "card" else None
    base = ShapedModel(
        name=f"local/{key}",
        title=known[0].title if known else entry.model or entry.source or key,
        engine=entry.engine,
        place=place,
        bytes=round((entry.vram_gib or 0) * GIB),
        share=entry.vram_share if entry.vram_gib is None else None,
        context_tokens=entry.context_tokens or 0,
        slots=entry.slots,
        is_pinned=entry.pinned,
        load_seconds=20.0 if entry.load_seconds is None else entry.load_seconds,
        roles=entry.roles,
        file_bytes=file_bytes(entry.source) if place == "memory" and entry.source else 0,
    )
    if known is None:
        return base
    model, quantisation = known
    quantisation = entry.quantisation or quantisation
    if quantisation not in BYTES_PER_NUMBER:
        return msgspec.structs.replace(base, quantisation=quantisation)
    base = msgspec.structs.replace(
        base,
        quantisation=quantisation,
        weights_bytes=model.weights_bytes(quantisation),
        rest_bytes=model.rest_bytes(entry.slots),
        cache_bytes_per_token=model.cache_bytes_per_token,
        load_seconds=model.load_seconds if entry.load_seconds is None else entry.load_seconds,
    )
    if base.bytes or base.share is not None:
        return base
    return msgspec.structs.replace(base, bytes=base.least_bytes)


def _place(entry: PlannedEntry) -> Place:
    if entry.engine in ELSEWHERE:
        return "elsewhere"
    if entry.device == HOST_RAM or (entry.device is None and entry.engine in IN_MEMORY):
        return "memory"
    return "card"
