"""Calls to Directus over HTTP: few at a time, each with its deadline, never to anywhere else."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from plugins.directus.circuit import Circuit
from plugins.directus.options import DirectusOptions, Token
from plugins.directus.refusals import DirectusRefused, away, refusal_of, wait_of
from sidecar import StartRefused, Unavailable, __version__

MOST_BYTES = 64 * 1024 * 1024
"""Of an answer."""
_ALIKE = 3.0
_KEEP_ALIVE = 4.0
"""Directus closes an idle connection after 5 s."""


class AnswerTooLarge(Unavailable):
    """Directus has more to say than is taken in one piece: ask for less at once."""


class NotServed(Unavailable):
    """What answers there has no such WebSocket, or does not report what was asked for. Directus' other one may."""


class NoDirectus(Unavailable):
    """Something answers there, and is no Directus, or says that Directus is elsewhere."""


class DirectusClient:
    """An async context manager; belongs to one event loop.

    Errors of `call`: `Unavailable` when Directus is away, overloaded, limits the rate, or is no Directus at all; `DirectusRefused`
    when it answered and did not do it. It never repeats a call by itself, but for one whose token was changed in its file.
    """

    def __init__(self, options: DirectusOptions, part: str) -> None:
        """`part`: the slot for whose `Unavailable` this is."""
        self.url = options.url
        self.token = Token(options)
        self.part = part
        self._ca = options.ca
        self._timeout = options.timeout
        self._places = asyncio.Semaphore(options.calls)
        self._circuit = Circuit()
        self._session: aiohttp.ClientSession | None = None
        self.calls = 0
        """That left, since the start."""
        self.clock_ahead = 0.0
        """By how many seconds this host's clock is ahead of Directus', by its last answer; 0 while they are as good as alike."""

    @property
    def fault(self) -> str | None:
        """Why the last call did not go through; None once one went through again."""
        return self._circuit.reason if self._session is not None else "not open"

    async def __aenter__(self) -> Self:
        tracing = aiohttp.TraceConfig()
        # `allow_redirects` is not to be had for WebSockets, which would carry the token to wherever they are led.
        tracing.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            trace_configs=[tracing],
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, ssl=self._trust()),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": f"directus-sync-sidecar/{__version__}", "Accept": "application/json"},
            auto_decompress=True,
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _trust(self) -> ssl.SSLContext | bool:
        if self._ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=str(self._ca))
        except (OSError, ssl.SSLError):
            raise StartRefused(
                self.part, f"{self._ca} cannot be read as certificates; write a PEM file in options.ca"
            ) from None

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        token: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """`data` of the answer; None where there is none.

        `path` begins with `/`, in its own quoting. `token`: another one than the service user's; empty for none. `timeout`: in seconds,
        the wait for a place included, instead of the options' own.
        """
        answer = await self.answer(method, path, body, query=query, token=token, timeout=timeout)
        return answer.get("data") if isinstance(answer, dict) else None

    async def answer(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        token: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """As `call`: the whole answer, with its `meta`."""
        content = orjson.dumps(body) if body is not None else None
        own = self.token.value if token is None else token
        try:
            return await self._call(method, path, content, query, own, timeout)
        except DirectusRefused as error:
            if token is not None or not error.credentials or not self.token.read_again():
                raise
        return await self._call(method, path, content, query, self.token.value, timeout)

    async def probe(self, path: str, *, token: str | None = None) -> tuple[int, Mapping[str, str]]:
        """Status and headers of a GET, whatever it answers: for `doctor`, which asks what is not in the body. Raises `Unavailable`."""
        own = self.token.value if token is None else token
        headers = {"Authorization": f"Bearer {own}"} if own else {}
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._opened().request("GET", f"{self.url}{path}", headers=headers, allow_redirects=False) as response,
            ):
                return response.status, response.headers
        except (TimeoutError, aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise Unavailable(self.part, self._told(error)) from None

    async def _call(
        self,
        method: str,
        path: str,
        content: bytes | None,
        query: Mapping[str, str] | None,
        token: str,
        timeout: float | None,
    ) -> Any:
        wait = self._circuit.admit()
        if wait:
            raise Unavailable(self.part, self._circuit.reason or "Directus is away", retry_after=wait)
        try:
            # Within the places: a queue before a slow Directus is as long as the deadline, and no longer.
            async with asyncio.timeout(self._timeout if timeout is None else timeout), self._places:
                answer = await self._send(method, path, content, query, token)
        except TimeoutError:
            raise self._failed(self._told(TimeoutError())) from None
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise self._failed(self._told(error)) from None
        except BaseException as error:
            if not isinstance(error, Unavailable):
                self._circuit.abandoned()
            if isinstance(error, DirectusRefused):
                self._circuit.succeeded()
            raise
        self._circuit.succeeded()
        return answer

    async def _send(
        self, method: str, path: str, content: bytes | None, query: Mapping[str, str] | None, token: str
    ) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if content is not None:
            headers["Content-Type"] = "application/json"
        self.calls += 1
        async with self._opened().request(
            method,
            f"{self.url}{path}",
            data=content,
            params=query,
            headers=headers,
            allow_redirects=False,  # the token goes to the address in the configuration, and nowhere else
        ) as response:
            self.clock_ahead = _ahead(response.headers.get("Date"), self.clock_ahead)
            if 300 <= response.status < 400:
                raise self._none(
                    f"{self.url} leads elsewhere ({response.status}); write the address that it leads to into {self._option}"
                )
            body = await _read(response)
            if body is None:
                self._circuit.succeeded()
                raise AnswerTooLarge(
                    self.part,
                    f"what {self.url} answers to {method} {path} is larger than {MOST_BYTES >> 20} MiB; look at {self._option}",
                )
            return self._judged(response, body)

    def _judged(self, response: aiohttp.ClientResponse, body: bytes) -> Any:
        answer, readable = None, not body
        if body:
            try:
                answer, readable = orjson.loads(body), True
            except orjson.JSONDecodeError:
                pass
        if response.status < 300 and readable:
            return answer
        if response.status < 300 or (response.status == 404 and not isinstance(answer, dict)):
            raise self._none(
                f"what answers at {self.url} is no Directus ({response.status} {response.content_type}); look at {self._option}"
            )
        refusal = refusal_of(response.status, answer)
        if away(refusal):
            raise self._failed(f"Directus answers {refusal.status} {refusal.code}", wait_of(response.headers, answer))
        raise refusal

    def _none(self, reason: str) -> NoDirectus:
        self._circuit.failed(reason, None)
        return NoDirectus(self.part, reason)

    def _failed(self, reason: str, wait: float | None = None) -> Unavailable:
        self._circuit.failed(reason, wait)
        return Unavailable(self.part, reason, retry_after=wait)

    @property
    def _option(self) -> str:
        return f"{self.part}.options.url"

    def _told(self, error: BaseException) -> str:
        """The kind of a failure in a few words: the library's own texts may hold addresses of all kinds."""
        match error:
            case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
                return f"the certificate of {self.url} is not trusted; name its authority in {self.part}.options.ca"
            case aiohttp.ClientSSLError() | ssl.SSLError():
                return f"{self.url} speaks no TLS that is understood; look at {self._option}: is it http://?"
            case aiohttp.ClientConnectorDNSError():
                return f"the name in {self.url} cannot be resolved; look at {self._option}"
            case aiohttp.ClientConnectorError():
                return (
                    f"nothing listens at {self.url}, or it cannot be reached; start Directus, or look at {self._option}"
                )
            case aiohttp.WSServerHandshakeError():
                return f"it answers {error.status} in place of a WebSocket; set WEBSOCKETS_ENABLED=true for Directus"
            case TimeoutError():
                return f"{self.url} did not answer in time"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientResponseError():
                return f"{self.url} ended the connection; if it always does, look at {self._option}"
            case _:
                return f"the connection to {self.url} broke ({type(error).__name__})"

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise Unavailable(self.part, "the connection to Directus is not open")
        return self._session

    # -- its WebSocket -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def socket(
        self, path: str = "/websocket", protocols: Sequence[str] = ()
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """One of Directus' own WebSockets, not yet signed in; `protocols` are subprotocols. Errors: `NotServed`, `Unavailable`.

        Without aiohttp's `heartbeat`: Directus answers no protocol ping, and has a ping of its own.
        """
        parts = urlsplit(self.url)
        address = parts._replace(scheme="wss" if parts.scheme == "https" else "ws").geturl()
        try:
            async with asyncio.timeout(self._timeout):
                socket = await self._opened().ws_connect(
                    f"{address}{path}", protocols=protocols, max_msg_size=MOST_BYTES
                )
        except (aiohttp.ClientError, OSError, ssl.SSLError, TimeoutError) as error:
            kind = NotServed if isinstance(error, aiohttp.WSServerHandshakeError) else Unavailable
            raise kind(self.part, f"Directus' WebSocket: {self._told(error)}") from None
        try:
            yield socket
        finally:
            await socket.close()


def _ahead(date: str | None, before: float) -> float:
    try:
        apart = time.time() - parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return before
    return apart if abs(apart) > _ALIKE else 0.0  # a header has whole seconds, and an answer takes its time


async def _refuse_redirect(*_: object) -> None:
    raise aiohttp.ClientConnectionError("redirected")


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, None if it is too large. Its length is not believed."""
    pieces, size = [], 0
    async for piece in response.content.iter_chunked(2**18):
        size += len(piece)
        if size > MOST_BYTES:
            response.close()
            return None
        pieces.append(piece)
    return b"".join(pieces)
