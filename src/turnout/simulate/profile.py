"""What there is: a card, the models that want to be on it, who asks for what, and how long people wait.

A footprint is computed where its parts are given: weights + KV cache + the rest. The KV cache of a token is
``kv_values_per_token`` numbers of 16 bits: 2 x layers x KV heads x head size for ordinary attention (each layer keeps a
key and a value for each head), layers x (latent rank + rotary part) for multi-head latent attention (arXiv 2405.04434).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from turnout.config.document import Document
from turnout.core.memory import GIB, PRIORITIES, Device, LeaseClass, Model, Priority, Size, SleepLevel
from turnout.simulate.checked import Amount, Count, Form, Seconds, check, problem
from turnout.tiers.local.timing import TimingModel

KV_BYTES_PER_VALUE = 2
PATIENCE_SECONDS: dict[Priority, float] = {"interactive": 120.0, "normal": 600.0, "background": 3600.0}
"""How long somebody waits for the begin of the work before giving up, unless the profile or the workload says."""
STOP_SECONDS = 1.0
"""From the order to stop a worker until its memory is free; drivers need 0.5 to 1.5 s (ollama, ``server/sched.go``)."""


class DeviceForm(Form, frozen=True, kw_only=True):
    """One device of a profile."""

    id: str = "host/gpu0"
    kind: str = "simulated"
    name: str = ""
    vram_gib: Amount
    headroom_gib: Amount = 0.0


class SleepForm(Form, frozen=True, kw_only=True):
    """One way of sleeping."""

    level: Count = 1
    residual_gib: Amount = 0.0
    ram_gib: Amount = 0.0
    sleep_seconds: Seconds = 1.0
    wake_seconds: Seconds = 2.0


class ModelForm(Form, frozen=True, kw_only=True, rename={"lease_class": "class"}):
    """One model of a profile. Its footprint is ``vram_gib``, or the sum of its parts."""

    title: str = ""
    roles: tuple[str, ...] = ()
    vram_gib: Amount | None = None
    weights_gib: Amount = 0.0
    kv_values_per_token: Annotated[int, Meta(ge=0)] = 0
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    overhead_gib: Amount = 0.0
    load_seconds: Amount = 10.0
    tokens_per_second: Seconds = 60.0
    prompt_tokens_per_second: Seconds = 2000.0
    first_token_seconds: Amount = 0.0
    slots: Count = 8
    queue_limit: Count = 512
    lease_class: LeaseClass = "resident"
    min_residency_seconds: Amount = 10.0
    idle_seconds: Seconds | None = None
    sleep: tuple[SleepForm, ...] = ()
    device: str = ""

    def footprint_bytes(self) -> int:
        """Return the bytes that the model holds while it is ready."""
        if self.vram_gib is not None:
            return round(self.vram_gib * GIB)
        kv_bytes = self.kv_values_per_token * KV_BYTES_PER_VALUE * self.context_tokens
        return round((self.weights_gib + self.overhead_gib) * GIB) + kv_bytes


class MixForm(Form, frozen=True, kw_only=True):
    """One kind of caller: what they ask for, how often, and how urgently."""

    role: str
    share: Amount = 1.0
    priorities: dict[Priority, Amount] = msgspec.field(default_factory=lambda: {"normal": 1.0})
    callers: Count = 1


class ProfileForm(Form, frozen=True, kw_only=True):
    """A simulation profile as it is written."""

    about: str = ""
    devices: tuple[DeviceForm, ...]
    models: dict[str, ModelForm]
    mix: tuple[MixForm, ...] = ()
    patience_seconds: dict[Priority, Seconds] = msgspec.field(default_factory=dict)
    stop_seconds: Amount = STOP_SECONDS


class SimulatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the simulator needs it.

    Attributes:
        model: As a scheduler sees it.
        timing: How fast it is.
        roles: What it is for.
        title: What it is called, for people.
    """

    model: Model
    timing: TimingModel
    roles: tuple[str, ...] = ()
    title: str = ""

    @property
    def bytes(self) -> int:
        """Memory on all devices together, in the preferred size."""
        return sum(self.model.sizes[self.model.preferred_size].devices.values())


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What there is.

    Attributes:
        name: As it was asked for.
        devices: The memory to share.
        models: What may be on it.
        mix: Who asks, where a trace does not say.
        patience_seconds: How long a request waits for its begin, by priority.
        stop_seconds: From an order to stop until the memory is free.
        about: In words.
    """

    name: str
    devices: tuple[Device, ...]
    models: tuple[SimulatedModel, ...]
    mix: tuple[MixForm, ...]
    patience_seconds: Mapping[Priority, float]
    stop_seconds: float = STOP_SECONDS
    about: str = ""

    @property
    def usable_bytes(self) -> int:
        """What may be granted, on all devices together."""
        return sum(device.total_bytes - device.headroom_bytes for device in self.devices)

    def model_index(self, wanted: str) -> int | None:
        """Return which model serves a role, a target or a key of the profile; None if none does.

        Args:
            wanted: ``coding``, ``local/coder`` or ``coder``.
        """
        names = [entry.model.name for entry in self.models]
        for name in (wanted, f"local/{wanted}"):
            if name in names:
                return names.index(name)
        return next((index for index, entry in enumerate(self.models) if wanted in entry.roles), None)

    def with_vram(self, vram_gib: float) -> Profile:
        """Return the same with another size of the first device; its headroom stays.

        Args:
            vram_gib: All of it.
        """
        first = msgspec.structs.replace(self.devices[0], total_bytes=round(vram_gib * GIB))
        return msgspec.structs.replace(self, devices=(first, *self.devices[1:]))


def parse_profile(document: Document, name: str) -> Profile:
    """Return a simulation profile.

    Args:
        document: The YAML.
        name: What it is called.

    Raises:
        SetupError: With file, line and path of what is wrong.
    """
    form = check(document, ProfileForm)
    if not form.devices:
        raise problem(document, ("devices",), "at least one device is needed")
    if not form.models:
        raise problem(document, ("models",), "at least one model is needed")
    devices = tuple(_device(entry) for entry in form.devices)
    known = {device.id for device in devices}
    for key, entry in form.models.items():
        if entry.device and entry.device not in known:
            raise problem(document, ("models", key, "device"), f"there is no device {entry.device!r}")
        if entry.footprint_bytes() <= 0:
            raise problem(document, ("models", key), "a footprint is needed: vram_gib, or weights_gib and its parts")
    profile = Profile(
        name=name,
        devices=devices,
        models=tuple(_model(key, entry, devices[0].id) for key, entry in form.models.items()),
        mix=form.mix,
        patience_seconds=PATIENCE_SECONDS | form.patience_seconds,
        stop_seconds=form.stop_seconds,
        about=form.about,
    )
    for index, mix in enumerate(form.mix):
        if profile.model_index(mix.role) is None:
            raise problem(document, ("mix", index, "role"), f"no model has the role {mix.role!r}")
        if not sum(mix.priorities.values()):
            raise problem(document, ("mix", index, "priorities"), "at least one weight above 0 is needed")
    return profile if form.mix else msgspec.structs.replace(profile, mix=default_mix(profile.models))


def default_mix(models: tuple[SimulatedModel, ...]) -> tuple[MixForm, ...]:
    """Return a mix for models of which nobody said who asks for them: all alike, mostly by people.

    Args:
        models: Each is asked for under its first role, or its name.
    """
    priorities: dict[Priority, float] = dict(zip(PRIORITIES, (0.6, 0.3, 0.1), strict=True))
    wanted = dict.fromkeys(entry.roles[0] if entry.roles else entry.model.name for entry in models)
    return tuple(MixForm(role=role, priorities=priorities, callers=2) for role in wanted)


def _device(form: DeviceForm) -> Device:
    return Device(
        id=form.id,
        kind="simulated",
        total_bytes=round(form.vram_gib * GIB),
        headroom_bytes=round(form.headroom_gib * GIB),
        name=form.name,
    )


def _model(key: str, form: ModelForm, device: str) -> SimulatedModel:
    device = form.device or device
    return SimulatedModel(
        model=Model(
            name=f"local/{key}",
            sizes=(Size(devices={device: form.footprint_bytes()}, load_seconds=form.load_seconds),),
            lease_class=form.lease_class,
            slots=form.slots,
            queue_limit=form.queue_limit,
            min_residency_seconds=form.min_residency_seconds,
            idle_seconds=form.idle_seconds,
            sleep_levels=tuple(_sleep_level(level, device) for level in form.sleep),
        ),
        timing=TimingModel(
            load_seconds=form.load_seconds,
            tokens_per_second=form.tokens_per_second,
            prompt_tokens_per_second=form.prompt_tokens_per_second,
            slots=form.slots,
            first_token_seconds=form.first_token_seconds,
        ),
        roles=form.roles,
        title=form.title or key,
    )


def _sleep_level(form: SleepForm, device: str) -> SleepLevel:
    held = {device: round(form.residual_gib * GIB), "host/ram": round(form.ram_gib * GIB)}
    return SleepLevel(
        level=form.level,
        devices={id_: amount for id_, amount in held.items() if amount},
        sleep_seconds=form.sleep_seconds,
        wake_seconds=form.wake_seconds,
    )
