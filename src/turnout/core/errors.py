"""Every error that turnout raises on purpose.

The tree::

    TurnoutError
    ├── Wrong                   the caller's own mistake: never tried elsewhere
    │   ├── InvalidRequest      400  malformed JSON, a missing or mistyped field
    │   ├── ContextOverflow     400  the prompt does not fit into the model's context
    │   ├── Unauthorized        401  a key is needed, or it is unknown
    │   ├── ForeignOrigin       403  a web page of another origin
    │   ├── OperatorOnly        403  the key may use models, but not operate the daemon
    │   ├── NotFound            404  a path, a trace, a key
    │   │   └── ModelNotFound   404  with near matches
    │   ├── MethodNotAllowed    405
    │   ├── BodyTooSlow         408  the body did not arrive in time
    │   ├── BodyTooLarge        413
    │   ├── UnsupportedType     415  a write that is not application/json
    │   ├── ForeignHost         421  a Host that is not ours
    │   ├── LeaseTooLarge       422  more memory than the device will ever grant
    │   └── UpstreamRejected    4xx  the engine's own word on the caller's mistake
    ├── Refused                 403  no target may serve this
    │   └── NotSupported        400  no target of this name can serve this kind of request
    ├── Busy                    503  try again: queue full, model loading, shutting down
    │   ├── RateLimited         429  the engine says: too many requests
    │   ├── QueueFull           429  too many wait for the model already
    │   ├── NotInTime           503  the turn at a model did not come before the deadline
    │   ├── NotGranted          409  the memory of a lease is not free in time; says who holds it
    │   ├── NoTarget            503  every target of the plan is out of order
    │   └── ShuttingDown        503
    ├── Broken                  502  a target failed: the next one may take over
    │   ├── ConnectFailed       502
    │   ├── UpstreamFailed      502  an answer with status 5xx
    │   ├── Malformed           502  not HTTP, not JSON, not an event stream
    │   ├── CutOff              502  the answer ended in the middle
    │   ├── LoadFailed          502  the engine could not load the model
    │   │   └── DoesNotFit      502  the model is larger than the devices that it may use
    │   └── DeadlineExceeded    504  connect, first token, gap between chunks, or total
    │       └── Stalled         504
    └── SetupError              what the person at the keyboard can mend: configuration, ports, files, packages

``status`` is the HTTP status, ``code`` a stable machine-readable word, ``kind`` OpenAI's ``error.type``, ``retryable``
whether the same request may succeed later, ``hint`` what to do next, ``source`` whether the gateway or an upstream
said it, ``param`` the field of the request that is at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

UNREADABLE_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What ``msgspec.json.decode`` raises for foreign bytes: also for text that is not UTF-8, and for endless nesting."""

Source = Literal["gateway", "upstream"]


class TurnoutError(Exception):
    """Base of every deliberate error.

    Args:
        message: What happened, with the offending value quoted.
        hint: What to do next; one line, no trailing full stop needed.
        param: The request field at fault, if there is one.
        code: Overrides the class's code where one class covers several cases.
        status: Overrides the class's HTTP status.
        source: Who said it.
        retry_after_seconds: When the same request may succeed, if that is known.
    """

    status: int = 500
    code: str = "internal_error"
    kind: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        source: Source = "gateway",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.source: Source = source
        self.retry_after_seconds = retry_after_seconds
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class Wrong(TurnoutError):
    """The caller's own mistake: the same request would fail at every target."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class InvalidRequest(Wrong):
    """Malformed JSON, or a missing, empty or mistyped field."""


class ContextOverflow(Wrong):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"


class Unauthorized(Wrong):
    """A key is needed and none, or an unknown one, was sent."""

    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"


class ForeignOrigin(Wrong):
    """A web page of another origin tried to reach the daemon."""

    status = 403
    code = "foreign_origin"
    kind = "permission_error"


class OperatorOnly(Wrong):
    """The key may use models, but not operate the daemon."""

    status = 403
    code = "operator_only"
    kind = "permission_error"


class NotFound(Wrong):
    """No such path, trace or key."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """No target, alias or role has this name."""

    code = "model_not_found"


class MethodNotAllowed(Wrong):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class BodyTooSlow(Wrong):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"


class BodyTooLarge(Wrong):
    """The body exceeds the configured limit."""

    status = 413
    code = "request_too_large"


class UnsupportedType(Wrong):
    """A write that is not application/json."""

    status = 415
    code = "unsupported_media_type"


class ForeignHost(Wrong):
    """The Host header names a host that the daemon does not serve (DNS rebinding)."""

    status = 421
    code = "foreign_host"


class LeaseTooLarge(Wrong):
    """More memory than the device will ever grant."""

    status = 422
    code = "lease_too_large"


class UpstreamRejected(Wrong):
    """An engine or provider answered 4xx: its own word on the caller's mistake."""

    code = "upstream_rejected"


class Refused(TurnoutError):
    """No target may serve this: budget, privacy or capability."""

    status = 403
    code = "refused"
    kind = "permission_error"


class NotSupported(Refused):
    """The named target exists but cannot serve this kind of request."""

    status = 400
    code = "not_supported"
    kind = "invalid_request_error"


class Busy(TurnoutError):
    """The same request may succeed a little later."""

    status = 503
    code = "busy"
    kind = "overloaded_error"
    retryable = True


class RateLimited(Busy):
    """The target says that there are too many requests."""

    status = 429
    code = "rate_limited"
    kind = "rate_limit_error"


class QueueFull(Busy):
    """Too many requests wait for the model already."""

    status = 429
    code = "queue_full"
    kind = "rate_limit_error"


class NotInTime(Busy):
    """The turn at a model did not come before the request's deadline."""

    code = "queue_deadline"


class NotGranted(Busy):
    """The memory of a lease is not free in time; says who holds it.

    Args:
        message: What happened.
        position: Its place in the line when it gave up, from 1.
        expected_wait_seconds: How much longer it would have been, if that can be told.
        holders: Who holds what on the devices that were asked for.
        facts: As for every error.
    """

    status = 409
    code = "lease_not_granted"

    def __init__(
        self,
        message: str,
        *,
        position: int = 1,
        expected_wait_seconds: float | None = None,
        holders: Sequence[Mapping[str, object]] = (),
        **facts: Any,
    ) -> None:
        super().__init__(message, retry_after_seconds=expected_wait_seconds, **facts)
        self.position = position
        self.expected_wait_seconds = expected_wait_seconds
        self.holders = holders


class NoTarget(Busy):
    """Every target of the plan is out of order."""

    code = "no_target_available"


class ShuttingDown(Busy):
    """The daemon is stopping."""

    code = "shutting_down"


class Broken(TurnoutError):
    """A target failed; before the first byte the next one takes over."""

    status = 502
    code = "upstream_broken"
    kind = "upstream_error"
    retryable = True


class ConnectFailed(Broken):
    """No connection could be made: nothing was sent."""

    code = "connect_failed"


class UpstreamFailed(Broken):
    """The target answered with a status of 500 or above."""

    code = "upstream_failed"


class Malformed(Broken):
    """The answer is not the protocol that it should be."""

    code = "malformed_answer"


class CutOff(Broken):
    """The answer ended in the middle."""

    code = "answer_cut_off"


class LoadFailed(Broken):
    """The engine could not load the model."""

    code = "load_failed"


class DoesNotFit(LoadFailed):
    """The model is larger than the devices that it may use."""

    code = "does_not_fit"
    retryable = False


class DeadlineExceeded(Broken):
    """A wait reached its deadline."""

    status = 504
    code = "deadline_exceeded"


class Stalled(DeadlineExceeded):
    """The answer began and then nothing came for too long."""

    code = "answer_stalled"


class SetupError(TurnoutError):
    """What the person at the keyboard can mend: configuration, ports, files, packages."""

    code = "setup_error"
