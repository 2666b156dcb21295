"""A transport that plays a script: the fake for tests, here and in users' own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import msgspec

from turnout.core.errors import CutOff, TurnoutError
from turnout.tiers.transport import Deadlines, HttpRequest, HttpResponse, Transport

Piece = bytes | TurnoutError | asyncio.Event
"""Part of a scripted body: bytes for one `read`, an error that it raises, or an event that it waits for first."""


class ScriptedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a `ScriptedTransport` answers.

    Example: `ScriptedResponse(pieces=(b"data: 1\\n\\n", CutOff("power failure")))`.
    """

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)
    """With lower-case names."""
    pieces: tuple[Piece, ...] = ()
    """One for each `read`; the end follows the last."""


Step = ScriptedResponse | TurnoutError
Script = Iterable[Step] | Callable[[HttpRequest], Step]


def json_response(value: object, *, status: int = 200) -> ScriptedResponse:
    """Return an answer with a JSON body.

    Args:
        value: Anything that msgspec encodes.
        status: The HTTP status.
    """
    return ScriptedResponse(status=status, pieces=(msgspec.json.encode(value),))


class ScriptedAnswer(HttpResponse):
    """A scripted answer on its way; the test may look at `is_closed` and `is_cut_short`."""

    def __init__(self, script: ScriptedResponse) -> None:
        self.status = script.status
        self.headers = script.headers
        self.is_closed = False
        self.is_cut_short = False
        """Closed before the end was read: on a real connection the upstream sees a hang-up."""
        self._pieces: Iterator[Piece] = iter(script.pieces)
        self._has_ended = False

    async def read(self) -> bytes:
        """Return the next scripted piece."""
        if self.is_cut_short:
            raise CutOff("the answer was closed here before its end")
        for piece in self._pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, TurnoutError):
                self._has_ended = True
                raise piece
            elif piece:
                return piece
        self._has_ended = True
        return b""

    def close(self) -> None:
        """Give the answer up."""
        self.is_closed = True
        self.is_cut_short = self.is_cut_short or not self._has_ended

    async def aclose(self) -> None:
        """Give the answer up."""
        self.close()


class ScriptedTransport(Transport):
    """Answers from a list, one step for each request, or from a function of the request.

    Args:
        script: Answers, and errors to raise instead of one.

    Attributes:
        requests: What was sent, in order.
        answers: What was returned, in order.
        deadlines: The deadlines of each request.
        is_closed: Whether `aclose` was called.
    """

    def __init__(self, script: Script = ()) -> None:
        self.requests: list[HttpRequest] = []
        self.answers: list[ScriptedAnswer] = []
        self.deadlines: list[Deadlines] = []
        self.is_closed = False
        self._choose = script if callable(script) else None
        self._steps: Iterator[Step] = iter(()) if callable(script) else iter(script)

    async def send(self, request: HttpRequest, deadlines: Deadlines) -> ScriptedAnswer:
        """Record the request and play the next step."""
        self.requests.append(request)
        self.deadlines.append(deadlines)
        step = self._choose(request) if self._choose is not None else next(self._steps, None)
        if step is None:
            raise RuntimeError(f"the script has no step for request {len(self.requests)}, {request.path!r}")
        if isinstance(step, TurnoutError):
            raise step
        answer = ScriptedAnswer(step)
        self.answers.append(answer)
        return answer

    async def aclose(self) -> None:
        """Cut short whatever is under way."""
        self.is_closed = True
        for answer in self.answers:
            answer.close()
