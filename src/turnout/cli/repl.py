"""A conversation on a terminal: ``turnout run`` without a prompt. Nothing of it is written to disk."""

from __future__ import annotations

import contextlib

from turnout.cli.failures import fail
from turnout.cli.run import Message, answer
from turnout.cli.terminal import say
from turnout.client import ApiError, Turnout

PROMPT = ">>> "
HELP = "/new begins afresh, /model NAME asks another model, /quit or Ctrl-D ends. Ctrl-C stops an answer."


class Conversation:
    """The loop, and what was said so far.

    Args:
        daemon: Whom to ask.
        model: What to ask for first.
        beginning: Messages that every conversation begins with.
        max_tokens: Limit of each answer.
    """

    def __init__(self, daemon: Turnout, model: str, beginning: list[Message], max_tokens: int | None) -> None:
        self._daemon = daemon
        self._model = model
        self._beginning = beginning
        self._messages = list(beginning)
        self._max_tokens = max_tokens

    def run(self) -> None:
        """Talk until the user has enough.

        Raises:
            DaemonNotReachable: The daemon has gone.
        """
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  gives input() a history and line editing

        say(f"Talking to {self._model}. {HELP}", "dim")
        while True:
            try:
                line = input(PROMPT).strip()
            except EOFError:
                say()
                return
            except KeyboardInterrupt:
                say("\n/quit or Ctrl-D ends", "dim")
                continue
            if line in ("/quit", "/exit", "/bye"):
                return
            if line.startswith("/"):
                self._order(line)
            elif line:
                self._ask(line)

    def _order(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        match word:
            case "/new":
                self._messages = list(self._beginning)
                say("a new conversation", "dim")
            case "/model" if rest.strip():
                self._model = rest.strip()
                say(f"asking {self._model} from now on", "dim")
            case "/model":
                say(f"asking {self._model}", "dim")
            case _:
                say(HELP, "dim")

    def _ask(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        try:
            said = answer(self._daemon, self._messages, self._model, self._max_tokens)
        except ApiError as error:
            fail(error.message, error.hint)
            self._messages.pop()
        except KeyboardInterrupt:
            say("\nstopped", "dim")
            self._messages.pop()  # half an answer would confuse the next one
        else:
            self._messages.append({"role": "assistant", "content": said})
