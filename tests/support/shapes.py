"""Profiles and cards for tests of the planner; each names only what its test is about."""

from __future__ import annotations

from typing import Any

from turnout.core.memory import GIB
from turnout.profiles.shape import Card, Program, Shape, ShapedModel


def a_model(name: str, gib: float, **given: Any) -> ShapedModel:
    """Return a model that takes some GiB of the card and loads in 20 s."""
    facts = {"title": name, "engine": "vllm", "place": "card", **given}
    return ShapedModel(name=f"local/{name}", bytes=round(gib * GIB), **facts)


def a_program(name: str, gib: float) -> Program:
    """Return a program beside turnout."""
    return Program(name=name, title=name, bytes=round(gib * GIB))


def a_shape(*models: ShapedModel, **given: Any) -> Shape:
    """Return a profile of some models."""
    return Shape(name="mine", models=models, **given)


def a_card_of(gib: float, headroom_gib: float = 0.0) -> Card:
    """Return a card."""
    return Card(total_bytes=round(gib * GIB), headroom_bytes=round(headroom_gib * GIB))
