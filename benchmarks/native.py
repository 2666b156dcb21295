"""The two C programs: compiled at run time, because a load generator in Python would be the bottleneck."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.machine import Missing, find_tool

HERE = Path(__file__).parent


def build(name: str, into: Path) -> str:
    """Compile ``benchmarks/NAME.c``; return the program's path.

    Args:
        name: ``upstream`` or ``streams``.
        into: The directory for the program.

    Raises:
        Missing: There is no compiler, or it refuses the file.
    """
    compiler = find_tool("cc", "a C compiler builds the mock upstream: `apt install gcc libc6-dev`")
    source, program = HERE / f"{name}.c", into / name
    ran = subprocess.run(
        [compiler, "-O2", "-std=gnu11", "-o", str(program), str(source)], capture_output=True, text=True, timeout=120
    )
    if ran.returncode != 0:
        raise Missing(
            f"error: {compiler} cannot compile {source}:\n{ran.stderr.strip()}\n"
            "hint:  it needs Linux and the headers of its C library (`apt install libc6-dev`)"
        )
    return str(program)
