"""What a simulated worker is told at its start."""

from __future__ import annotations

import msgspec

from turnout.tiers.local.timing import Fault, FaultPlan, TimingModel


class SimulatedSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The spec of a simulated worker: the first line on its stdin, or its command line.

    Raises:
        ValueError: A number is out of its range.
    """

    key: str = ""
    """Bearer key that callers have to show; empty for none."""
    port: int = 0
    """TCP port on 127.0.0.1; 0 for any free one."""
    model: str = "simulated"
    """The served name."""
    load_seconds: float = 0
    """From the start until it can answer."""
    tokens_per_second: float = 60
    """Answer tokens per second of each request."""
    prompt_tokens_per_second: float = 2000
    """Prompt tokens read per second of each request."""
    first_token_seconds: float = 0
    """Fixed delay before the first token, on top of reading the prompt."""
    slots: int = 8
    """Requests that are served at the same time; the rest queue."""
    context_tokens: int = 8192
    """Prompt and answer together."""
    reply_tokens: int = 0
    """Length of an answer in words; 0 lets the prompt's hash choose 48 to 175. ``max_tokens`` cuts it."""
    seed: int = 0
    """Another seed, other words."""
    embedding_dimensions: int = 8
    """Length of the vectors."""
    load_error: str = ""
    """If set, loading takes its time and then fails with this reason."""
    faults: tuple[Fault, ...] = ()
    """Which requests fail, and how; the first fault that hits a request counts."""

    def __post_init__(self) -> None:
        self.timing()
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port has to be 0 to 65535, not {self.port!r}")
        for name, least in (("context_tokens", 2), ("reply_tokens", 0), ("embedding_dimensions", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} has to be {least} or more, not {getattr(self, name)!r}")

    def timing(self) -> TimingModel:
        """Return how long this worker takes."""
        return TimingModel(
            load_seconds=self.load_seconds,
            tokens_per_second=self.tokens_per_second,
            prompt_tokens_per_second=self.prompt_tokens_per_second,
            slots=self.slots,
            first_token_seconds=self.first_token_seconds,
        )

    def plan(self) -> FaultPlan:
        """Return which request fails how."""
        return FaultPlan(self.faults)
