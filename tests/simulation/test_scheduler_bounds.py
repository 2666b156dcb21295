"""The stated bounds hold; that each story can fail is shown in ``test_scheduler_mutations.py``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simulation.scheduler_bounds import BOUNDS


@pytest.mark.parametrize("story", BOUNDS, ids=lambda story: story.__name__)
def test_the_bound_holds(story: Callable[[], None]) -> None:
    story()
