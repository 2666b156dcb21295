"""A profile as the planner needs it: models with their parts, programs beside them, chains, and the card. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

Place = Literal["card", "memory", "elsewhere"]
"""On the card; in the machine's memory; in a program that is not ours (an Ollama, a server at a URL)."""


class ShapedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a profile.

    Attributes:
        name: The target, ``local/coding``.
        title: For people.
        engine: Which program serves it.
        place: Where it takes memory.
        bytes: What it may take of the card; 0 where nobody knows.
        share: The same as a share of the card, which counts more.
        weights_bytes: Of these, the weights; 0 where nobody knows.
        rest_bytes: Of these, what is neither weights nor cache.
        cache_bytes_per_token: What one token of context takes; 0 where nobody knows.
        context_tokens: The longest request; 0 where nobody knows.
        slots: Requests answered at once.
        is_pinned: Once loaded it stays.
        load_seconds: From cold.
        roles: What it is for.
        quantisation: Of the weights, as the engine calls it.
        file_bytes: Of the weights on the disk, for engines in memory; 0 if they are not there.
    """

    name: str
    title: str
    engine: str
    place: Place
    bytes: int = 0
    share: float | None = None
    weights_bytes: int = 0
    rest_bytes: int = 0
    cache_bytes_per_token: int = 0
    context_tokens: int = 0
    slots: int = 1
    is_pinned: bool = False
    load_seconds: float = 20.0
    roles: tuple[str, ...] = ()
    quantisation: str = ""
    file_bytes: int = 0

    def bytes_on(self, card: Card) -> int:
        """Return what it may take of a card.

        Args:
            card: Whose share it may be.
        """
        return self.bytes if self.share is None else int(self.share * card.total_bytes)

    @property
    def least_bytes(self) -> int:
        """What it cannot start without: weights, the rest, and the cache of one whole request; 0 if nobody knows."""
        if not self.weights_bytes:
            return 0
        return self.weights_bytes + self.rest_bytes + self.cache_bytes_per_token * self.context_tokens


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program beside turnout that takes a lease while it works.

    Attributes:
        name: Its key.
        title: For people.
        bytes: What it takes.
        roles: What it is for.
    """

    name: str
    title: str
    bytes: int
    roles: tuple[str, ...] = ()


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The card that is planned for.

    Attributes:
        total_bytes: All of it.
        headroom_bytes: Never granted to anybody.
        name: For people; empty where it has none.
        id: The device, ``host/gpu0``.
    """

    total_bytes: int
    headroom_bytes: int
    name: str = ""
    id: str = "host/gpu0"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A profile.

    Attributes:
        name: Its name.
        about: In one line.
        models: In the order in which they come onto the card.
        programs: Beside turnout.
        keep_free_bytes: Left to programs, whatever the models want.
        chains: Targets by role, where the profile says so.
        effort: Roles or targets by band of effort.
        card_bytes: The card that it is made for; 0 for any.
        compared_with: Whose figures ``compared`` holds.
        compared_card_bytes: The card that they had; 0 if they speak of GiB only.
        compared: What they give each model: up to 1 a share of that card, above it GiB.
        notes: What else there is to say.
    """

    name: str
    about: str = ""
    models: tuple[ShapedModel, ...] = ()
    programs: tuple[Program, ...] = ()
    keep_free_bytes: int = 0
    chains: dict[str, tuple[str, ...]] = {}
    effort: dict[str, tuple[str, ...]] = {}
    card_bytes: int = 0
    compared_with: str = ""
    compared_card_bytes: int = 0
    compared: dict[str, float] = {}
    notes: tuple[str, ...] = ()
