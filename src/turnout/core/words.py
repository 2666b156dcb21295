"""The nouns that every room shares: request, target, plan, attempt, trace.

All are frozen; a change is a new value. Times inside a trace are milliseconds since the request arrived, so that a
trace reads the same whenever it is printed. What a trace is made of has no cycles, so the garbage collector need not
look at it (``gc=False``): thousands of traces are kept.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from turnout.core.memory import Priority

RequestKind = Literal["chat", "completion", "embedding"]
Tier = Literal["local", "rented", "frontier"]
Origin = Literal["configured", "found", "built-in"]
Privacy = Literal["any", "no-frontier", "local-only"]
WorkerState = Literal["cold", "loading", "ready", "asleep", "draining", "failed", "unreachable"]
Capability = Literal["chat", "completion", "embedding", "tools", "vision", "json"]
Delivered = Literal["nothing", "text", "tool_call"]
Outcome = Literal["answered", "wrong", "refused", "busy", "broken", "caller_left"]

ROLES = (
    "orchestrator",
    "reflex",
    "agent",
    "reasoning",
    "coding",
    "vision",
    "embedding",
    "transcription",
    "speech",
    "image",
    "video",
    "mesh",
    "judge",
)
AUTO = "auto"
"""The model name that leaves the choice to turnout: the orchestrator's chain."""

PATHS: dict[RequestKind, str] = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
}
"""Where each kind of request lives below an OpenAI-compatible base URL."""


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that a caller asks, without its text: prompts are never kept.

    Attributes:
        id: ``req_...``; given back in ``x-turnout-request-id``.
        kind: What is asked for.
        selector: The caller's ``model`` value: ``auto``, a target, an alias or a role.
        stream: Whether the caller wants server-sent events.
        tools: Whether the body offers tools.
        json: Whether the body demands JSON output.
        wants_usage: Whether a stream shall tell its usage (``stream_options.include_usage``).
        effort: 1..10 where the caller rated the request, else None.
        privacy: How far the text may travel.
        deadline_seconds: The caller's own limit for the whole answer, else None.
        priority: How urgent it is where requests have to wait for each other.
        session: Whom fairness counts where no key says who asks.
        progress: Whether a stream shall tell of its waiting, in comments.
        keep_alive_seconds: How long the model is kept in memory while nobody uses it, from this request on; below 0
            for no end, None where the caller does not say.
        body_bytes: Size of the body, for the trace.
    """

    id: str
    kind: RequestKind
    selector: str
    stream: bool = False
    tools: bool = False
    json: bool = False
    wants_usage: bool = False
    effort: int | None = None
    privacy: Privacy = "any"
    deadline_seconds: float | None = None
    priority: Priority = "normal"
    session: str = ""
    progress: bool = False
    keep_alive_seconds: float | None = None
    body_bytes: int = 0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One place where one model can be served.

    Attributes:
        name: ``local/<key>``, ``local/<engine>/<model>``, ``rented/<node profile>`` or ``<provider>/<model>``.
        tier: Where the compute lives.
        engine: The program that serves it.
        model: The name by which the engine knows the model.
        can: What it is able to do.
        roles: What the configuration says that it is for.
        origin: Who brought it: the configuration, discovery, or the built-in profile.
        state: What it is doing now.
        detail: Why it is in this state, in words for a person; empty when there is nothing to say.
        context_tokens: Size of the context of one request, if known.
        size_bytes: Size of the weights, if known.
        is_loaded: Whether the weights are in memory now (an Ollama may know a model without having it loaded).
        is_demonstration: True for the small built-in model, which steps aside for any other.
        is_beyond_loopback: True when text sent there leaves this machine.
        counts_tokens: True where the usage of every stream is asked for, whether the caller wants it or not.
    """

    name: str
    tier: Tier
    engine: str
    model: str
    can: frozenset[Capability]
    roles: tuple[str, ...] = ()
    origin: Origin = "configured"
    state: WorkerState = "cold"
    detail: str = ""
    context_tokens: int | None = None
    size_bytes: int | None = None
    is_loaded: bool = False
    is_demonstration: bool = False
    is_beyond_loopback: bool = False
    counts_tokens: bool = False


class Choice(msgspec.Struct, frozen=True, gc=False):
    """A target with the reason for or against it."""

    target: str
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The ordered targets chosen for one request, and every other target with the reason against it.

    Attributes:
        resolution: How the selector was read, in words: ``alias 'gpt-4o*' -> role 'reasoning'``.
        candidates: Whom to try, in order.
        refusals: Everybody else.
    """

    resolution: str
    candidates: tuple[Choice, ...]
    refusals: tuple[Choice, ...] = ()


class Step(msgspec.Struct, frozen=True, gc=False):
    """One named part of an attempt: ``load``, ``send``, ``first_byte``, ``body``."""

    name: str
    milliseconds: float


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One try at one target.

    Attributes:
        target: Whom.
        started_ms: When, since the request arrived.
        outcome: How it ended.
        steps: Where its time went.
        code: The error's code, empty when it answered.
        error: The error's text, empty when it answered.
        source: Who said the error.
        status: The upstream's HTTP status, if there was one.
    """

    target: str
    started_ms: float
    outcome: Outcome
    steps: tuple[Step, ...] = ()
    code: str = ""
    error: str = ""
    source: str = ""
    status: int | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Trace(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The whole story of one request; ``turnout why`` prints it. It holds no prompt and no answer.

    ``delivered`` says what the caller had been given by the end: text can be asked for again, a tool call may have run.
    """

    id: str
    received_at: float
    request: Request
    plan: Plan | None
    attempts: tuple[Attempt, ...]
    outcome: Outcome
    http_status: int
    served_target: str = ""
    served_model: str = ""
    tier: str = ""
    code: str = ""
    error: str = ""
    hint: str = ""
    first_byte_ms: float | None = None
    total_ms: float = 0.0
    usage: Usage | None = None
    delivered: Delivered = "nothing"
    key_name: str = ""
