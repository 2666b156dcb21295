"""Seeded mutations of bytes: no guidance by coverage, but words that matter where it happens."""

from __future__ import annotations

import random
from typing import Protocol

LONGEST = 4096


class Target(Protocol):
    """Something that can be fuzzed.

    Attributes:
        name: On the command line.
        seeds: Good inputs.
        words: What is worth inserting.
        fixed_bytes: Control bytes at the front, which are changed but never moved.
    """

    name: str
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    fixed_bytes: int

    def check(self, data: bytes) -> object:
        """Try one input.

        Raises:
            Exception: It broke an invariant.
        """
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def mutate(data: bytes, target: Target, dice: random.Random) -> bytes:
    """Return a changed input.

    Args:
        data: The input.
        target: Whose words and seeds may be used.
        dice: Seeded.
    """
    front = bytearray(data[: target.fixed_bytes])
    rest = bytearray(data[target.fixed_bytes :])
    for place in range(len(front)):
        if dice.randrange(4) == 0:
            front[place] = dice.randrange(256)
    for _ in range(dice.choice((0, 1, 1, 2, 3, 5))):
        _change(rest, target, dice)
    return bytes(front + rest[:LONGEST])


def _change(rest: bytearray, target: Target, dice: random.Random) -> None:
    start = dice.randrange(len(rest) + 1)
    end = min(len(rest), start + dice.choice((1, 1, 2, 4, 16, 64)))
    kind = dice.randrange(8)
    if kind == 0 and end > start:
        rest[start] ^= 1 << dice.randrange(8)
    elif kind == 1 and end > start:
        rest[start] = dice.randrange(256)
    elif kind == 2:
        del rest[start:end]
    elif kind == 3:
        rest[start:start] = rest[start:end] * dice.choice((1, 1, 2, 50))
    elif kind == 4:
        other = dice.choice(target.seeds)[target.fixed_bytes :]
        cut = dice.randrange(len(other) + 1)
        rest[start:] = other[cut:]
    elif kind == 5:
        rest[start:end] = dice.choice(target.words)
    else:
        rest[start:start] = dice.choice(target.words)
