"""Which card a profile is planned for: one that the user names, one of this machine, or the one it is made for."""

from __future__ import annotations

from typing import NamedTuple

from turnout.cli.profile_words import gib
from turnout.config.schema import Settings
from turnout.core.memory import GIB, Device
from turnout.profiles.shape import Card, Shape
from turnout.tiers.local.devices.base import default_headroom
from turnout.tiers.local.devices.find import choose_readers, found_readers


class ChosenCard(NamedTuple):
    """A card.

    Attributes:
        card: Its memory.
        words: What it is and who said so.
        is_here: Whether it is one of this machine.
    """

    card: Card
    words: str
    is_here: bool


def choose_card(shape: Shape, settings: Settings, vram_gib: float | None) -> ChosenCard:
    """Return the card to plan for.

    Args:
        shape: The profile.
        settings: May name devices.
        vram_gib: As the user wants it.

    Raises:
        SetupError: The configuration names a device that is not here.
    """
    if vram_gib is not None:
        return ChosenCard(a_card(round(vram_gib * GIB)), f"a card of {vram_gib:g} GiB (--vram-gib)", is_here=False)
    cards = [device for device in _devices(settings) if device.kind != "ram"]
    if cards:
        largest = max(cards, key=lambda device: device.total_bytes)
        card = Card(
            total_bytes=largest.total_bytes,
            headroom_bytes=largest.headroom_bytes,
            name=largest.name,
            id=largest.id,
        )
        others = f", the largest of {len(cards)} devices" if len(cards) > 1 else ""
        return ChosenCard(card, f"{largest.id} ({largest.name}, {gib(largest.total_bytes)}{others})", is_here=True)
    if shape.card_bytes:
        words = f"a card of {shape.card_bytes / GIB:g} GiB, for which it is made: no card was found here"
        return ChosenCard(a_card(shape.card_bytes), words, is_here=False)
    return ChosenCard(Card(total_bytes=0, headroom_bytes=0), "this machine, where no card was found", is_here=False)


def a_card(total_bytes: int) -> Card:
    """Return a card with the headroom that the daemon would leave.

    Args:
        total_bytes: Its memory.
    """
    return Card(total_bytes=total_bytes, headroom_bytes=default_headroom("nvidia", total_bytes))


def _devices(settings: Settings) -> list[Device]:
    readers = choose_readers(settings.devices, found_readers(tuple), tuple)
    return [device for reader in readers for device in reader.devices()]
