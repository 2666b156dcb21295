"""What can be set of the scheduler: section ``scheduler:`` of the configuration."""

from __future__ import annotations

from turnout.config.schema import SchedulerSettings

__all__ = ["SchedulerSettings"]
