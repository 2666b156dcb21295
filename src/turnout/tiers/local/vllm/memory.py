"""How much of a card a vLLM may take, and what stays of it while it sleeps. Pure.

vLLM takes a share of the whole card, not an amount::

    own    share = wanted / total                          vLLM up to 0.6.3, 0.6.5 and 0.6.6, since 0.9.1
    card   share = (wanted + used by others) / total       0.6.4, and 0.7 to 0.9.0

Today the share is the limit of one instance, whatever else is on the card (``request_memory`` in
vllm/v1/worker/utils.py asks for ceil(total x share), which has to be free). Versions in between took everything that
was in use on the card for their own and left the rest to the cache
(https://github.com/vllm-project/vllm/pull/18974, .../pull/10511).
The share is rounded down to four digits, so that the amount is never exceeded.
"""

from __future__ import annotations

import math
from typing import Literal

from turnout.core.errors import SetupError
from turnout.core.memory import GIB, HOST_RAM, Demand, Device, SleepLevel

DEFAULT_SHARE = 0.9
"""Of a card that nobody has divided; vLLM's own habit (0.9 for long, 0.92 today)."""
DIGITS = 10_000
RESIDUE_BYTES = 1 << 30
"""First guess at what a sleeping vLLM keeps of a card; 0.77 to 1.14 GB were reported (NVIDIA-NeMo/RL#223)."""
PROCESS_BYTES = 2 << 30
"""Of the machine's memory, without weights: 0.75 GB for the API server, 0.7 GB for the engine (vLLM 0.32)."""
COPY_BYTES_PER_SECOND = 8e9
"""Between card and machine; 64 GiB in about 3 s to 22 GiB in 10 s were reported."""
READ_BYTES_PER_SECOND = 1e9
"""From disk, as for every load."""
START_SECONDS = 25.0
"""Without the weights: imports, profiling, graphs."""

Counts = Literal["own", "card"]


def share_of_card(wanted_bytes: int, total_bytes: int, used_by_others_bytes: int, counts: Counts) -> float:
    """Return ``--gpu-memory-utilization`` for an amount.

    Args:
        wanted_bytes: What it may take.
        total_bytes: Of the card.
        used_by_others_bytes: In use on it at this moment.
        counts: What the version of vLLM counts.

    Raises:
        SetupError: It is more than the card has, or nothing at all.
    """
    amount = wanted_bytes + (used_by_others_bytes if counts == "card" else 0)
    share = math.floor(amount / total_bytes * DIGITS) / DIGITS
    if share <= 0:
        raise SetupError(f"{_gib(wanted_bytes)} is no amount that vLLM can work with", hint="set a larger `vram_gib`")
    if share > 1:
        others = f" beside {_gib(used_by_others_bytes)} that others use" if counts == "card" else ""
        raise SetupError(f"{_gib(wanted_bytes)}{others} is more than a card of {_gib(total_bytes)} has")
    return share


def sleep_level(wanted: Literal[1, 2] | None, weights_bytes: int, ram: Device | None) -> Literal[1, 2]:
    """Return how a worker of ours sleeps: with its weights in the machine's memory if they take up to half of it.

    Args:
        wanted: As configured.
        weights_bytes: What level 1 would keep there.
        ram: The machine's memory, if it is known.
    """
    if wanted is not None:
        return wanted
    grantable = ram.total_bytes - ram.headroom_bytes if ram is not None else 0
    return 1 if 2 * weights_bytes <= grantable else 2


def sleep_cost(
    level: Literal[1, 2], weights_bytes: int, devices: Demand, residue: Demand, *, is_ram_shared: bool = True
) -> SleepLevel:
    """Return what a sleeper holds and how long the way there and back takes, as first guesses.

    Args:
        level: 1 or 2.
        weights_bytes: Of the model.
        devices: What it takes while it is ready.
        residue: What was measured on a device while it slept; counts instead of the guess.
        is_ram_shared: Whether the machine's memory is a device here.
    """
    cards = {device: residue.get(device, min(RESIDUE_BYTES, size)) for device, size in devices.items()
             if device != HOST_RAM}  # fmt: skip
    held = cards
    if kept := devices.get(HOST_RAM, 0) + (weights_bytes if level == 1 and is_ram_shared else 0):
        held |= {HOST_RAM: kept}
    copying, reading = weights_bytes / COPY_BYTES_PER_SECOND, weights_bytes / READ_BYTES_PER_SECOND
    if level == 1:
        return SleepLevel(level=1, devices=held, sleep_seconds=0.5 + 3 * copying, wake_seconds=0.5 + copying)
    return SleepLevel(level=2, devices=held, sleep_seconds=0.5, wake_seconds=1.0 + reading)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
