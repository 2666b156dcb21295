"""How long a model takes, as pure functions: the one timing model behind the simulated worker and the simulator.

No I/O, no clock, no asyncio: times go in as seconds and come out as seconds. Tokens are counted from 0, so the first
token of an answer is token 0. Every request streams at its own full rate; more requests than slots wait in line.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Literal

import msgspec

FaultKind = Literal[
    "error", "refuse_connection", "stall", "cut", "truncate", "malformed", "endless", "crash", "slow_first_token"
]
FOR_EVER = -1
# Beyond these, seconds stop telling two tokens apart, or stop being something that one can wait for.
LOWEST_RATE, HIGHEST_RATE = 0.001, 1e9


class TimingModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The speed of one model on one worker.

    Raises:
        ValueError: A rate is out of its range, a duration is negative, or there is no slot.
    """

    load_seconds: float
    """From the start of the process until it can answer."""
    tokens_per_second: float
    """Answer tokens per second of each request, whatever the number of its neighbours."""
    prompt_tokens_per_second: float
    """Prompt tokens read per second of each request."""
    slots: int
    """Requests that are served at the same time; the rest queue."""
    first_token_seconds: float = 0
    """Fixed delay before the first token, on top of reading the prompt."""

    def __post_init__(self) -> None:
        for name in ("tokens_per_second", "prompt_tokens_per_second"):
            rate = getattr(self, name)
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise ValueError(f"{name} has to be {LOWEST_RATE} to {HIGHEST_RATE:.0f}, not {rate!r}")
        for name in ("load_seconds", "first_token_seconds"):
            seconds = getattr(self, name)
            if not (seconds >= 0 and math.isfinite(seconds)):
                raise ValueError(f"{name} has to be 0 or more, not {seconds!r}")
        if self.slots < 1:
            raise ValueError(f"slots has to be 1 or more, not {self.slots!r}")

    def load_fraction(self, elapsed_seconds: float) -> float:
        """Return how much of the model is loaded, 0.0 to 1.0.

        Args:
            elapsed_seconds: Time since loading began.
        """
        elapsed_seconds = max(elapsed_seconds, 0.0)
        return 1.0 if elapsed_seconds >= self.load_seconds else elapsed_seconds / self.load_seconds

    def can_start(self, running: int) -> bool:
        """Return whether one more request finds a free slot.

        Args:
            running: Requests that hold a slot now.
        """
        return running < self.slots

    def seconds_to_first_token(self, prompt_tokens: int) -> float:
        """Return the time from the start of a request (it holds a slot) to its token 0.

        Args:
            prompt_tokens: Length of the prompt.
        """
        return self.first_token_seconds + prompt_tokens / self.prompt_tokens_per_second

    def seconds_to_token(self, prompt_tokens: int, token: int) -> float:
        """Return the time from the start of a request to one of its tokens.

        Args:
            prompt_tokens: Length of the prompt.
            token: Which one, counted from 0.
        """
        return self.seconds_to_first_token(prompt_tokens) + token / self.tokens_per_second

    def tokens_due(self, prompt_tokens: int, elapsed_seconds: float) -> int:
        """Return how many tokens are due by now: the inverse of ``seconds_to_token``, exact to the last bit.

        Args:
            prompt_tokens: Length of the prompt.
            elapsed_seconds: Time since the start of the request.
        """
        since_first = elapsed_seconds - self.seconds_to_first_token(prompt_tokens)
        if since_first < 0:
            return 0
        count = math.floor(since_first * self.tokens_per_second) + 1
        # Dividing and multiplying round differently: settle the last token by the definition.
        while count > 0 and self.seconds_to_token(prompt_tokens, count - 1) > elapsed_seconds:
            count -= 1
        while self.seconds_to_token(prompt_tokens, count) <= elapsed_seconds:
            count += 1
        return count

    def seconds_in_all(self, prompt_tokens: int, tokens: int) -> float:
        """Return the time from the start of a request to the end of its answer, which is its last token.

        Args:
            prompt_tokens: Length of the prompt.
            tokens: Length of the answer; 0 for requests that only read, such as embeddings.
        """
        return self.seconds_to_token(prompt_tokens, max(tokens - 1, 0))

    def start_seconds(self, jobs: Sequence[Job]) -> tuple[float, ...]:
        """Return when each job gets a slot: first come, first served.

        Args:
            jobs: In the order of their arrival.
        """
        ends: list[float] = []  # a heap: when the busy slots become free
        starts = []
        for job in jobs:
            start = job.arrival_seconds
            if not self.can_start(len(ends)):
                start = max(start, heapq.heappop(ends))
            starts.append(start)
            heapq.heappush(ends, start + self.seconds_in_all(job.prompt_tokens, job.tokens))
        return tuple(starts)


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request as the timing model sees it."""

    arrival_seconds: float
    prompt_tokens: int
    tokens: int


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to fail, and which requests it hits: those with ``skip <= index < skip + times``."""

    kind: FaultKind
    """``error``: a JSON error before the first byte. ``refuse_connection``: the connection closes without an answer.
    ``slow_first_token``: everything comes ``seconds`` later. After ``after_tokens``: ``stall`` sends nothing more,
    ``cut`` aborts the connection, ``truncate`` ends the stream without finish reason and ``[DONE]``, ``malformed``
    slips in a chunk that is not JSON, ``crash`` ends the process. ``endless`` never stops."""
    after_tokens: int = 0
    """Tokens before the fault; if the answer is shorter, the fault comes at its end."""
    times: int = FOR_EVER
    """How many requests in a row are hit; -1 is for ever."""
    skip: int = 0
    """How many requests pass before the first one is hit."""
    status: int = 500
    """HTTP status of ``error``."""
    seconds: float = 0
    """Delay of ``slow_first_token``; ``Retry-After`` of ``error``, if above 0."""

    def __post_init__(self) -> None:
        if self.times < FOR_EVER or min(self.after_tokens, self.skip, self.seconds) < 0:
            raise ValueError(f"a fault counts from 0, and only times may be -1: {self!r}")
        if not 400 <= self.status <= 599:
            raise ValueError(f"the status of a fault is 400 to 599, not {self.status!r}")

    def hits(self, index: int) -> bool:
        """Return whether this fault covers a request.

        Args:
            index: Which request of the worker's life, counted from 0.
        """
        return index >= self.skip and (self.times == FOR_EVER or index < self.skip + self.times)


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which request fails how. The same plan gives the same faults, in any order of asking."""

    faults: tuple[Fault, ...] = ()

    def fault_of(self, index: int) -> Fault | None:
        """Return the first listed fault that hits a request, or None.

        Args:
            index: Which request of the worker's life, counted from 0.
        """
        return next((fault for fault in self.faults if fault.hits(index)), None)
