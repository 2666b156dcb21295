"""What a profile means on a card: who is there together, who changes places with whom, who does not fit. Pure.

Models come onto the card in the order of the profile, the pinned ones first. Who makes way for somebody is the set that
is back soonest: the daemon weighs how often each is asked as well, which no plan can know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Literal

import msgspec

from turnout.core.memory import GIB
from turnout.profiles.shape import Card, Program, Shape, ShapedModel

STOP_SECONDS = 1.0
"""From the order to stop a worker until its memory is free; drivers need 0.5 to 1.5 s (ollama, ``server/sched.go``)."""
TOKENS_STEP = 256
LEAST_TOKENS = 2048
"""A context below that is no help to anybody."""
MOST_COMBINED = 12
"""With more models than that beside the pinned ones, not every set is looked at: there are 4,096 of them then."""

Verdict = Literal["stays", "beside", "swaps", "too_large", "no_room", "small_share", "unknown", "memory", "elsewhere"]
"""stays: pinned. beside: there with all that come before it. swaps: others make way. too_large: larger than the room.
no_room: the pinned ones leave too little. small_share: what it may take does not hold weights and one request. unknown:
nobody says how much it takes. memory and elsewhere: it takes nothing of the card."""
ON_CARD: tuple[Verdict, ...] = ("stays", "beside", "swaps")


class ModelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one model.

    Attributes:
        model: Which.
        verdict: What.
        bytes: What it takes of this card.
        makes_way: Who is put away for it, where it swaps.
        seconds: From the wish until it is ready.
        room_bytes: What there would be for it, where it does not fit; tenths of GiB.
        fitting_tokens: The longest context with which it would fit there; 0 if none is worth it.
        cache_tokens: How many tokens its cache holds, for all requests together.
    """

    model: ShapedModel
    verdict: Verdict
    bytes: int = 0
    makes_way: tuple[str, ...] = ()
    seconds: float = 0.0
    room_bytes: int = 0
    fitting_tokens: int = 0
    cache_tokens: int = 0


class ProgramPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What has to happen for a program beside turnout.

    Attributes:
        program: Which.
        fits: Whether the card can hold it beside what is pinned.
        makes_way: Who is put away for it.
        room_bytes: The most that it could have.
        seconds: How long until those who made way are back.
    """

    program: Program
    fits: bool
    makes_way: tuple[str, ...] = ()
    room_bytes: int = 0
    seconds: float = 0.0


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody else's figure for a model, beside ours.

    Attributes:
        name: The target.
        theirs_bytes: What they gave it.
        theirs_share: The same as a share of their card, where they said it so.
        ours_bytes: What it takes here.
        weights_bytes: Its weights alone; 0 where nobody knows.
        theirs_tokens: How many tokens of context their figure would leave.
        ours_tokens: The same for ours.
    """

    name: str
    theirs_bytes: int
    theirs_share: float | None
    ours_bytes: int
    weights_bytes: int
    theirs_tokens: int
    ours_tokens: int


class CardPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan.

    Attributes:
        shape: For what.
        card: On what.
        room_bytes: What the models may share.
        wanted_bytes: What they want together.
        models: What becomes of each.
        groups: The sets that are there together; none of them could be larger.
        programs: What has to happen for each.
        compared: Other people's figures.
    """

    shape: Shape
    card: Card
    room_bytes: int
    wanted_bytes: int
    models: tuple[ModelPlan, ...]
    groups: tuple[tuple[str, ...], ...]
    programs: tuple[ProgramPlan, ...]
    compared: tuple[Compared, ...]

    @property
    def fits(self) -> bool:
        """Whether every model of the profile can be on the card at some time."""
        return all(entry.verdict in (*ON_CARD, "memory", "elsewhere") for entry in self.models)

    def bytes_of(self, names: Iterable[str]) -> int:
        """Return what some models take together.

        Args:
            names: Targets.
        """
        wanted = set(names)
        return sum(entry.bytes for entry in self.models if entry.model.name in wanted)


def plan_card(shape: Shape, card: Card) -> CardPlan:
    """Plan a profile for a card.

    Args:
        shape: The profile.
        card: The card.
    """
    grantable = max(0, card.total_bytes - card.headroom_bytes)
    room = max(0, grantable - shape.keep_free_bytes)
    models = _judge(shape.models, card, room)
    there = [entry for entry in models if entry.verdict in ("stays", "beside")]
    models = tuple(_with_swap(entry, there, room) if entry.verdict == "swaps" else entry for entry in models)
    return CardPlan(
        shape=shape,
        card=card,
        room_bytes=room,
        wanted_bytes=sum(entry.bytes for entry in models),
        models=models,
        groups=tuple(_groups(models, room)),
        programs=tuple(_place(program, there, grantable) for program in shape.programs),
        compared=tuple(_compare(shape, models)),
    )


def _judge(models: Sequence[ShapedModel], card: Card, room: int) -> tuple[ModelPlan, ...]:
    """Say of each model whether it stays, is there beside those before it, swaps, or does not fit."""
    verdicts: dict[str, ModelPlan] = {}
    taken = 0
    for model in (entry for entry in models if entry.is_pinned):
        verdicts[model.name] = entry = _alone(model, card, room, taken)
        taken += entry.bytes if entry.verdict == "stays" else 0
    pinned = taken
    for model in (entry for entry in models if not entry.is_pinned):
        entry = _alone(model, card, room, pinned)
        if entry.verdict == "stays":
            is_beside = taken + entry.bytes <= room
            taken += entry.bytes if is_beside else 0
            entry = msgspec.structs.replace(entry, verdict="beside" if is_beside else "swaps")
        verdicts[model.name] = entry
    return tuple(verdicts[model.name] for model in models)


def _alone(model: ShapedModel, card: Card, room: int, taken: int) -> ModelPlan:
    """Say whether a model fits beside what is taken; if so, as if it stayed."""
    if model.place != "card":
        return ModelPlan(model=model, verdict=model.place)
    wants = model.bytes_on(card)
    left = max(0, room - taken)
    verdict: Verdict = "stays"
    if not wants:
        return ModelPlan(model=model, verdict="unknown")
    if wants < model.least_bytes:
        verdict, left = "small_share", min(wants, left)
    elif wants > room:
        verdict = "too_large"
    elif wants > left:
        verdict = "no_room"
    plan = ModelPlan(model=model, verdict=verdict, bytes=wants, seconds=model.load_seconds)
    if verdict == "stays":
        return msgspec.structs.replace(plan, cache_tokens=tokens_in(model, wants))
    left = left * 10 // GIB * GIB // 10  # as people write it: 7.5 GiB
    tokens = min(tokens_in(model, left) // TOKENS_STEP * TOKENS_STEP, model.context_tokens)
    return msgspec.structs.replace(plan, room_bytes=left, fitting_tokens=tokens if tokens >= LEAST_TOKENS else 0)


def tokens_in(model: ShapedModel, granted: int) -> int:
    """Return how many tokens of cache are left in some memory beside the weights and the rest.

    Args:
        model: Whose.
        granted: All that it has.
    """
    if not model.cache_bytes_per_token or not model.weights_bytes:
        return 0
    return max(0, granted - model.weights_bytes - model.rest_bytes) // model.cache_bytes_per_token


def _with_swap(entry: ModelPlan, there: Sequence[ModelPlan], room: int) -> ModelPlan:
    gone = _cheapest(there, sum(other.bytes for other in there) + entry.bytes - room)
    return msgspec.structs.replace(
        entry,
        makes_way=tuple(other.model.name for other in gone),
        seconds=entry.model.load_seconds + (STOP_SECONDS if gone else 0.0),
    )


def _cheapest(there: Sequence[ModelPlan], missing: int) -> tuple[ModelPlan, ...]:
    """Return whom to put away for some bytes: whoever is back soonest, and of these the fewest."""
    movable = [entry for entry in there if entry.verdict == "beside"]
    if missing <= 0:
        return ()
    sets = (
        (chosen for count in range(1, len(movable) + 1) for chosen in combinations(movable, count))
        if len(movable) <= MOST_COMBINED
        else (tuple(movable[-count:]) for count in range(1, len(movable) + 1))
    )
    enough = (chosen for chosen in sets if sum(entry.bytes for entry in chosen) >= missing)
    return min(enough, key=lambda chosen: (sum(entry.model.load_seconds for entry in chosen), len(chosen)), default=())


def _groups(models: Sequence[ModelPlan], room: int) -> Iterator[tuple[str, ...]]:
    """Yield every largest set that is there together, the one that comes by itself first."""
    pinned = [entry for entry in models if entry.verdict == "stays"]
    others = [entry for entry in models if entry.verdict in ("beside", "swaps")]
    first = {entry.model.name for entry in models if entry.verdict in ("stays", "beside")}
    left = room - sum(entry.bytes for entry in pinned)
    found: list[set[str]] = [first] if first else []
    if len(others) <= MOST_COMBINED:
        for count in range(len(others), 0, -1):
            for chosen in combinations(others, count):
                names = {entry.model.name for entry in (*pinned, *chosen)}
                if sum(entry.bytes for entry in chosen) <= left and not any(names <= other for other in found):
                    found.append(names)
    for names in found:
        yield tuple(entry.model.name for entry in models if entry.model.name in names)


def _place(program: Program, there: Sequence[ModelPlan], grantable: int) -> ProgramPlan:
    pinned = sum(entry.bytes for entry in there if entry.verdict == "stays")
    most = max(0, grantable - pinned)
    if program.bytes > most:
        return ProgramPlan(program=program, fits=False, room_bytes=most)
    gone = _cheapest(there, sum(entry.bytes for entry in there) + program.bytes - grantable)
    return ProgramPlan(
        program=program,
        fits=True,
        makes_way=tuple(entry.model.name for entry in gone),
        room_bytes=most,
        seconds=max((entry.model.load_seconds for entry in gone), default=0.0),
    )


def _compare(shape: Shape, models: Sequence[ModelPlan]) -> Iterator[Compared]:
    for entry in models:
        said = shape.compared.get(entry.model.name)
        if said is not None:
            share = said if said <= 1 else None
            theirs = round(said * shape.compared_card_bytes) if share is not None else round(said * GIB)
            yield Compared(
                name=entry.model.name,
                theirs_bytes=theirs,
                theirs_share=share,
                ours_bytes=entry.bytes,
                weights_bytes=entry.model.weights_bytes,
                theirs_tokens=tokens_in(entry.model, theirs),
                ours_tokens=tokens_in(entry.model, entry.bytes),
            )


def leaving(plan: CardPlan, holders: Iterable[str]) -> tuple[str, ...]:
    """Return who of those on the card now has no place in a plan.

    Args:
        plan: The plan.
        holders: Targets that hold memory of the card now.
    """
    there = {entry.model.name for entry in plan.models if entry.verdict in ON_CARD}
    return tuple(name for name in holders if name not in there)
