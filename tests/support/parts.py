"""Real parts that the environment of `make test` does not bring.

A test may skip for one of these, and for no other reason; TESTS_REQUIRE (set by .ci/run) names those whose
absence is a failure.
"""

from __future__ import annotations

import os
import shutil

import pytest

from support.docker_engine import can_have_docker
from support.llama_server import find_llama_server

OPTIONAL_PARTS = {
    "llama-server": "a real llama-server (.ci/run installs it into .venv/llama-server)",
    "docker": "a Docker Engine (.ci/run installs Debian's package)",
    "docker-compose": "docker-compose (.ci/run installs Debian's package)",
    "chromium": "Chromium (.ci/run installs Debian's package)",
}


def is_there(part: str) -> bool:
    """Return whether a part is on this machine."""
    if part == "docker":
        return can_have_docker()
    return bool(find_llama_server() if part == "llama-server" else shutil.which(part))


def need(part: str, found: object) -> None:
    """Skip the calling test if a part is missing.

    Args:
        part: A key of ``OPTIONAL_PARTS``.
        found: Whether it is there.
    """
    if not found:
        pytest.skip(f"needs {OPTIONAL_PARTS[part]}")


def is_allowed_skip(reason: str) -> bool:
    """Return whether a test may skip for a reason."""
    required = os.environ.get("TESTS_REQUIRE", "").split()
    return reason in {f"needs {text}" for part, text in OPTIONAL_PARTS.items() if part not in required}
