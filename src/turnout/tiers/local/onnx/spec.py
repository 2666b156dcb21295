"""What an embeddings worker is told at its start."""

from __future__ import annotations

import msgspec

CONTEXT_TOKENS = 512
"""Positions that all-MiniLM-L6-v2 has; longer inputs are refused, never cut silently."""


class OnnxSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line on the worker's stdin."""

    key: str
    """Bearer key that callers have to show."""
    model: str
    """The served name."""
    path: str
    """The ONNX file."""
    tokenizer_path: str
    """Its tokenizer.json."""
    sha256: str = ""
    """What the model has to hash to; empty if that is not known."""
    tokenizer_sha256: str = ""
    """What the tokenizer has to hash to; empty if that is not known."""
    threads: int = 1
    """CPU threads."""
    port: int = 0
    """TCP port on 127.0.0.1; 0 for any free one."""
