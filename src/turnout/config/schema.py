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
    queue: Annotated[
        Seconds, Meta(description="Waiting for a turn at a model of ours: room on the devices, its load, a free slot.")
    ] = 600.0
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

    engine: Annotated[
        Literal["ollama", "external", "comfyui"],
        Meta(description="What answers there; `external` knows a vLLM, a llama-server and LM Studio by their answers."),
    ] = "external"
    base_url: Annotated[str, Meta(description="Its address, `http://127.0.0.1:11434` for an Ollama.")]


class DeviceEntry(Section, frozen=True, kw_only=True):
    """One device whose memory models and leases share."""

    id: Annotated[
        str,
        Meta(
            description="`host/gpu0` is the first card, `host/gpu1` the second; `host/ram` is the machine's memory, "
            "which is always there. Other ids name devices that only this file knows.",
            pattern=r"^[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*$",
        ),
    ]
    kind: Annotated[
        Literal["auto", "nvidia", "amd", "simulated", "configured"],
        Meta(
            description="Who reads it. `auto` takes what is found under this id. `simulated` is invented, for trying "
            "things out. `configured` is a device whose use nobody can measure."
        ),
    ] = "auto"
    vram_gib: Annotated[
        Annotated[float, Meta(gt=0, le=65_536)] | None,
        Meta(description="Its memory; of a found device, how much may be used. `simulated` and `configured` need it."),
    ] = None
    headroom_gib: Annotated[
        Annotated[float, Meta(ge=0, le=65_536)] | None,
        Meta(
            description="Never granted to anybody: driver contexts, the desktop, surprises. If left out: a sixteenth "
            "of a card and at least 0.5 GiB, an eighth of the machine's memory and at most 4 GiB, nothing of a "
            "simulated device."
        ),
    ] = None


class SchedulerSettings(Section, frozen=True, kw_only=True):
    """How the memory of the devices is shared."""

    aging_seconds: Annotated[
        Seconds,
        Meta(
            description="A waiting request or lease moves up one priority each time it has waited this many seconds: "
            "background, normal, interactive, overdue. Overdue ones force a model that keeps the room to make way."
        ),
    ] = 25.0
    residency_per_load: Annotated[
        float,
        Meta(
            ge=0,
            description="A busy model keeps its room at least this many times as long as its load took (and at least "
            "its own `min_residency_seconds`), so that loading never takes most of the time.",
        ),
    ] = 3.0
    linger_per_load: Annotated[
        float,
        Meta(
            ge=0,
            description="An idle model that other callers use often is left where it is until those who want its room "
            "have waited for as long as moving it would cost those callers, and at most for this many times as long "
            "as it takes to get it back (twice that for lower priorities, 16 times for jobs and leases). 0 moves it "
            "at once.",
        ),
    ] = 0.5
    patience_steps: Annotated[
        float,
        Meta(
            ge=0,
            description="For so many steps of age after its bound a waiter still lets busy models finish rather than "
            "have an idle one moved that others use often.",
        ),
    ] = 1.0
    starts_at_once_per_device: Annotated[
        Count,
        Meta(
            description="Workers that may load, wake or change their size on one device at the same moment. Engines "
            "that measure free memory while they start (vLLM) need 1. The machine's own memory has no such limit."
        ),
    ] = 1
    voice_slot: Annotated[
        bool,
        Meta(
            description="Set room aside for the largest model of class `voice`, so that a voice request starts "
            "although jobs and other models fill the device."
        ),
    ] = True
    shortage_seconds: Annotated[
        Seconds,
        Meta(
            description="How long a grant that the leases allow waits for memory that is measured as used, before idle "
            "workers are put away for it, a smaller size is chosen, and at last it is refused."
        ),
    ] = 5.0
    reading_seconds: Annotated[
        Seconds, Meta(description="How long a measurement of memory counts; an older one delays nothing.")
    ] = 15.0
    order_seconds: Annotated[
        Seconds,
        Meta(
            description="A stop, sleep, wake or change of size without an end is ordered again after this many "
            "seconds. Its memory stays counted."
        ),
    ] = 60.0
    start_seconds: Annotated[
        Seconds, Meta(description="A start without an end is ordered again after this many seconds.")
    ] = 900.0
    failed_seconds: Annotated[
        Seconds,
        Meta(
            description="After a failure that only a person can mend, requests for the model are refused at once for "
            "this many seconds; the first one after that tries again."
        ),
    ] = 60.0
    reuse_seconds: Annotated[
        Seconds,
        Meta(
            description="How far ahead eviction looks: the price of moving a model is the seconds to get it back times "
            "how often it is likely to be wanted within this many seconds."
        ),
    ] = 240.0
    rate_seconds: Annotated[
        Seconds, Meta(description="Over how many seconds the rate of requests for a model is averaged.")
    ] = 600.0


class ProgramEntry(Section, frozen=True, kw_only=True):
    """A program beside turnout that takes memory of the card by a lease."""

    title: Annotated[str, Meta(description="What it is, for people.")]
    vram_gib: Annotated[float, Meta(gt=0, description="How much it takes while it works.")]
    roles: Annotated[list[str], Meta(description="What it is for.")] = msgspec.field(default_factory=list)


class ShapeSettings(Section, frozen=True, kw_only=True):
    """What a profile is made for. Only `turnout profile` reads it: the daemon shares the devices that there are."""

    about: Annotated[str, Meta(description="The profile in one line.")] = ""
    card_gib: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="The card that the profile is made for; `turnout profile plan` takes it where there is none."),
    ] = None
    keep_free_gib: Annotated[
        float, Meta(ge=0, description="Of the card, for programs beside turnout; no model of the profile may need it.")
    ] = 0.0
    programs: Annotated[
        dict[str, ProgramEntry], Meta(description="Programs beside turnout that are to find room on the card.")
    ] = msgspec.field(default_factory=dict)
    compared_with: Annotated[str, Meta(description="Where the figures under `compared` are from.")] = ""
    compared_card_gib: Annotated[float, Meta(ge=0, description="The card that their shares are of.")] = 0.0
    compared: Annotated[
        dict[str, Annotated[float, Meta(gt=0)]],
        Meta(
            description="How much of the card somebody else gave each model: up to 1 a share, above it GiB. The plan "
            "says what differs, and why."
        ),
    ] = msgspec.field(default_factory=dict)
    notes: Annotated[list[str], Meta(description="What else the plan is to say.")] = msgspec.field(default_factory=list)


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    profile: Annotated[
        str,
        Meta(
            description="A named shape of this machine: one that `turnout profile list` shows, or one under `profiles`."
        ),
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
        Meta(
            description="Where to look for engines that run already; `auto` asks the usual ports of vLLM (8000), "
            "llama-server (8080), Ollama (11434), LM Studio (1234) and ComfyUI (8188)."
        ),
    ] = "auto"
    devices: Annotated[
        list[DeviceEntry] | Literal["auto"],
        Meta(
            description="The memory that models and leases share; `auto` takes every card that is found, and the "
            "machine's own memory. A list replaces what would be found."
        ),
    ] = "auto"
    scheduler: SchedulerSettings = SchedulerSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    limits: LimitSettings = LimitSettings()
    privacy: PrivacySettings = PrivacySettings()
    store: StoreSettings = StoreSettings()
    profiles: Annotated[
        dict[str, dict[str, Any]],
        Meta(
            description="Profiles of your own: each may set what this file may set, and `extends: NAME` another one. "
            "An entry that is `null` takes away what the other one has."
        ),
    ] = msgspec.field(default_factory=dict)
    shape: ShapeSettings = ShapeSettings()

    providers: Annotated[dict[str, Any], Meta(description="Reserved: frontier providers.")] = msgspec.field(
        default_factory=dict
    )
    effort: Annotated[dict[str, Any], Meta(description="Reserved: effort bands.")] = msgspec.field(default_factory=dict)
    budget: Annotated[dict[str, Any], Meta(description="Reserved: spending caps.")] = msgspec.field(
        default_factory=dict
    )
    rented: Annotated[dict[str, Any], Meta(description="Reserved: rented GPUs.")] = msgspec.field(default_factory=dict)


RESERVED = ("providers", "effort", "budget", "rented")
"""Keys of the file's contract that this version reads and checks for shape, but does not act on yet."""
