"""Pulling a model with something to look at: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turnout.cli.terminal import is_terminal, say, spell_bytes
from turnout.core.clock import Clock, SystemClock
from turnout.tiers.local.weights.pull import pull
from turnout.tiers.local.weights.source import PulledModel, PullProgress, Source

LINE_SECONDS = 5.0
LABEL_COLUMNS = 32
"""So that the bar has room on a terminal of 80 columns."""


def pull_shown(source: Source, data_dir: Path, name: str = "") -> PulledModel:
    """Pull a model and show how far it is, on stderr.

    Args:
        source: Where from.
        data_dir: The directory that holds ``models/``.
        name: Its name in the store; empty: the source's own.

    Raises:
        SetupError: Nothing was pulled.
    """
    if not is_terminal(sys.stderr):
        return asyncio.run(pull(source, data_dir, LineProgress(source.text, SystemClock(), say), name=name))
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    label = escape(_shortened(source.text))
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def show(progress: PullProgress) -> None:
            bar.update(
                task,
                description=f"{progress.stage} {label}",
                total=progress.bytes_total,
                completed=progress.bytes_done,
            )

        return asyncio.run(pull(source, data_dir, show, name=name))


def _shortened(text: str) -> str:
    return text if len(text) <= LABEL_COLUMNS else "…" + text[1 - LABEL_COLUMNS :]


class LineProgress:
    """Says a line when a stage begins, and every ``LINE_SECONDS`` while it lasts.

    Args:
        what: The source, as the user wrote it.
        clock: For the seconds.
        tell: Takes the lines.
    """

    def __init__(self, what: str, clock: Clock, tell: Callable[[str], Any]) -> None:
        self._what = what
        self._clock = clock
        self._tell = tell
        self._stage = ""
        self._told_at = 0.0

    def __call__(self, progress: PullProgress) -> None:
        """Take the next news."""
        now = self._clock.monotonic_seconds()
        if progress.stage == "done" or (progress.stage == self._stage and now - self._told_at < LINE_SECONDS):
            return
        self._stage, self._told_at = progress.stage, now
        of = f" of {spell_bytes(progress.bytes_total)}" if progress.bytes_total else ""
        amount = f" {spell_bytes(progress.bytes_done)}{of}" if progress.bytes_done or of else ""
        self._tell(f"{self._what}: {progress.stage}{amount}")
