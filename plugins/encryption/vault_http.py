"""One HTTP/1.1 exchange on a socket: a question as bytes, and its answer (RFC 9112), parsed by llhttp.

The standard library's client spends more on the headers of an answer than Vault on the answer.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping

import httptools

_LINE = re.compile(r"[\x20-\x7e]*\Z")
_TARGET = re.compile(r"/[\x21-\x7e]*\Z")
_CHUNK = 65_536


class BrokenExchange(Exception):
    """The answer was not one of HTTP, or not whole; the text says which."""


class Reply:
    """An answer as far as it has come."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """By name, in lower case."""
        self.whole = False
        self._keeps = False
        self._second = False
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    @property
    def keeps(self) -> bool:
        """Whether the connection can be used again."""
        return self._keeps and not self._second

    @property
    def content(self) -> bytes:
        return b"".join(self._body)

    def take(self, data: bytes) -> None:
        """More of it came. Raises `BrokenExchange`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            raise BrokenExchange("what answers does not speak HTTP as Vault does; see url") from None

    def end(self) -> None:
        """The other side has closed. Raises `BrokenExchange` where more should have come."""
        if not self.status:
            raise BrokenExchange("the connection to Vault broke")
        if {"content-length", "transfer-encoding"} & self.headers.keys():
            raise BrokenExchange("the answer of Vault was cut short or garbled")
        self.whole = True  # one that lasts until the connection ends

    # -- what the parser calls -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.whole:  # nobody asked for a second answer: whatever comes next belongs to no question
            self._second = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._second:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        if not self._second:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self._second:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._second:
            return
        if 100 <= self.status < 200:
            self.status = 0
            self.headers.clear()
            return
        self.whole = True
        self._keeps = self._parser.should_keep_alive()


def question(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The bytes of a request. `ValueError` where something would break out of its line; the text does not repeat it."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if not _TARGET.match(target) or not all(map(_LINE.match, (method, host, *lines))):
        raise ValueError("a request to Vault has characters that do not belong into one")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("ascii")
    return head + body if body else head


def exchange(connection: socket.socket, sent: bytes, left: Callable[[], float], most: int) -> Reply:
    """Sends a question and returns the whole answer. `left`: seconds until the deadline, asked before each wait.

    Raises `OSError` and `BrokenExchange`, also for an answer of more than `most` bytes.
    """
    connection.settimeout(left())
    connection.sendall(sent)
    reply, size = Reply(), 0
    while not reply.whole:
        connection.settimeout(left())
        data = connection.recv(_CHUNK)
        if data:
            size += len(data)
            if size > most:
                raise BrokenExchange("the answer is larger than any of Vault's; see url")
            reply.take(data)
        else:
            reply.end()
    return reply
