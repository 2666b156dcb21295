"""What can be set in ``turnout.yaml``. The descriptions here are the reference manual.

``models`` entries are decoded later, each by the engine that it names (tiers/registry.py), because every engine has
settings of its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: frozen, and a misspelt key is an error."""


class ServerSettings(Section, frozen=True, kw_only=True):
    """The endpoint."""

    host: Annotated[
        str, Meta(description="Address to listen on. Anything but loopback demands keys (`turnout keys create`).")
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port to listen on; 0 lets the system choose.")] = 8150
    allowed_hosts: Annotated[
        list[str], Meta(description="Host names beyond loopback that callers may use to reach the daemon.")
    ] = msgspec.field(default_factory=list)
    allowed_origins: Annotated[
        list[str],
        Meta(description="Web origins beyond this machine's own (`https://chat.example.org`) whose pages may call."),
    ] = msgspec.field(default_factory=list)
    max_header_kib: Annotated[Count, Meta(description="Largest request line and headers, in KiB.")] = 64
    max_body_mib: Annotated[Count, Meta(description="Largest request body, in MiB.")] = 64
    max_connections: Annotated[Count, Meta(description="Connections open at once; more get a 503.")] = 4096
    drain_seconds: Annotated[
        Seconds, Meta(description="How long running answers may go on after SIGTERM before they are ended properly.")
    ] = 20.0


class DeadlineSettings(Section, frozen=True, kw_only=True):
    """The one table of default deadlines, in seconds. Nothing waits longer than this."""

    header: Annotated[Seconds, Meta(description="A caller's request line and headers.")] = 10.0
    body_gap: Annotated[Seconds, Meta(description="Between two pieces of a caller's body.")] = 30.0
    write_stall: Annotated[Seconds, Meta(description="A caller who does not take what we write.")] = 60.0
    probe: Annotated[Seconds, Meta(description="One health question to an engine.")] = 2.0
    connect: Annotated[Seconds, Meta(description="Connecting to an engine.")] = 3.0
    load: Annotated[Seconds, Meta(description="Waiting until an engine has loaded a model.")] = 600.0
    first_byte: Annotated[
        Seconds, Meta(description="From the end of the request to the first byte; a slow CPU thinks this long.")
    ] = 300.0
    gap: Annotated[Seconds, Meta(description="Between two pieces of an answer.")] = 120.0
    total: Annotated[Seconds, Meta(description="A whole answer.")] = 3600.0


class LimitSettings(Section, frozen=True, kw_only=True):
    """How much an engine may answer; more is told as broken."""

    answer_mib: Annotated[Count, Meta(description="A whole answer or stream, in MiB.")] = 256
    event_kib: Annotated[Count, Meta(description="One event of a stream, in KiB.")] = 16_384


class TraceSettings(Section, frozen=True, kw_only=True):
    """What is kept about past requests."""

    keep: Annotated[int, Meta(ge=0, description="Traces kept in the file; 0 keeps them in memory only.")] = 10_000
    prompts: Annotated[
        Literal[False], Meta(description="Prompts are not stored; this says so, and cannot be switched on yet.")
    ] = False


class StoreSettings(Section, frozen=True, kw_only=True):
    """Where facts are kept."""

    traces: TraceSettings = TraceSettings()
    url: Annotated[str | None, Meta(description="Reserved: where the book of money will be kept.")] = None


class PrivacySettings(Section, frozen=True, kw_only=True):
    """How far text may travel when the caller does not say."""

    default: Annotated[
        Literal["any", "no-frontier", "local-only"],
        Meta(description="Applies where a request has no `x-turnout-privacy` header; a header may only tighten it."),
    ] = "any"


class DiscoverEntry(Section, frozen=True, kw_only=True):
    """One address where an engine may already be running."""

    engine: Annotated[Literal["ollama", "external"], Meta(description="What answers there.")] = "external"
    base_url: Annotated[str, Meta(description="Its address, `http://127.0.0.1:11434` for an Ollama.")]


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    profile: Annotated[
        str, Meta(description="A named shape of this machine: `auto` or `cpu`, or one under `profiles`.")
    ] = "auto"
    server: ServerSettings = ServerSettings()
    models: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="Models by key; the key becomes the target `local/<key>`. Each names its `engine`."),
    ] = msgspec.field(default_factory=dict)
    aliases: Annotated[
        dict[str, str],
        Meta(description="Other names (globs allowed, `gpt-4o*`) for a target, a role or `auto`; first match wins."),
    ] = msgspec.field(default_factory=dict)
    chains: Annotated[
        dict[str, list[str]], Meta(description="Ordered targets of a role: the next one takes over when one fails.")
    ] = msgspec.field(default_factory=dict)
    discover: Annotated[
        list[DiscoverEntry] | Literal["auto"],
        Meta(description="Where to look for engines that run already; `auto` asks vLLM on 8000 and Ollama on 11434."),
    ] = "auto"
    deadlines: DeadlineSettings = DeadlineSettings()
    limits: LimitSettings = LimitSettings()
    privacy: PrivacySettings = PrivacySettings()
    store: StoreSettings = StoreSettings()
    profiles: Annotated[
        dict[str, dict[str, Any]], Meta(description="Profiles of your own: each may set what this file may set.")
    ] = msgspec.field(default_factory=dict)

    devices: Annotated[list[dict[str, Any]] | Literal["auto"], Meta(description="Reserved: memory devices.")] = "auto"
    providers: Annotated[dict[str, Any], Meta(description="Reserved: frontier providers.")] = msgspec.field(
        default_factory=dict
    )
    effort: Annotated[dict[str, Any], Meta(description="Reserved: effort bands.")] = msgspec.field(default_factory=dict)
    budget: Annotated[dict[str, Any], Meta(description="Reserved: spending caps.")] = msgspec.field(
        default_factory=dict
    )
    rented: Annotated[dict[str, Any], Meta(description="Reserved: rented GPUs.")] = msgspec.field(default_factory=dict)


RESERVED = ("devices", "providers", "effort", "budget", "rented")
"""Keys of the file's contract that this version reads and checks for shape, but does not act on yet."""
