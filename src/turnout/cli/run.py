"""``turnout run``: ask a model and see its answer appear; without a prompt, talk to it."""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from turnout.cli.daemon import find_daemon
from turnout.cli.options import ConfigOption, UrlOption, given, new_app
from turnout.cli.terminal import is_terminal, printable, put_json, say
from turnout.client import AnswerFacts, ChatStream, Turnout
from turnout.core.errors import SetupError

app = new_app()
Message = dict[str, str]
PIPE_SECONDS = 2.0
"""A script that leaves its own stdin open to us would otherwise wait without knowing for what."""


@app.command()
def run(
    context: typer.Context,
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="What to ask; piped text is put after it.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="auto, a target, an alias or a role.")] = "auto",
    system: Annotated[str, typer.Option("--system", "-s", metavar="TEXT", help="How the model should behave.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document at the end.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, metavar="N", help="Limit of the answer.")
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Ask a model; without a prompt, talk to it."""
    options = given(context, config, url)
    text = read_prompt(prompt or [])
    with find_daemon(options) as daemon:
        messages = [{"role": "system", "content": system}] if system else []
        if not text:
            _require_terminal(json)
            from turnout.cli.repl import Conversation

            Conversation(daemon, model, messages, max_tokens).run()
            return
        messages.append({"role": "user", "content": text})
        if json:
            _answer_as_json(daemon, messages, model, max_tokens)
        else:
            answer(daemon, messages, model, max_tokens)


def read_prompt(words: list[str]) -> str:
    """Return the prompt: the arguments, and below them what is piped in.

    Args:
        words: The arguments.
    """
    parts = [" ".join(words)]
    if sys.stdin is not None and not is_terminal(sys.stdin):
        if words and not _has_input():
            say("waiting for the text that is piped in (`</dev/null` if there is none)", "dim")
        parts.append(sys.stdin.read())
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _has_input() -> bool:
    try:
        return bool(select.select([sys.stdin], [], [], PIPE_SECONDS)[0])
    except (OSError, ValueError):  # no file descriptor, or a system that can only select sockets
        return True


def answer(daemon: Turnout, messages: list[Message], model: str, max_tokens: int | None) -> str:
    """Stream an answer to stdout, say on stderr who gave it, and return its text.

    Args:
        daemon: Whom to ask.
        messages: The conversation so far.
        model: What to ask for.
        max_tokens: Limit of the answer.

    Raises:
        ApiError: There is no answer, or it was cut off.
    """
    is_shown = is_terminal(sys.stdout)
    pieces: list[str] = []
    with _waiting() as first_piece, daemon.chat_stream(messages, model, max_tokens=max_tokens) as stream:
        try:
            for piece in stream:
                first_piece()
                pieces.append(piece)
                sys.stdout.write(printable(piece) if is_shown else piece)
                sys.stdout.flush()
        finally:
            if pieces and not pieces[-1].endswith("\n"):
                print(flush=True)
    say(spell_facts(stream.facts), "dim")
    return "".join(pieces)


def spell_facts(facts: AnswerFacts) -> str:
    """Return the line below an answer: who gave it, how long it is, how fast it came."""
    words = [facts.served_model]
    if facts.completion_tokens is not None:
        words.append(f"{facts.completion_tokens:,} tokens")
    if (speed := facts.tokens_per_second) is not None:
        words.append(f"{speed:.0f} tok/s")
    if facts.first_token_seconds is not None:
        words.append(f"{facts.first_token_seconds:.2f} s to first token")
    if facts.attempts > 1:
        words.append(f"attempt {facts.attempts}")
    if facts.finish_reason == "length":
        words.append("cut at the token limit")
    return " · ".join([*filter(None, words), facts.request_id])


def _answer_as_json(daemon: Turnout, messages: list[Message], model: str, max_tokens: int | None) -> None:
    with daemon.chat_stream(messages, model, max_tokens=max_tokens) as stream:
        text = "".join(stream)
    put_json({"text": text, **_as_dict(stream)})


def _as_dict(stream: ChatStream) -> dict[str, object]:
    import msgspec

    facts: dict[str, object] = msgspec.to_builtins(stream.facts)
    return {**facts, "tokens_per_second": stream.facts.tokens_per_second}


def _require_terminal(is_json: bool) -> None:
    if is_json or sys.stdin is None or not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise SetupError("there is no prompt", hint='`turnout run "Hello"`, or pipe one in')


@contextlib.contextmanager
def _waiting() -> Iterator[Callable[[], None]]:
    """Show that something happens until the returned function is called; without a terminal, show nothing."""
    if not (is_terminal(sys.stderr) and is_terminal(sys.stdout)):
        yield lambda: None
        return
    from rich.console import Console

    status = Console(stderr=True).status("waiting for the first token")
    status.start()
    try:
        yield status.stop
    finally:
        status.stop()
