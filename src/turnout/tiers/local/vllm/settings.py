"""What an entry under ``models`` may say of a vLLM."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from turnout.core.words import Capability
from turnout.tiers.local.server.settings import ServerSettings

IMAGE = "vllm/vllm-openai:latest"


class VllmSettings(ServerSettings, frozen=True, kw_only=True):
    """Settings of a model served by vLLM, which is a program of yours: turnout does not install it."""

    source: Annotated[
        str, Meta(description="`hf:OWNER/NAME` (from the hub's cache), or `file:FOLDER` with the weights.")
    ]
    command: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="How vLLM is started: `[vllm, serve]`, or `[/path/to/python, -m,"
            " vllm.entrypoints.openai.api_server]`.",
        ),
    ] = msgspec.field(default_factory=lambda: ["vllm", "serve"])
    served_name: Annotated[str, Meta(description="The model's name to vLLM; its key if left out.")] = ""
    quantisation: Annotated[
        str, Meta(description="`awq`, `fp8`, `bitsandbytes` ...; vLLM reads it from the weights.")
    ] = ""
    context_tokens: Annotated[
        Annotated[int, Meta(ge=16)] | None, Meta(description="Context of each request; the model's own if left out.")
    ] = None
    slots: Annotated[int, Meta(ge=1, description="Sequences generated at once; more wait in turnout's queue.")] = 16
    tool_parser: Annotated[
        str, Meta(description="How the model writes tool calls: `hermes`, `llama3_json` ...; without it no tools.")
    ] = ""
    can: Annotated[
        list[Capability] | None, Meta(description="What the model is able to do; told by its roles if left out.")
    ] = None
    download: Annotated[
        bool, Meta(description="vLLM may fetch missing weights from the hub at the start (`HF_HUB_OFFLINE=0`).")
    ] = False
    sleep: Annotated[
        bool,
        Meta(
            description="It may be put to sleep and woken instead of stopped and started. Switches vLLM's development"
            " routes on, which ask for no key: everybody who has an account on this machine can reach them."
        ),
    ] = False
    sleep_level: Annotated[
        Literal[1, 2] | None,
        Meta(
            description="1 keeps the weights in the machine's memory, 2 drops them and reads them again; the machine's"
            " memory decides if left out."
        ),
    ] = None
    memory_counts: Annotated[
        Literal["own", "card"],
        Meta(
            description="What `--gpu-memory-utilization` of your vLLM means: a share of the card for itself (`own`), or"
            " together with everything on it (`card`: 0.6.4, and 0.7 to 0.9.0)."
        ),
    ] = "own"
