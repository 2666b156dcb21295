"""The simulated engine: a real server with invented text and exact timing, for demonstrations, plans and tests."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from turnout.core.memory import GIB, Demand
from turnout.core.words import Capability, Target
from turnout.tiers.base import ModelSettings
from turnout.tiers.local.placement import PlacedSettings, in_invention
from turnout.tiers.local.process import ProcessEngine
from turnout.tiers.local.simulated.spec import SimulatedSpec
from turnout.tiers.local.timing import Fault


class SimulatedSettings(PlacedSettings, frozen=True, kw_only=True):
    """Settings of a simulated model."""

    load_seconds: Annotated[float, Meta(ge=0, description="How long loading takes.")] = 0.0
    tokens_per_second: Annotated[float, Meta(gt=0, description="Speed of each answer.")] = 60.0
    prompt_tokens_per_second: Annotated[float, Meta(gt=0, description="Speed of reading the prompt.")] = 2000.0
    slots: Annotated[int, Meta(ge=1, description="Answers generated at once; more wait.")] = 8
    context_tokens: Annotated[int, Meta(ge=1, description="Prompt and answer together.")] = 8192
    seed: Annotated[int, Meta(description="Another seed, other words.")] = 0
    reply_tokens: Annotated[int, Meta(ge=0, description="Length of every answer; 0 lets the prompt choose.")] = 0
    load_error: Annotated[str, Meta(description="If set, loading fails with this reason.")] = ""
    faults: Annotated[tuple[Fault, ...], Meta(description="What goes wrong, and when.")] = ()


class SimulatedEngine(ProcessEngine):
    """A worker that serves invented text."""

    Settings: ClassVar[type[ModelSettings]] = SimulatedSettings
    settings: SimulatedSettings
    engine_name = "simulated"
    worker_module = "turnout.tiers.local.simulated.worker"
    can: ClassVar[frozenset[Capability]] = frozenset({"chat", "completion", "embedding", "tools", "json"})

    def demand(self) -> Demand:
        """Return the footprint that it claims."""
        return in_invention(self.settings, self.context.devices)

    @property
    def load_seconds(self) -> float:
        """As configured."""
        return self.settings.load_seconds

    @property
    def slots(self) -> int:
        """As configured."""
        return self.settings.slots

    def spec(self, key: str) -> SimulatedSpec:
        """Return the worker's spec."""
        given = self.settings
        return SimulatedSpec(
            key=key,
            model=self.name,
            load_seconds=given.load_seconds,
            tokens_per_second=given.tokens_per_second,
            prompt_tokens_per_second=given.prompt_tokens_per_second,
            slots=given.slots,
            context_tokens=given.context_tokens,
            reply_tokens=given.reply_tokens,
            seed=given.seed,
            load_error=given.load_error,
            faults=given.faults,
        )

    def describe(self, target: Target) -> Target:
        """Add context and footprint."""
        size = int((self.settings.vram_gib or 0) * GIB)
        return msgspec.structs.replace(target, context_tokens=self.settings.context_tokens, size_bytes=size or None)
