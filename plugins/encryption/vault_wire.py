"""HTTP to one Vault: connections that are kept, an end to every exchange, and no redirect followed.

hvac comes with `requests`, whose timeouts bound the wait for the next byte and not the whole answer, and which takes proxies,
netrc and redirects from wherever it finds them. Here a token goes to the one address that the configuration names.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plugins.encryption.vault_http import BrokenExchange, Reply, question
from plugins.encryption.vault_http import exchange as converse

_IDLE_SECONDS = 30.0
"""Vault closes after five minutes, what stands between perhaps earlier: younger connections are seldom dead."""
_MOST_BYTES = 64 * 2**20


class WireFailure(Exception):
    """No answer of a Vault came back; the text says why, in words for an operator."""


class NoAnswer(WireFailure):
    """The connection was refused, broke, or was too slow: the next call may go through."""


class NotVault(WireFailure):
    """Something answered that is no Vault: another program, a proxy's page, a redirect."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: Mapping[str, Any] | None
    """The JSON object; None for an answer without content."""


class Exchange:
    """One question in a thread, which any other thread may break off."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._broken_off = False

    def left(self) -> float:
        """Seconds until the deadline. Raises `NoAnswer` when it has passed."""
        left = self.deadline - time.monotonic()
        if left <= 0 or self._broken_off:
            raise NoAnswer("Vault did not answer in time")
        return left

    def break_off(self) -> None:
        """Wakes the thread, wherever in the exchange it waits; its connection is not used again."""
        with self._lock:
            self._broken_off = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # not connected any more

    def holds(self, connection: socket.socket | None) -> None:
        """What `break_off` has to shut; None at the end."""
        with self._lock:
            self._socket = connection
            if self._broken_off and connection is not None:
                raise NoAnswer("Vault did not answer in time")


class _Connection:
    __slots__ = ("socket", "used")

    def __init__(self, socket_: socket.socket) -> None:
        self.socket = socket_
        self.used = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether it was used lately and the other side has not closed it: then there would be something to read."""
        if time.monotonic() - self.used > _IDLE_SECONDS:
            return False
        poll = select.poll()
        poll.register(self.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)

    def close(self) -> None:
        self.socket.close()


class Wire:
    """The connections of a process to Vault. May be used by several threads at once."""

    def __init__(self, url: str, ca: Path | None = None) -> None:
        """`ca`: certificates that Vault's must come from, in place of the system's. Raises `OSError`, `ssl.SSLError`."""
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._netloc = parts.netloc
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        self._tls = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None
        self._idle: deque[_Connection] = deque()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any] | None, exchange: Exchange
    ) -> Answer:
        """Asks once. Raises `NoAnswer` and `NotVault`."""
        raw = json.dumps(body).encode() if body is not None else None
        sent = {"Accept": "application/json", **headers}
        if raw is not None:
            sent["Content-Type"] = "application/json"
        connection = self._kept() or self._connect(exchange)
        try:
            exchange.holds(connection.socket)
            asked = question(method, self._prefix + path, self._netloc, sent, raw)
            reply = converse(connection.socket, asked, exchange.left, _MOST_BYTES)
            exchange.holds(None)
            exchange.left()  # one that was broken off is shut, though its answer came
        except BrokenExchange as error:
            connection.close()
            raise NoAnswer(str(error)) from None
        except OSError as error:
            connection.close()
            raise NoAnswer(_reason_of(error)) from None
        except BaseException:
            connection.close()
            raise
        finally:
            exchange.holds(None)
        if reply.keeps and not self._closed:
            connection.used = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()
        return self._understood(reply)

    def _kept(self) -> _Connection | None:
        while True:
            try:
                connection = self._idle.pop()  # the one used last, so that the others grow old
            except IndexError:
                return None
            if connection.is_fresh():
                return connection
            connection.close()

    def _connect(self, exchange: Exchange) -> _Connection:
        raw: socket.socket | None = None
        try:
            raw = socket.create_connection((self._host, self._port), timeout=exchange.left())
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            exchange.holds(raw)
            if self._tls is None:
                return _Connection(raw)
            raw = self._tls.wrap_socket(raw, server_hostname=self._host, do_handshake_on_connect=False)
            exchange.holds(raw)
            raw.settimeout(exchange.left())
            raw.do_handshake()
            return _Connection(raw)
        except BaseException as error:
            exchange.holds(None)
            if raw is not None:
                raw.close()
            if isinstance(error, OSError):
                raise NoAnswer(_reason_of(error)) from None
            raise

    def _understood(self, reply: Reply) -> Answer:
        status, content = reply.status, reply.content
        if 300 <= status < 400:
            place = urlsplit(reply.headers.get("location", ""))
            where = f" to {place.scheme}://{place.netloc}" if place.netloc else ""
            # Never followed: the token would go to whoever sends us there (threats T40).
            raise NotVault(
                f"{self.url} sends on{where} instead of answering; name the active Vault, or a balancer before it, in url"
            )
        if not content and status < 400:
            return Answer(status, None)
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            read = json.loads(content) if content and kind == "application/json" else None
        except ValueError:
            raise NoAnswer("the answer of Vault was cut short or garbled") from None
        if not isinstance(read, dict) or (status >= 400 and not ({"errors", "data"} & read.keys())):
            if status in (429, 502, 503, 504):
                raise NoAnswer(f"what stands before Vault answers with status {status}")
            raise NotVault(f"{self.url} answers, but not as Vault does (status {status}, {kind or 'no type'}); see url")
        return Answer(status, read)


def _reason_of(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of Vault is not accepted ({error.verify_message}); see ca"
    if isinstance(error, ssl.SSLError):
        return f"TLS with Vault failed ({error.reason or 'no reason given'})"
    if isinstance(error, TimeoutError):
        return "Vault did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "Vault refuses connections; is it running, and is url right?"
    if isinstance(error, socket.gaierror):
        return "the name of Vault's host is not known; see url"
    return "the connection to Vault broke"
