"""Fuzz one target for a while: ``python -m fuzz.drive server_wire --seconds 60 --found DIRECTORY``.

With atheris (its site-packages in FUZZ_ATHERIS, or in ``.venv/atheris``, or installed) libFuzzer guides by coverage;
without it, seeded mutations run without guidance. Ends with 1 and leaves the input in DIRECTORY when one breaks an
invariant.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from fuzz.mutator import LONGEST, Target, mutate

TARGETS = {"server_wire": "ServerWire", "client_wire": "ClientWire", "bodies": "Bodies"}
ONE_INPUT_SECONDS = 10
MEMORY_MIB = 2048


def make_target(name: str) -> Target:
    """Return a target by its name."""
    target: Target = getattr(importlib.import_module(f"fuzz.{name}"), TARGETS[name])()
    return target


def atheris_directory() -> str:
    """Return where atheris is installed beside our environment, or an empty string."""
    beside = Path(__file__).parents[2] / ".venv" / "atheris"
    return os.environ.get("FUZZ_ATHERIS") or next(map(str, beside.glob("lib/*/site-packages")), "")


def fuzz_with_mutations(target: Target, *, seconds: float, count: int, seed: int) -> tuple[int, bytes | None, str]:
    """Try mutations of the seeds; return how many, and the first that broke an invariant with what it said.

    Args:
        target: What to try.
        seconds: At most so long.
        count: At most so many.
        seed: The same seed gives the same inputs.
    """
    dice = random.Random(seed)  # noqa: S311  repeatable, not secret
    corpus = list(target.seeds)
    until = time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > until:
            return number, None, ""
        data = mutate(dice.choice(corpus), target, dice) if number >= len(target.seeds) else target.seeds[number]
        try:
            target.check(data)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
            return number, data, f"{type(error).__name__}: {error}"
        if len(corpus) < 10_000 and number % 10 == 0:
            corpus.append(data)  # so that changes add up
    return count, None, ""


def fuzz_with_atheris(atheris: Any, name: str, *, seconds: int, found: Path, seed: int) -> None:
    """Let libFuzzer try inputs; it ends the process.

    Args:
        atheris: The module.
        name: The target's.
        seconds: So long.
        found: Where an input that broke an invariant is left, and the corpus grows.
        seed: libFuzzer's; it is not repeatable to the last input, since time plays a part.
    """
    with atheris.instrument_imports(include=["turnout", "uvicorn"]):
        target = make_target(name)
    dice = random.Random(seed)  # noqa: S311  repeatable, not secret

    def change(data: bytes, longest: int, each: int) -> bytes:
        changed = mutate(data, target, dice) if dice.randrange(2) else atheris.Mutate(data, len(data))
        return bytes(changed[:longest])

    corpus = found / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-timeout={ONE_INPUT_SECONDS}", f"-seed={seed}",
               f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={found}/", "-print_final_stats=1"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.check, custom_mutator=change)
    atheris.Fuzz()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--found", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.found.mkdir(parents=True, exist_ok=True)
    if directory := atheris_directory():
        sys.path.append(directory)
    if importlib.util.find_spec("atheris") is not None:
        sys.stdout.write("guided by coverage: atheris\n")
        sys.stdout.flush()
        atheris = importlib.import_module("atheris")
        fuzz_with_atheris(atheris, given.target, seconds=given.seconds, found=given.found, seed=given.seed)
        return 0
    target = make_target(given.target)
    count, data, said = fuzz_with_mutations(target, seconds=given.seconds, count=sys.maxsize, seed=given.seed)
    sys.stdout.write(f"seeded mutations without guidance (atheris is not installed): {count} inputs\n")
    if data is not None:
        (given.found / "crash-mutation").write_bytes(data)
        sys.stdout.write(f"{said}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
