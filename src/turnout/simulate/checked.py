"""YAML checked against a struct, with file, line and path of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from turnout.config.document import Document, KeyPath
from turnout.config.loader import LoadedConfig, explain
from turnout.config.schema import Settings
from turnout.core.errors import SetupError

GUIDE = "docs/guides/plan-a-card.md shows the shape"
Seconds = Annotated[float, Meta(gt=0)]
Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Shape = TypeVar("Shape", bound="Form")


class Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a simulation file may say: a misspelt key is an error."""


def check(document: Document, shape: type[Shape]) -> Shape:
    """Return the document's values as a struct.

    Args:
        document: As parsed.
        shape: What is expected.

    Raises:
        SetupError: With file, line and path.
    """
    return check_values(document.values, document, shape)


def check_values(values: Mapping[str, Any], document: Document, shape: type[Shape], base: KeyPath = ()) -> Shape:
    """Return some values of a document as a struct.

    Args:
        values: What stands at ``base``.
        document: Knows the lines.
        shape: What is expected.
        base: Where in the document the values stand.

    Raises:
        SetupError: With file, line and path.
    """
    try:
        return msgspec.convert(values, shape, strict=True)
    except msgspec.ValidationError as error:
        origins = {path: document.where(path) for path in document.lines}
        told = explain(error, base, shape, LoadedConfig(Settings(), document.values, origins, None, []))
        hint = told.hint if told.hint.startswith("did you mean") else GUIDE
        raise SetupError(told.message, hint=hint) from None


def problem(document: Document, path: KeyPath, message: str, hint: str = GUIDE) -> SetupError:
    """Return the error for a value that is wrong.

    Args:
        document: Knows the lines.
        path: Of the value.
        message: What is wrong with it.
        hint: What to do about it.
    """
    where = document.where(path)
    return SetupError(f"{where}: {'.'.join(map(str, path))}: {message}", hint=hint)
