"""Invented workloads: a small YAML file of streams, each with what it asks for, when, and how much.

No trace of a workstation (chat, reasoning, voice, pictures and meshes on one card) was found in the open, so this is
how to write one down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Annotated

from msgspec import Meta

from turnout.config.document import Document
from turnout.core.memory import GIB, LeaseClass, Priority
from turnout.simulate.checked import Amount, Count, Form, Seconds, check, problem
from turnout.simulate.profile import Profile
from turnout.simulate.traces.arrivals import Arrivals, ArrivalsBuilder, LeaseShape

NORMAL_P95 = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""


class Spread(Form, frozen=True, kw_only=True):
    """How an amount varies: evenly from ``least`` to ``most``, or log-normal with a median and a 95th percentile."""

    least: Amount | None = None
    most: Amount | None = None
    median: Seconds | None = None
    p95: Seconds | None = None


class ArrivalForm(Form, frozen=True, kw_only=True):
    """When a stream asks: ``per_minute`` at random, ``every_seconds`` on the beat, ``burst`` of them at each beat."""

    per_minute: Seconds | None = None
    every_seconds: Seconds | None = None
    burst: Count = 1
    start_seconds: Amount = 0.0
    end_seconds: Seconds | None = None


class LeaseForm(Form, frozen=True, kw_only=True, rename={"lease_class": "class"}):
    """The memory that a foreign program asks for."""

    gib: Seconds
    holder: str = ""
    lease_class: LeaseClass = "job"
    device: str = ""


class StreamForm(Form, frozen=True, kw_only=True):
    """One stream: requests to a role or a model, or leases of a foreign program."""

    role: str = ""
    model: str = ""
    lease: LeaseForm | None = None
    priority: Priority = "normal"
    callers: Count = 1
    arrivals: ArrivalForm
    prompt_tokens: Annotated[int, Meta(ge=0)] | Spread = 1000
    answer_tokens: Annotated[int, Meta(ge=0)] | Spread = 200
    seconds: Amount | Spread | None = None
    patience_seconds: Seconds | None = None


class WorkloadForm(Form, frozen=True, kw_only=True):
    """The whole file."""

    about: str = ""
    duration_seconds: Seconds
    streams: dict[str, StreamForm]


def read_workload(document: Document, name: str, profile: Profile, seed: int, rate: float) -> Arrivals:
    """Return the arrivals of a workload.

    Args:
        document: The YAML.
        name: What it is called.
        profile: Whose models shall serve them.
        seed: The same seed, the same arrivals.
        rate: How many times as fast as written they arrive.

    Raises:
        SetupError: With file, line and path of what is wrong.
    """
    form = check(document, WorkloadForm)
    builder = ArrivalsBuilder(profile, name)
    for key, stream in form.streams.items():
        target, role = _target(key, stream, document, builder, profile)
        # A stream draws from numbers of its own: another stream more or less changes nothing about it.
        random = Random(f"{key} {seed}")  # noqa: S311  a simulation
        prompt, answer = _drawer(stream.prompt_tokens, random), _drawer(stream.answer_tokens, random)
        seconds = None if stream.seconds is None else _drawer(stream.seconds, random)
        for number, at in enumerate(_moments(stream.arrivals, form.duration_seconds, random)):
            caller = f"{key} {number % stream.callers + 1}"
            if seconds is not None:
                builder.add_work(at, target, role, stream.priority, caller, seconds(), stream.patience_seconds)
            else:
                tokens = round(prompt()), round(answer())
                builder.add_request(at, target, role, stream.priority, caller, *tokens, stream.patience_seconds)
    if not len(builder):
        raise problem(document, ("streams",), "nothing arrives within duration_seconds")
    return builder.build(rate)


def _target(
    key: str, stream: StreamForm, document: Document, builder: ArrivalsBuilder, profile: Profile
) -> tuple[int, str]:
    path = ("streams", key)
    if sum((bool(stream.role), bool(stream.model), stream.lease is not None)) != 1:
        raise problem(document, path, "a stream names one of role, model and lease")
    arrivals = stream.arrivals
    if (arrivals.per_minute is None) == (arrivals.every_seconds is None):
        raise problem(document, (*path, "arrivals"), "arrivals name one of per_minute and every_seconds")
    for name in ("prompt_tokens", "answer_tokens", "seconds"):
        if isinstance(spread := getattr(stream, name), Spread) and (told := _objection(spread)):
            raise problem(document, (*path, name), told)
    if (lease := stream.lease) is not None:
        if stream.seconds is None:
            raise problem(document, path, "a stream of leases says how many seconds each is held")
        device = lease.device or profile.devices[0].id
        if device not in {known.id for known in profile.devices}:
            raise problem(document, (*path, "lease", "device"), f"profile {profile.name!r} has no device {device!r}")
        shape = LeaseShape(
            holder=lease.holder or key, devices={device: round(lease.gib * GIB)}, lease_class=lease.lease_class
        )
        return builder.add_lease_shape(shape), key
    wanted = stream.role or stream.model
    if (index := profile.model_index(wanted)) is None:
        known = sorted({role for entry in profile.models for role in (*entry.roles, entry.model.name)})
        raise problem(
            document,
            (*path, "role" if stream.role else "model"),
            f"profile {profile.name!r} has no model for {wanted!r}",
            hint=f"it knows {', '.join(known)}",
        )
    return index, stream.role or (profile.models[index].roles or (key,))[0]


def _objection(spread: Spread) -> str:
    is_even = spread.least is not None and spread.most is not None and spread.least <= spread.most
    is_normal = spread.median is not None and spread.p95 is not None and spread.median <= spread.p95
    given = sum(value is not None for value in (spread.least, spread.most, spread.median, spread.p95))
    return "" if given == 2 and (is_even or is_normal) else "expected {least, most} or {median, p95}, the smaller first"


def _drawer(amount: float | Spread, random: Random) -> Callable[[], float]:
    if not isinstance(amount, Spread):
        return lambda: float(amount)
    if amount.least is not None and amount.most is not None:
        least, most = amount.least, amount.most
        return lambda: random.uniform(least, most)
    assert amount.median is not None
    assert amount.p95 is not None
    mean, deviation = math.log(amount.median), math.log(amount.p95 / amount.median) / NORMAL_P95
    # The tail ends at four times the p95: one answer of a million tokens would be an accident of the formula.
    most = 4 * amount.p95
    return lambda: min(random.lognormvariate(mean, deviation), most)


def _moments(arrivals: ArrivalForm, duration: float, random: Random) -> Iterator[float]:
    end = min(duration, arrivals.end_seconds or duration)
    at = arrivals.start_seconds
    if arrivals.per_minute is not None:
        at += random.expovariate(arrivals.per_minute / 60)
    while at < end:
        for _ in range(arrivals.burst):
            yield at
        if arrivals.per_minute is not None:
            at += random.expovariate(arrivals.per_minute / 60)
        else:
            at += arrivals.every_seconds or duration
