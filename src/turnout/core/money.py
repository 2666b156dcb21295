"""Money: integer micro-dollars, what things cost, what a call wants to spend it for, and the caps that hold.

One US dollar is 1,000,000 micro-dollars. Prices of tokens are micro-dollars for a million tokens, so a token at
$1 a million costs exactly one micro-dollar, and nothing is ever a fraction before the one rounding at the end.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from turnout.core.words import Tier

MicroUsd = int
MICRO_USD_PER_USD = 1_000_000

Period = Literal["request", "day", "month", "total", "credit"]
"""What a cap counts: one request, a day or month of the configured zone, everything, or what is left of a credit."""


class PriceStep(msgspec.Struct, frozen=True, kw_only=True):
    """Prices that hold for the whole request once its input is longer than a limit, per million tokens.

    Attributes:
        above_input_tokens: The limit.
        input: Fresh input.
        output: Everything that is generated.
        cached_input: Input that was read from a cache; None: as ``input``.
        cache_write: Input that was written into a cache; None: as ``input``.
    """

    above_input_tokens: int
    input: MicroUsd
    output: MicroUsd
    cached_input: MicroUsd | None = None
    cache_write: MicroUsd | None = None


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What one model costs: tokens per million, everything else per piece.

    Attributes:
        input: A million tokens of fresh input.
        output: A million tokens of output.
        cached_input: A million tokens read from a cache; None: as ``input``.
        cache_write: A million tokens written into a cache; None: as ``input``.
        reasoning: A million tokens of thinking; None: as ``output``.
        request: Every call, whatever it does.
        image: One image that is made.
        audio_second: One second of audio, heard or spoken.
        video_second: One second of video that is made.
        mesh: One mesh.
        gpu_second: One second of a machine that bills by time.
        steps: Dearer prices for long inputs, in rising order.
        source: Where the figures are from: a name or a URL; ``configured`` for the owner's own.
        as_of: Date of the figures, ``2026-11-25``; empty if configured.
    """

    input: MicroUsd = 0
    output: MicroUsd = 0
    cached_input: MicroUsd | None = None
    cache_write: MicroUsd | None = None
    reasoning: MicroUsd | None = None
    request: MicroUsd = 0
    image: MicroUsd = 0
    audio_second: MicroUsd = 0
    video_second: MicroUsd = 0
    mesh: MicroUsd = 0
    gpu_second: MicroUsd = 0
    steps: tuple[PriceStep, ...] = ()
    source: str = "configured"
    as_of: str = ""


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """What money is spent for; decides whose caps apply.

    Attributes:
        request_id: Whose trace tells the rest.
        target: Who is paid: ``deepseek/deepseek-chat``.
        provider: The provider or market: ``deepseek``, ``vast``.
        tier: Of the target. What is local touches no cap.
        model: The upstream's own name.
        role: What it is for; empty if nobody said.
        key: Name of the caller's key; empty where none is needed.
        project: The key's tag; empty if it has none.
    """

    request_id: str
    target: str
    provider: str
    tier: Tier
    model: str
    role: str = ""
    key: str = ""
    project: str = ""


class Cap(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on what may be spent.

    Attributes:
        account: ``installation``, ``provider:NAME``, ``market:NAME``, ``key:NAME``, ``role:NAME`` or ``project:TAG``.
        period: What it counts; of ``credit`` it is what has to be left.
        limit: How much.
        warn_at: Share of the limit at which everybody is told once.
        origin: Where it is set, for people: ``budget.daily_usd``.
    """

    account: str
    period: Period
    limit: MicroUsd
    warn_at: float = 0.8
    origin: str = ""
