"""Answers for web pages that may call: the browser hands an answer to a page only if it names the page's origin.

Who may call is decided by the guard before; this only says so to the browser (the Fetch standard, section 3.3).
"""

from __future__ import annotations

from turnout.gateway.exchange import Exchange, header_lines

PREFLIGHT_SECONDS = 600
EXPOSED = (
    "x-turnout-request-id, x-turnout-requested-model, x-turnout-served-model, x-turnout-tier, x-turnout-attempts, "
    "x-turnout-effort, x-turnout-cost-usd"
)


def origin_lines(origin: str) -> bytes:
    """Return the header lines that let a page read an answer.

    Args:
        origin: The page's origin, already admitted.
    """
    return header_lines(
        [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED.encode()),
            (b"vary", b"origin"),
        ]
    )


async def answer_preflight(exchange: Exchange, asked_headers: str) -> None:
    """Tell the browser that the page may send its request.

    Args:
        exchange: The preflight.
        asked_headers: The headers that it wants to send; all are allowed, since the guard checks what matters.
    """
    lines = header_lines(
        [
            (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
            (b"access-control-allow-headers", asked_headers.encode("latin-1") or b"*"),
            (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
        ]
    )
    await exchange.begin(204, lines, is_last=True)
