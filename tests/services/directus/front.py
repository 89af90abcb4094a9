"""What stands before a Directus and answers in its place on command: overload, limits, lost answers, pages that are no JSON."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests.services.ports import HOST, ReservedPort

Which = Callable[[str, str], bool]
"""By method and path."""


@dataclass(slots=True)
class Fault:
    """Of the next `times` calls that it is for."""

    times: int
    of: Which
    status: int = 0
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    swallow: bool = False
    """Directus carries it out, and the answer is lost with the connection."""
    keep: bool = False
    """Directus carries it out, and whoever called waits for the answer until they go."""
    kept: int = 0
    """How many were carried out and are not answered."""
    delay: float = 0.0
    held: asyncio.Event | None = None
    """Until it is set."""
    happened: int = 0


class DirectusFront:
    """`async with DirectusFront(server.url) as front`: passes calls and sockets on to Directus, until it is told otherwise."""

    def __init__(self, target: str, host: str = HOST, *, below: str = "") -> None:
        """`host`: the address of this machine that it listens on. `below`: a path such as `/cms`, outside of which is no Directus."""
        self.target = target
        self.below = below
        self.host = host
        self.seen: list[tuple[str, str]] = []
        """Method and path of every call that came."""
        self.opened: list[str] = []
        """The path of every WebSocket that was opened."""
        self.tokens: set[str] = set()
        """What came as a token."""
        self.headers: set[str] = set()
        """The names of all headers that came, in lower case."""
        self.most_at_once = 0
        self.broken: list[tuple[str, str]] = []
        """Method and path of every call that Directus began and never answered."""
        self.answered: Counter[int] = Counter()
        """How often Directus itself answered with this status."""
        self._at_once = 0
        self._faults: list[Fault] = []
        self._sockets: set[web.WebSocketResponse] = set()
        self._reserved: ReservedPort
        self._runner: web.AppRunner
        self._session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self._reserved.number}{self.below}"

    async def __aenter__(self) -> Self:
        self._reserved = ReservedPort()
        self._session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0))
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self._reserved.number, reuse_address=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop_sockets()
        await self._runner.cleanup()
        await self._session.close()
        self._reserved.close()

    # -- faults --------------------------------------------------------------------------------------------------------

    def answer(
        self,
        status: int,
        body: Mapping[str, Any] | str = "",
        times: int = 1,
        *,
        of: Which = lambda _method, _path: True,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """An answer in place of Directus'."""
        text = body if isinstance(body, str) else json.dumps(body)
        kind = {"Content-Type": "text/html" if isinstance(body, str) else "application/json"}
        return self._add(Fault(times, of, status, text, {**kind, **(headers or {})}))

    def refuse(
        self, status: int, code: str, times: int = 1, *, of: Which = lambda _method, _path: True, **more: Any
    ) -> Fault:
        """Directus' own kind of refusal."""
        extensions = {"code": code, **more}
        return self.answer(status, {"errors": [{"message": "no", "extensions": extensions}]}, times, of=of)

    def swallow(self, times: int = 1, *, of: Which = lambda _method, _path: True) -> Fault:
        """Carried out, and the answer is lost."""
        return self._add(Fault(times, of, swallow=True))

    def keep(self, times: int = 1, *, of: Which = lambda _method, _path: True) -> Fault:
        """Carried out, and never answered: the moment in which to kill whoever called."""
        return self._add(Fault(times, of, keep=True))

    def delay(self, seconds: float, times: int = 10**9, *, of: Which = lambda _method, _path: True) -> Fault:
        """Each takes so much longer."""
        return self._add(Fault(times, of, delay=seconds))

    def hold(self, times: int = 10**9, *, of: Which = lambda _method, _path: True) -> Fault:
        """They wait for `fault.held.set()`."""
        return self._add(Fault(times, of, held=asyncio.Event()))

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Plain weather."""
        self._faults.clear()

    def count(self, method: str, part: str = "") -> int:
        """How many calls of this method came whose path has this in it."""
        return sum(each == method and part in path for each, path in self.seen)

    async def drop_sockets(self) -> int:
        """Ends Directus' WebSockets; how many there were."""
        sockets = list(self._sockets)
        for socket in sockets:
            await socket.close()
        return len(sockets)

    # -- at work -------------------------------------------------------------------------------------------------------

    def _there(self, request: web.Request) -> str:
        return f"{self.target}{request.path_qs.removeprefix(self.below)}"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not request.path.startswith(f"{self.below}/"):
            return web.Response(status=404, text="<html>Not Found</html>", content_type="text/html")
        answered = any(
            each.status and each.times > 0 and each.of(request.method, request.path) for each in self._faults
        )
        if request.headers.get("Upgrade", "").lower() == "websocket" and not answered:
            return await self._bridge(request)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._pass_on(request)
        finally:
            self._at_once -= 1

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path))
        self.tokens.add(request.headers.get("Authorization", ""))
        self.headers.update(name.lower() for name in request.headers)
        body = await request.read()
        swallow, kept = False, None
        for fault in list(self._faults):
            if fault.times <= 0 or not fault.of(request.method, request.path):
                continue
            fault.times -= 1
            fault.happened += 1
            await asyncio.sleep(fault.delay)
            if fault.held is not None:
                await fault.held.wait()
            if fault.status:
                return web.Response(status=fault.status, text=fault.body, headers=fault.headers)
            swallow |= fault.swallow
            kept = fault if fault.keep else kept
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        try:
            async with self._session.request(
                request.method, self._there(request), data=body, headers=headers, allow_redirects=False
            ) as answer:
                content = await answer.read()
                status, told = answer.status, answer.headers
        except (aiohttp.ClientError, OSError) as error:
            if not isinstance(error, aiohttp.ClientConnectorError):
                self.broken.append((request.method, request.path))
            if request.transport is not None:
                request.transport.abort()  # as Directus' own connection ended
            return web.Response(status=502)
        if kept is not None:
            kept.kept += 1
            await asyncio.Event().wait()
        self.answered[status] += 1
        if swallow and request.transport is not None:
            request.transport.abort()
        passed = ("content-type", "retry-after", "date", "content-encoding", "location", "cache-control")
        return web.Response(
            status=status,
            body=content,
            headers={name: value for name, value in told.items() if name.lower() in passed},
        )

    async def _bridge(self, request: web.Request) -> web.StreamResponse:
        spoken = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if each.strip()]
        here = web.WebSocketResponse(max_msg_size=0, protocols=spoken)
        await here.prepare(request)
        self.opened.append(request.path)
        self._sockets.add(here)
        try:
            async with self._session.ws_connect(self._there(request), protocols=spoken, max_msg_size=0) as there:

                async def back() -> None:
                    async for message in there:
                        await here.send_str(message.data)
                    await here.close()

                task = asyncio.create_task(back())
                async for message in here:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await there.send_str(message.data)
                    elif message.type is aiohttp.WSMsgType.BINARY:
                        await there.send_bytes(message.data)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        except (aiohttp.ClientError, ConnectionError):
            await here.close()
        finally:
            self._sockets.discard(here)
        return here
