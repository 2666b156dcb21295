"""A running Ollama: every model that it has is a target; it loads and unloads them by itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from turnout.core.errors import Broken, SetupError
from turnout.core.loopback import is_loopback_url
from turnout.core.words import Capability, Origin, Target
from turnout.tiers.base import Call, Capabilities, EngineContext, ModelSettings, call_path
from turnout.tiers.local.probe import ProbedEngine, check_base_url
from turnout.tiers.transport import HttpRequest, HttpResponse

DEFAULT_URL = "http://127.0.0.1:11434"


class OllamaSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of a model in an Ollama."""

    model: Annotated[str, Meta(description="Its name there, `llama3.2:3b`.")] = ""
    base_url: Annotated[str, Meta(description="Where Ollama listens.")] = DEFAULT_URL


class Tag(msgspec.Struct, frozen=True):
    """One entry of ``GET /api/tags`` or ``GET /api/ps``."""

    name: str
    size: int = 0
    digest: str = ""
    context_length: int | None = None


class Tags(msgspec.Struct, frozen=True):
    """``GET /api/tags`` and ``GET /api/ps``."""

    models: list[Tag]


class Shown(msgspec.Struct, frozen=True):
    """The part of ``POST /api/show`` that says what a model can do; old versions leave it out."""

    capabilities: list[str] = []


class OllamaEngine(ProbedEngine):
    """One model of an Ollama under a key; or, where it was found, all of them but those that have a key."""

    Settings: ClassVar[type[ModelSettings]] = OllamaSettings
    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=False, loads_on_demand=True)
    settings: OllamaSettings

    def __init__(
        self,
        name: str,
        settings: OllamaSettings,
        context: EngineContext,
        origin: Origin = "configured",
        besides: Collection[str] = (),
    ) -> None:
        if wrong := check_base_url(settings.base_url):
            raise SetupError(f"base_url {settings.base_url!r}: {wrong}")
        if origin == "configured" and not settings.model:
            raise SetupError("'model' is missing", hint="`ollama list` shows the names")
        super().__init__(context, settings.base_url, None)
        self.name = name
        self.settings = settings
        self.origin: Origin = origin
        self._besides = {full_name(model) for model in besides}
        self._shown: dict[tuple[str, str], Shown] = {}
        if origin == "configured":
            self._targets = self.absent("not asked yet")

    async def look(self) -> tuple[Target, ...]:
        """Ask which models there are, which are loaded, and what each can do (once for each digest)."""
        tags = await self.ask("GET", "/api/tags", b"", Tags)
        loaded = await self._loaded()
        if self.origin == "found":
            found = [tag for tag in tags.models if tag.name not in self._besides]
            return tuple([await self._describe(f"local/ollama/{tag.name}", tag, loaded) for tag in found])
        wanted = full_name(self.settings.model)
        for tag in tags.models:
            if tag.name in (wanted, self.settings.model):
                return (await self._describe(f"local/{self.name}", tag, loaded),)
        detail = f"Ollama does not have {self.settings.model!r}: `ollama pull {self.settings.model}`"
        return (msgspec.structs.replace(self.absent("")[0], state="failed", detail=detail),)

    def absent(self, reason: str) -> tuple[Target, ...]:
        """Keep a configured target visible; found ones are gone."""
        if self.origin == "found":
            return ()
        return (
            Target(
                name=f"local/{self.name}",
                tier="local",
                engine="ollama",
                model=self.settings.model,
                can=frozenset({"chat", "completion"}),
                roles=tuple(self.settings.roles),
                state="unreachable",
                detail=reason,
                is_beyond_loopback=not is_loopback_url(self.base_url),
            ),
        )

    async def send(self, target: Target, call: Call) -> HttpResponse:  # noqa: ARG002  the body names the model
        """Make one call to Ollama's OpenAI-compatible side."""
        path = "/v1" + call_path(call)
        request = HttpRequest("POST", self.base_url, path, self.headers(), call.body, call.request_id)
        return await self.context.transport.send(request, call.deadlines)

    async def _loaded(self) -> dict[str, Tag]:
        try:
            return {tag.name: tag for tag in (await self.ask("GET", "/api/ps", b"", Tags)).models}
        except Broken:
            return {}  # old versions, and servers that only speak like an Ollama, cannot tell

    async def _describe(self, name: str, tag: Tag, loaded: dict[str, Tag]) -> Target:
        shown = await self._show(tag)
        return Target(
            name=name,
            tier="local",
            engine="ollama",
            model=tag.name,
            can=_capabilities(shown.capabilities),
            roles=tuple(self.settings.roles),
            origin=self.origin,
            state="ready" if tag.name in loaded else "cold",
            context_tokens=loaded[tag.name].context_length if tag.name in loaded else None,
            size_bytes=tag.size or None,
            is_loaded=tag.name in loaded,
            is_beyond_loopback=not is_loopback_url(self.base_url),
        )

    async def _show(self, tag: Tag) -> Shown:
        key = (tag.name, tag.digest)
        if key not in self._shown:
            try:
                self._shown[key] = await self.ask("POST", "/api/show", msgspec.json.encode({"model": tag.name}), Shown)
            except Broken:
                return Shown()  # asked again at the next look
        return self._shown[key]


def full_name(model: str) -> str:
    """Return a model's name with its tag, which Ollama lets people leave out."""
    return model if ":" in model else f"{model}:latest"


def _capabilities(names: list[str]) -> frozenset[Capability]:
    if "embedding" in names:
        return frozenset({"embedding"})
    can: set[Capability] = {"chat", "completion", "json"}
    if "tools" in names:
        can.add("tools")
    if "vision" in names:
        can.add("vision")
    return frozenset(can)
