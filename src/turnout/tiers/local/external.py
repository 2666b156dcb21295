"""Any server that speaks OpenAI's API at a URL: a vLLM, a llama-server, LM Studio, another turnout."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from turnout.core.errors import SetupError
from turnout.core.loopback import is_loopback_url
from turnout.core.words import Capability, Origin, Target
from turnout.tiers.base import Call, Capabilities, EngineContext, ModelSettings, call_path
from turnout.tiers.local.found import ModelList
from turnout.tiers.local.probe import ProbedEngine, check_base_url
from turnout.tiers.transport import HttpRequest, HttpResponse


class ExternalSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of a model behind a URL."""

    base_url: Annotated[str, Meta(description="Up to and with `/v1`: `http://127.0.0.1:8000/v1`.")]
    model: Annotated[
        str | None, Meta(description="The name by which the server knows the model; its only one if left out.")
    ] = None
    api_key_env: Annotated[
        str | None, Meta(description="Name of the environment or `.env` variable with the server's key.")
    ] = None
    can: Annotated[list[Capability], Meta(description="What the model is able to do.")] = msgspec.field(
        default_factory=lambda: ["chat", "completion", "tools", "json"]
    )
    count_tokens: Annotated[
        bool,
        Meta(description="Ask for the usage of every stream, so that traces and metrics know its tokens."),
    ] = False
    context_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Where the server does not tell.")
    ] = None


class ExternalEngine(ProbedEngine):
    """One model of a server at a URL."""

    Settings: ClassVar[type[ModelSettings]] = ExternalSettings
    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=False, loads_on_demand=False)
    settings: ExternalSettings

    def __init__(
        self, name: str, settings: ExternalSettings, context: EngineContext, origin: Origin = "configured"
    ) -> None:
        if wrong := check_base_url(settings.base_url):
            raise SetupError(f"base_url {settings.base_url!r}: {wrong}")
        key = None
        if settings.api_key_env:
            key = (context.secret(settings.api_key_env) or "").strip()
            if not (key.isascii() and (key.isprintable() or not key)):
                raise SetupError(f"the value of {settings.api_key_env} cannot be sent in a header", hint="set it anew")
        super().__init__(context, settings.base_url, key)
        self.name = name
        self.settings = settings
        self.origin: Origin = origin
        self._served = settings.model or ""
        self._targets = (self._target(state="loading", detail="not asked yet"),)

    async def look(self) -> tuple[Target, ...]:
        """Ask for the list of models."""
        listed = await self.ask("GET", "/models", b"", ModelList)
        by_id = {model.id: model for model in listed.data}
        if self.settings.model is None and len(by_id) == 1:
            self._served = next(iter(by_id))
        if self._served in by_id:
            model = by_id[self._served]
            return (self._target(state="ready", context_tokens=model.context_tokens),)
        names = ", ".join(sorted(by_id)) or "nothing"
        detail = f"{self.base_url} does not list {self.settings.model!r}; it lists: {names}"
        if self.settings.model is None and not by_id:
            detail = f"{self.base_url} lists no model"
        elif self.settings.model is None:
            detail = f"{self.base_url} lists several models, name one with 'model': {names}"
        return (self._target(state="failed", detail=detail),)

    def absent(self, reason: str) -> tuple[Target, ...]:
        """Keep the target visible."""
        return (self._target(state="unreachable", detail=reason),)

    async def send(self, target: Target, call: Call) -> HttpResponse:  # noqa: ARG002  the body names the model
        """Make one call."""
        request = HttpRequest("POST", self.base_url, call_path(call), self.headers(), call.body, call.request_id)
        return await self.context.transport.send(request, call.deadlines)

    def _target(self, **facts: Any) -> Target:
        facts["context_tokens"] = facts.get("context_tokens") or self.settings.context_tokens
        return Target(
            name=f"local/{self.name}",
            tier="local",
            engine="external",
            model=self._served,
            can=frozenset(self.settings.can),
            roles=tuple(self.settings.roles),
            origin=self.origin,
            is_loaded=facts["state"] == "ready",
            counts_tokens=self.settings.count_tokens,
            is_beyond_loopback=not is_loopback_url(self.base_url),
            **facts,
        )
