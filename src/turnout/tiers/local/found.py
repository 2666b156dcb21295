"""Servers that were found running: recognised by what they answer, used as they are, never stopped or changed.

A port says nothing about who listens there. A stranger gets one small question with a short deadline, no more.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from turnout.core.errors import Broken, SetupError
from turnout.core.loopback import is_loopback_url
from turnout.core.words import Capability, Target
from turnout.tiers.base import Call, Capabilities, EngineContext, ModelSettings, call_path
from turnout.tiers.local.probe import ProbedEngine, check_base_url
from turnout.tiers.transport import HttpRequest, HttpResponse

OWNERS: dict[str, Literal["vllm", "llama-server"]] = {"vllm": "vllm", "llamacpp": "llama-server"}
"""The engine behind a list of models, by the ``owned_by`` that it puts into each entry."""
TEXT: frozenset[Capability] = frozenset({"chat", "completion", "tools", "json"})


class ListedModel(msgspec.Struct, frozen=True):
    """One entry of ``GET /v1/models``; vLLM adds the context, llama-server a ``meta`` block."""

    id: str
    owned_by: str = ""
    max_model_len: int | None = None
    meta: dict[str, Any] | None = None

    @property
    def context_tokens(self) -> int | None:
        """Prompt and answer together, where the server tells."""
        size = self.max_model_len or (self.meta or {}).get("n_ctx")
        return size if isinstance(size, int) else None


class ModelList(msgspec.Struct, frozen=True):
    """``GET /v1/models``."""

    data: list[ListedModel]


class StudioModel(msgspec.Struct, frozen=True):
    """One entry of LM Studio's ``GET /api/v0/models`` (lmstudio.ai/docs/developer/rest/endpoints)."""

    id: str
    type: str
    state: str
    loaded_context_length: int | None = None
    max_context_length: int | None = None
    capabilities: list[str] = []


class StudioList(msgspec.Struct, frozen=True):
    """``GET /api/v0/models``."""

    data: list[StudioModel]


class FoundServer(ProbedEngine):
    """Every model of a server that speaks OpenAI's API at an address: a vLLM, a llama-server, LM Studio.

    Args:
        base_url: Up to and with ``/v1``.
        context: What the composition root provides.
    """

    Settings: ClassVar[type[ModelSettings]] = ModelSettings
    capabilities: ClassVar[Capabilities] = Capabilities(owns_process=False, loads_on_demand=True)

    def __init__(self, base_url: str, context: EngineContext) -> None:
        if wrong := check_base_url(base_url):
            raise SetupError(f"base_url {base_url!r}: {wrong}")
        super().__init__(context, base_url, None)
        self.name = "found"

    async def look(self) -> tuple[Target, ...]:
        """Ask for the list of models; LM Studio tells in a list of its own which of them are loaded."""
        listed = (await self.ask("GET", "/models", b"", ModelList)).data
        known = [model for model in listed if model.owned_by in OWNERS]
        if known or not listed:
            return tuple(self._served(model) for model in known)
        try:
            studio = await self.ask(
                "GET", "/api/v0/models", b"", StudioList, base_url=self.base_url.removesuffix("/v1")
            )
        except Broken:
            return ()  # somebody else's
        return tuple(self._in_studio(model) for model in studio.data)

    def absent(self, reason: str) -> tuple[Target, ...]:  # noqa: ARG002  nobody asked for it
        """Return nothing: what was found is gone."""
        return ()

    async def send(self, target: Target, call: Call) -> HttpResponse:  # noqa: ARG002  the body names the model
        """Make one call."""
        request = HttpRequest("POST", self.base_url, call_path(call), self.headers(), call.body, call.request_id)
        return await self.context.transport.send(request, call.deadlines)

    def _served(self, model: ListedModel) -> Target:
        engine = OWNERS[model.owned_by]
        return self._target(engine, model.id, can=TEXT, is_loaded=True, context_tokens=model.context_tokens)

    def _in_studio(self, model: StudioModel) -> Target:
        is_loaded = model.state == "loaded"
        return self._target(
            "lm-studio",
            model.id,
            can=_can(model),
            is_loaded=is_loaded,
            context_tokens=model.loaded_context_length if is_loaded else model.max_context_length,
        )

    def _target(
        self, engine: str, model: str, *, can: frozenset[Capability], is_loaded: bool, context_tokens: int | None
    ) -> Target:
        return Target(
            name=f"local/{engine}/{model}",
            tier="local",
            engine=engine,
            model=model,
            can=can,
            origin="found",
            state="ready" if is_loaded else "cold",
            context_tokens=context_tokens,
            is_loaded=is_loaded,
            is_beyond_loopback=not is_loopback_url(self.base_url),
        )


def _can(model: StudioModel) -> frozenset[Capability]:
    if model.type == "embeddings":
        return frozenset({"embedding"})
    can: set[Capability] = {"chat", "completion", "json"}
    if model.type == "vlm":
        can.add("vision")
    if "tool_use" in model.capabilities:
        can.add("tools")
    return frozenset(can)
