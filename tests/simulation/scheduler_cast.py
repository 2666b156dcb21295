"""Devices, models and settings of the world in ``scheduler_world.py``: one of each kind, far more than has room."""

from __future__ import annotations

from turnout.core.memory import GIB, HOST_RAM, Device, Model, Size, SleepLevel
from turnout.scheduler.settings import SchedulerSettings

GPU0, GPU1 = "host/gpu0", "host/gpu1"
SETTINGS = SchedulerSettings(
    aging_seconds=10,
    residency_per_load=1.0,
    shortage_seconds=3,
    reading_seconds=8,
    order_seconds=20,
    start_seconds=40,
    failed_seconds=15,
)
RUN_MOST_SECONDS = 30.0
"""No request runs longer, and no order takes longer, unless its end is lost."""
HOLD_MOST_SECONDS = 60.0
"""No foreign program renews for longer."""
CALLERS = 3
FAULT_SECONDS = 150.0
"""What one fault costs those who wait, at most: an order given again, a load done again, a shortage waited for."""


def devices() -> tuple[Device, ...]:
    """Two cards and the machine's memory."""
    return (
        Device(id=GPU0, kind="simulated", total_bytes=24 * GIB, headroom_bytes=2 * GIB),
        Device(id=GPU1, kind="simulated", total_bytes=10 * GIB),
        Device(id=HOST_RAM, kind="ram", total_bytes=40 * GIB, headroom_bytes=8 * GIB),
    )


def models() -> tuple[Model, ...]:
    """One of each kind; together far more than there is."""
    return (
        Model(
            name="local/chat",
            sizes=(Size(devices={GPU0: 12 * GIB}, load_seconds=4),),
            slots=2,
            min_residency_seconds=4,
            queue_limit=12,
            sleep_levels=(
                SleepLevel(level=1, devices={GPU0: GIB, HOST_RAM: 12 * GIB}),
                SleepLevel(level=2, devices={GPU0: GIB // 2, HOST_RAM: GIB}),
            ),
        ),
        Model(
            name="local/reason",
            sizes=(Size(devices={GPU0: 14 * GIB, GPU1: 4 * GIB}, load_seconds=8),),
            slots=1,
            min_residency_seconds=2,
            sleep_levels=(SleepLevel(level=1, devices={GPU0: GIB, GPU1: GIB, HOST_RAM: 18 * GIB}),),
        ),
        Model(
            name="local/elastic",
            sizes=(
                Size(name="6b", devices={GPU0: 5 * GIB}, load_seconds=3, quality=1),
                Size(name="9b", devices={GPU0: 8 * GIB}, load_seconds=4, quality=2),
                Size(name="12b", devices={GPU0: 11 * GIB}, load_seconds=5, quality=3),
            ),
            preferred_size=2,
            lease_class="elastic",
            slots=1,
            resizes_live=True,
            min_residency_seconds=1,
            idle_seconds=30,
        ),
        Model(
            name="local/slices",
            sizes=(
                Size(name="s", devices={GPU1: 3 * GIB}, load_seconds=2, quality=1),
                Size(name="l", devices={GPU1: 6 * GIB}, load_seconds=3, quality=2),
            ),
            preferred_size=1,
            lease_class="elastic",
            slots=None,
            min_residency_seconds=0,
        ),
        Model(
            name="local/image",
            sizes=(Size(devices={GPU0: 16 * GIB}, load_seconds=6),),
            lease_class="job",
            slots=1,
            min_residency_seconds=0,
            idle_seconds=10,
        ),
        Model(
            name="local/embed",
            sizes=(Size(devices={GPU1: 2 * GIB}, load_seconds=1),),
            lease_class="pinned",
            slots=4,
        ),
        Model(
            name="local/hear",
            sizes=(Size(devices={GPU0: 2 * GIB}, load_seconds=1),),
            lease_class="voice",
            slots=1,
            min_residency_seconds=0,
        ),
        Model(
            name="local/speak",
            sizes=(Size(devices={GPU0: 3 * GIB}, load_seconds=1),),
            lease_class="voice",
            slots=1,
            min_residency_seconds=0,
        ),
    )
