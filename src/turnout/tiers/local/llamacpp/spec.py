"""What a llama.cpp worker is told at its start."""

from __future__ import annotations

import msgspec


class LlamaCppSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line on the worker's stdin."""

    key: str
    """Bearer key that callers have to show."""
    model: str
    """The served name."""
    path: str
    """The GGUF file."""
    sha256: str = ""
    """What the file has to hash to; empty if that is not known."""
    context_tokens: int = 8192
    """Context of each request."""
    slots: int = 4
    """Requests answered at once."""
    threads: int = 1
    """CPU threads."""
    port: int = 0
    """TCP port on 127.0.0.1; 0 for any free one."""
    verbose: bool = False
    """Log everything that llama.cpp says."""
