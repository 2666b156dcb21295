"""HTTP/1.1 read slowly and strictly, after RFC 9112: the second opinion on what the fast parsers made of some bytes.

Where our parser (llhttp) takes more than the RFC allows, and no two parsers could disagree about where a message ends
because of it, the leniency is written down here, so that any other one is a finding.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Leniency: several spaces around the target (RFC 9112, 3: words may be separated by any white space).
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") +([\x21-\x7e]+) +HTTP/(\d\.\d)")
# Leniency: any byte in the reason, which nobody reads.
STATUS_LINE = re.compile(rb"HTTP/(\d\.\d) (\d{3})(?: ([^\r\n]*))?")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([^\r\n\0]*?)[ \t]*")
CHUNK = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[^\r\n\0]*)?")
Headers = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """These bytes are no HTTP/1.1."""


class Message(NamedTuple):
    """One request or final answer.

    Attributes:
        start: Method, target and version, or version, status and reason.
        headers: With lower-case names.
        body: Without its framing, as far as it goes.
        is_whole: Whether the framing says that it is complete.
    """

    start: tuple[bytes, bytes, bytes]
    headers: Headers
    body: bytes
    is_whole: bool


class Reader:
    """Walks through bytes.

    Args:
        data: All of them.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self.fault = ""

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self._data)

    def skip_blank_lines(self) -> None:
        """Skip what may stand before a message (RFC 9112, 2.2)."""
        while self._data[self.at : self.at + 1] in (b"\r", b"\n") and not self.is_at_end:
            self.at += 1

    def line(self) -> bytes | None:
        """Return the next line without its CRLF, or None if it is incomplete."""
        end = self._data.find(b"\n", self.at)
        if end < 0:
            return None
        line = self._data[self.at : end]
        if not line.endswith(b"\r"):
            raise Malformed(f"a line ends without CR: {line!r}")
        self.at = end + 1
        return line[:-1]

    def take(self, count: int) -> bytes:
        """Return as many bytes as are there."""
        taken = self._data[self.at : self.at + count]
        self.at += len(taken)
        return taken

    def head(self, pattern: re.Pattern[bytes]) -> tuple[tuple[bytes, bytes, bytes], Headers] | None:
        """Return a start line's three parts and the headers, or None if they are incomplete."""
        line = self.line()
        if line is None:
            return None
        start = pattern.fullmatch(line)
        if start is None:
            raise Malformed(f"the start line {line!r}")
        headers = self.fields()
        return None if headers is None else ((start[1], start[2], start[3] or b""), headers)

    def fields(self) -> Headers | None:
        """Return headers or trailers up to the empty line."""
        found: Headers = []
        while (line := self.line()) != b"":
            if line is None:
                return None
            field = FIELD.fullmatch(line)
            if field is None:
                raise Malformed(f"the header {line!r}")
            found.append((field[1].lower(), field[2]))
        return found

    def chunks(self) -> tuple[bytes, bool]:
        """Return a chunked body as far as it is good, and whether it is whole; ``fault`` says what broke it."""
        body = bytearray()
        try:
            while (line := self.line()) is not None:
                chunk = CHUNK.fullmatch(line)
                if chunk is None:
                    raise Malformed(f"the chunk {line!r}")
                if (size := int(chunk[1], 16)) == 0:
                    return bytes(body), self.fields() is not None
                body += self.take(size)
                end = self.take(2)
                if end != b"\r\n"[: len(end)]:
                    raise Malformed(f"a chunk ends with {end!r}")
                if len(end) < 2:
                    break
        except Malformed as error:
            self.fault = str(error)
        return bytes(body), False


def length_of(headers: Headers) -> int | None:
    """Return the content-length, None if there is none.

    Raises:
        Malformed: There are two, it is no number, or chunks are announced as well (RFC 9112, 6.3).
    """
    values = [value for name, value in headers if name == b"content-length"]
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or any(name == b"transfer-encoding" for name, _ in headers):
        raise Malformed(f"the lengths {values}")
    return int(values[0])


def is_chunked(headers: Headers, *, has_others: bool = False) -> bool:
    """Return whether the body comes in chunks.

    Args:
        headers: Of the message.
        has_others: Leniency: whether other codings may stand before; our client leaves them in place.
    """
    codings = b",".join([value.lower() for name, value in headers if name == b"transfer-encoding"])
    last = codings.rpartition(b",")[2].strip() if has_others else codings
    if codings and last != b"chunked":
        raise Malformed(f"the codings {codings!r}")
    return bool(codings)


def read_requests(data: bytes) -> tuple[list[Message], str]:
    """Return the requests at the beginning of some bytes, and why there are no more of them."""
    reader = Reader(data)
    found: list[Message] = []
    try:
        while not reader.is_at_end:
            reader.skip_blank_lines()
            if (head := reader.head(REQUEST_LINE)) is None:
                return found, "incomplete"
            start, headers = head
            chunked, length = is_chunked(headers), length_of(headers)
            body, is_whole = reader.chunks() if chunked else (reader.take(length or 0), True)
            is_whole = is_whole and len(body) == (length or len(body))
            found.append(Message(start, headers, body, is_whole))
            if not is_whole:
                return found, reader.fault or "incomplete"
    except Malformed as error:
        return found, str(error)
    return found, ""


def read_answers(data: bytes, methods: list[bytes], *, is_closed: bool, most: int = 1000) -> list[Message]:
    """Return the final answers in some bytes.

    Args:
        data: All that a server wrote.
        methods: Of the requests, in order; later ones count as GET.
        is_closed: The server has closed, which ends a body without a length.
        most: What follows so many answers is left alone.

    Raises:
        Malformed: They are no HTTP/1.1, or something stands behind an answer that announced the end.
    """
    reader = Reader(data)
    found: list[Message] = []
    while not reader.is_at_end and len(found) < most:
        reader.skip_blank_lines()
        if found and (b"connection", b"close") in found[-1].headers:
            raise Malformed("bytes behind the last answer")
        if (head := reader.head(STATUS_LINE)) is None:
            found.append(Message((b"", b"", b""), [], b"", is_whole=False))
            break
        start, headers = head
        status = int(start[1])
        if status < 200:
            if status < 100 or status == 101:
                raise Malformed(f"the status {status}")
            continue
        method = methods[len(found)] if len(found) < len(methods) else b"GET"
        body, is_whole = b"", True
        if method != b"HEAD" and status not in (204, 304):
            chunked, length = is_chunked(headers, has_others=True), length_of(headers)
            if chunked:
                body, is_whole = reader.chunks()
                if reader.fault:
                    raise Malformed(reader.fault)
            elif length is not None:
                body = reader.take(length)
                is_whole = len(body) == length
            else:
                body, is_whole = reader.take(len(data)), is_closed
        found.append(Message(start, headers, body, is_whole))
    return found
