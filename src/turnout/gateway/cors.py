"""Answers for web pages that may call: the browser hands an answer to a page only if it names the page's origin.

Who may call is decided by the guard before; this only says so to the browser (the Fetch standard, section 3.3).
"""

from __future__ import annotations

from starlette.types import Message, Send

PREFLIGHT_SECONDS = 600
EXPOSED = (
    "x-turnout-request-id, x-turnout-requested-model, x-turnout-served-model, x-turnout-tier, x-turnout-attempts, "
    "x-turnout-effort, x-turnout-cost-usd"
)


def naming_origin(send: Send, origin: str) -> Send:
    """Return a channel that adds the page's origin to an answer.

    Args:
        send: The ASGI channel.
        origin: The page's origin, already admitted.
    """

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", EXPOSED.encode()),
                (b"vary", b"origin"),
            ]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return send_named


async def answer_preflight(send: Send, asked_headers: str) -> None:
    """Tell the browser that the page may send its request.

    Args:
        send: The ASGI channel, which names the origin.
        asked_headers: The headers that it wants to send; all are allowed, since the guard checks what matters.
    """
    headers = [
        (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
        (b"access-control-allow-headers", asked_headers.encode("latin-1") or b"*"),
        (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
