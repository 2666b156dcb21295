"""How a vLLM is put to sleep and woken: its development routes, called on loopback only.

What each route answers was recorded from vLLM 0.32 (tests/support/vllm_double.py shows the same). A request that
reaches a sleeping vLLM hangs until it is woken; ``/health`` says 200 all the while.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from turnout.core.errors import UNREADABLE_JSON, Malformed

SLEEP_SECONDS = 25.0
"""Below the scheduler's patience with an order, so that the reason is told."""
WAKE_SECONDS = 25.0
SMALL_SECONDS = 5.0


class Ask(Protocol):
    """Makes one call to the server."""

    async def __call__(self, method: str, path: str, body: Any = None, *, seconds: float) -> bytes:
        """Return the body of the answer; see ``ServerEngine.ask``."""
        ...


class _IsSleeping(msgspec.Struct):
    is_sleeping: bool


class _Success(msgspec.Struct):
    success: bool


async def fall_asleep(ask: Ask, level: int) -> None:
    """Put it to sleep; requests that run are finished first.

    Args:
        ask: Makes a call.
        level: 1 or 2.

    Raises:
        Broken: It did not answer, or says that it is awake.
    """
    # Versions that do not know `mode` drop running requests; nothing runs when the scheduler orders this.
    await ask("POST", f"/sleep?level={level}&mode=wait", seconds=SLEEP_SECONDS)
    if not await is_sleeping(ask):
        raise Malformed("it says that it is awake after it was put to sleep")


async def wake_up(ask: Ask, level: int) -> None:
    """Wake it; after level 2 the weights are read again and what was remembered of prompts is forgotten.

    Args:
        ask: Makes a call.
        level: At which it sleeps.

    Raises:
        Broken: It did not answer, or says that it still sleeps.
    """
    await ask("POST", "/wake_up", seconds=WAKE_SECONDS)
    if level >= 2:
        await ask("POST", "/collective_rpc", {"method": "reload_weights"}, seconds=10 * WAKE_SECONDS)
        answer = await ask("POST", "/reset_prefix_cache", seconds=SMALL_SECONDS)
        if not _says(answer, _Success, default=True):  # versions before 0.11 answer with an empty body
            raise Malformed("its prefix cache holds on to what it computed with other weights")
    if await is_sleeping(ask):
        raise Malformed("it says that it still sleeps after it was woken")


async def is_sleeping(ask: Ask) -> bool:
    """Ask whether it sleeps.

    Raises:
        Broken: It did not answer.
    """
    return _says(await ask("GET", "/is_sleeping", seconds=SMALL_SECONDS), _IsSleeping, default=False)


async def warm_up(ask: Ask, served_name: str) -> None:
    """Have one token generated, so that the first caller does not pay for what was paged out.

    The first answer after each wake takes 5 to 7 times as long without it
    (https://blog.vllm.ai/2025/10/26/sleep-mode.html).

    Raises:
        Broken: It cannot generate.
    """
    body = {"model": served_name, "prompt": "Hello", "max_tokens": 1}
    await ask("POST", "/v1/completions", body, seconds=WAKE_SECONDS)


def _says(answer: bytes, form: type[_IsSleeping | _Success], *, default: bool) -> bool:
    if not answer.strip():
        return default
    try:
        said = msgspec.json.decode(answer, type=form)
    except UNREADABLE_JSON as error:
        raise Malformed(f"it did not answer in the expected form: {error}") from error
    return said.is_sleeping if isinstance(said, _IsSleeping) else said.success
