"""The embedded engine: llama.cpp in a worker process, real tokens on a bare CPU."""

from __future__ import annotations

import importlib.util
import os
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from turnout.core.errors import SetupError
from turnout.core.memory import Demand
from turnout.core.words import Capability, Origin, Target
from turnout.tiers.base import EngineContext, ModelSettings
from turnout.tiers.local.llamacpp.footprint import footprint_bytes, read_shape
from turnout.tiers.local.llamacpp.spec import LlamaCppSpec
from turnout.tiers.local.placement import PlacedSettings, in_memory
from turnout.tiers.local.process import ProcessEngine
from turnout.tiers.local.weights.source import WeightsFile, locate, parse_source

LOAD_BYTES_PER_SECOND = 1e9


class LlamaCppSettings(PlacedSettings, frozen=True, kw_only=True):
    """Settings of a GGUF model."""

    source: Annotated[str, Meta(description="`package:NAME`, `hf:OWNER/NAME[/FILE.gguf]` or `file:PATH`.")]
    context_tokens: Annotated[int, Meta(ge=256, description="Context of each request.")] = 8192
    slots: Annotated[int, Meta(ge=1, le=64, description="Requests answered at once; more wait in line.")] = 2
    threads: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="CPU threads; half the cores if left out, one on a small machine."),
    ] = None
    demonstration: Annotated[
        bool, Meta(description="Serves `auto` only while nothing else is configured or found.")
    ] = False


class LlamaCppEngine(ProcessEngine):
    """A llama.cpp server in a worker process."""

    Settings: ClassVar[type[ModelSettings]] = LlamaCppSettings
    settings: LlamaCppSettings
    engine_name = "llamacpp"
    worker_module = "turnout.tiers.local.llamacpp.worker"
    can: ClassVar[frozenset[Capability]] = frozenset({"chat", "completion", "json", "tools"})
    # OpenMP's spinning threads eat the cores that the rest of the machine needs.
    environment: ClassVar[dict[str, str]] = {"OMP_WAIT_POLICY": "passive"}

    def __init__(
        self, name: str, settings: LlamaCppSettings, context: EngineContext, origin: Origin = "configured"
    ) -> None:
        super().__init__(name, settings, context, origin)
        self._source = parse_source(settings.source)
        self._file: WeightsFile | None = None
        self._footprint_bytes = 0
        self._find()

    def demand(self) -> Demand:
        """Return its footprint as footprint.py tells it; nothing before the weights are here."""
        return in_memory(self.settings, self.context.devices, self._footprint_bytes)

    @property
    def load_seconds(self) -> float:
        """At the speed of a plain SSD; weights that the system has in its cache come faster."""
        return 0.5 + (self._file.bytes / LOAD_BYTES_PER_SECOND if self._file else 0.0)

    @property
    def slots(self) -> int:
        """As configured."""
        return self.settings.slots

    def _find(self) -> None:
        """Look for the weights."""
        file = locate(self._source, self.context.paths.data_dir)
        if file == self._file:
            return
        self._file, self._footprint_bytes = file, 0
        if file is not None:
            tokens = self.settings.context_tokens * self.settings.slots
            self._footprint_bytes = footprint_bytes(file.bytes, read_shape(file.path), tokens)

    def spec(self, key: str) -> LlamaCppSpec:
        """Return the worker's spec.

        Raises:
            SetupError: The package or the weights are missing.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise SetupError("the package xllamacpp is not installed", hint="pip install 'turnout[embedded]'")
        self._find()
        file = self._file
        if file is None:
            raise SetupError(
                f"the weights {self.settings.source!r} are not on this machine",
                hint=f"`turnout models pull {self.settings.source}` fetches them",
            )
        return LlamaCppSpec(
            key=key,
            model=self.name,
            path=str(file.path),
            sha256=file.sha256,
            context_tokens=self.settings.context_tokens,
            slots=self.settings.slots,
            threads=self.settings.threads or default_threads(os.cpu_count() or 1),
        )

    def describe(self, target: Target) -> Target:
        """Add context, size, and whether it is the demonstration model."""
        return msgspec.structs.replace(
            target,
            context_tokens=self.settings.context_tokens,
            size_bytes=self._file.bytes if self._file else None,
            is_demonstration=self.settings.demonstration,
        )


def default_threads(cores: int) -> int:
    """Return how many threads to use: one up to three cores, else half of them.

    Measured on two cores beside other work: two threads fell to 0.7-1.5 tokens/s, one stayed at 137.
    """
    return max(1, cores // 2) if cores > 3 else 1
