"""llama.cpp by a llama-server of the user's own: a build for the card, or a container, instead of the embedded one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from turnout.core.errors import SetupError
from turnout.core.memory import HOST_RAM, Demand
from turnout.core.words import Capability, Origin, Target
from turnout.tiers.base import EngineContext, ModelSettings
from turnout.tiers.local.llamacpp.engine import LOAD_BYTES_PER_SECOND, default_threads
from turnout.tiers.local.llamacpp.footprint import footprint_bytes, read_shape
from turnout.tiers.local.placement import in_memory
from turnout.tiers.local.server.engine import Launch, ServerEngine, gpus_of
from turnout.tiers.local.server.settings import ServerSettings
from turnout.tiers.local.server.spec import Stage
from turnout.tiers.local.weights.source import WeightsFile, locate, parse_source

ALL_LAYERS = 999
CONTAINER_WEIGHTS = "/weights"
STAGES = (
    Stage(r"load_tensors|loading model", "loading weights"),
    Stage(r"llama_kv_cache|llama_context", "sizing the cache"),
    Stage(r"warming up", "warming up"),
)


class LlamaServerSettings(ServerSettings, frozen=True, kw_only=True):
    """Settings of a GGUF model served by your own llama-server, such as a build for your card."""

    source: Annotated[str, Meta(description="`package:NAME`, `hf:OWNER/NAME[/FILE.gguf]` or `file:PATH`.")]
    binary: Annotated[str, Meta(description="The program: a path, or a name on PATH.")] = "llama-server"
    context_tokens: Annotated[int, Meta(ge=256, description="Context of each request.")] = 8192
    slots: Annotated[int, Meta(ge=1, le=64, description="Requests answered at once; more wait in line.")] = 2
    threads: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="CPU threads; as for `llamacpp` if left out.")
    ] = None
    gpu_layers: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Layers on the card; all if left out and its device is a card, else none."),
    ] = None


class LlamaServerEngine(ServerEngine):
    """A llama-server that turnout runs."""

    Settings: ClassVar[type[ModelSettings]] = LlamaServerSettings
    settings: LlamaServerSettings
    engine_name = "llama-server"
    can: ClassVar[frozenset[Capability]] = frozenset({"chat", "completion", "json", "tools"})

    def __init__(
        self, name: str, settings: LlamaServerSettings, context: EngineContext, origin: Origin = "configured"
    ) -> None:
        cards = [device.id for device in context.devices if device.id.startswith("host/gpu")]
        settings = msgspec.structs.replace(settings, device=settings.device or next(iter(cards), HOST_RAM))
        super().__init__(name, settings, context, origin)
        self._source = parse_source(settings.source)
        self._file: WeightsFile | None = None
        self._footprint_bytes = 0
        self._find()

    def demand(self) -> Demand:
        """Return its footprint as footprint.py tells it, on its device; nothing before the weights are here."""
        return in_memory(self.settings, self.context.devices, self._footprint_bytes)

    @property
    def load_seconds(self) -> float:
        """At the speed of a plain SSD."""
        return 1.0 + (self._file.bytes / LOAD_BYTES_PER_SECOND if self._file else 0.0)

    @property
    def slots(self) -> int:
        """As configured."""
        return self.settings.slots

    def describe(self, target: Target) -> Target:
        """Add context and size."""
        return msgspec.structs.replace(
            target,
            context_tokens=self.settings.context_tokens,
            size_bytes=self._file.bytes if self._file else None,
        )

    def launch(self, key: str, host: str, port: int) -> Launch:
        """Return the command line.

        Raises:
            SetupError: The program or the weights are missing.
        """
        self._find()
        given, file = self.settings, self._file
        if file is None:
            raise SetupError(
                f"the weights {given.source!r} are not on this machine",
                hint=f"`turnout models pull {given.source}` fetches them",
            )
        is_docker = given.runtime == "docker"
        gpus = gpus_of(self._devices or self.demand())
        layers = given.gpu_layers if given.gpu_layers is not None else ALL_LAYERS if gpus else 0
        weights = f"{CONTAINER_WEIGHTS}/{file.path.name}" if is_docker else str(file.path)
        threads = str(given.threads or default_threads(os.cpu_count() or 1))
        words = [
            given.binary if is_docker else self._program(),
            *("-m", weights, "--alias", self.name, "--host", host, "--port", str(port)),
            *("-c", str(given.context_tokens * given.slots), "-np", str(given.slots)),
            *("-t", threads, "-tb", threads, "-ngl", str(layers), "--jinja", "--metrics"),
            *given.arguments,
        ]
        return Launch(
            program="llama-server",
            arguments=tuple(words),
            environment=self._variables(key, Path(words[0])),
            served_name=self.name,
            stages=STAGES,
            gpus=gpus or None,
            mounts=(f"{file.path.resolve().parent}:{CONTAINER_WEIGHTS}:ro",) if is_docker else (),
        )

    def _variables(self, key: str, program: Path) -> dict[str, str]:
        # By variable and not by argument: everybody on the machine can read arguments. OpenMP's spinning threads eat
        # the cores that the rest of the machine needs.
        found = {"LLAMA_API_KEY": key, "OMP_WAIT_POLICY": "passive"}
        if self.settings.runtime == "process" and any(program.parent.glob("lib*.so*")):  # it brings its libraries
            known = os.environ.get("LD_LIBRARY_PATH")
            found["LD_LIBRARY_PATH"] = f"{program.parent}:{known}" if known else str(program.parent)
        return found

    def _program(self) -> str:
        found = shutil.which(str(Path(self.settings.binary).expanduser()))
        if found is None:
            raise SetupError(
                f"there is no program {self.settings.binary!r}",
                hint="set `binary` to your llama-server, or use `engine: llamacpp`, which brings its own",
            )
        return found

    def _find(self) -> None:
        """Look for the weights."""
        file = locate(self._source, self.context.paths.data_dir)
        if file == self._file:
            return
        self._file, self._footprint_bytes = file, 0
        if file is not None:
            tokens = self.settings.context_tokens * self.settings.slots
            self._footprint_bytes = footprint_bytes(file.bytes, read_shape(file.path), tokens)
