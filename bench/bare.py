"""What the sidecar is compared with: a bare aiohttp loop that does the same parse, seal, open and sends, and nothing else.

No versions, no rule, no cache, no journal, no log, no limits, no checks. A person's sockets are those that said the same
token; an edit is answered, and told to the person's other sockets.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import jiter
import orjson
from aiohttp import WSMsgType, web
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Person:
    """One person's sockets, key and draft."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.aead = AESGCM(AESGCM.generate_key(256))
        self.sealed = b""
        self.version = 0


class Bare:
    """The loop."""

    def __init__(self) -> None:
        self._people: dict[str, Person] = {}

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False, decode_text=False, max_msg_size=256 * 1024)
        await ws.prepare(request)
        person = Person()
        try:
            async for message in ws:
                frame = jiter.from_json(message.data, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
                if frame["type"] == "auth":
                    person = self._people.setdefault(frame["payload"]["token"], person)
                    person.sockets.append(ws)
                    ready = {"type": "ready", "re": frame["id"], "payload": {}}
                    await ws.send_frame(orjson.dumps(ready), WSMsgType.TEXT)
                else:
                    await self._draft(person, ws, frame)
        finally:
            if ws in person.sockets:
                person.sockets.remove(ws)
        return ws

    async def _draft(self, person: Person, ws: web.WebSocketResponse, frame: dict[str, dict[str, object]]) -> None:
        payload = frame["payload"]
        chat = str(payload.get("chatId") or payload.get("tempChatId"))
        raw = orjson.dumps(payload["content"])
        bound = chat.encode()
        nonce = os.urandom(12)
        person.sealed = person.aead.encrypt(nonce, raw, bound)
        opened = person.aead.decrypt(nonce, person.sealed, bound)
        person.version += 1
        told = {"chatId": chat, "version": person.version, "op": frame["id"]}
        begun = "tempChatId" in payload
        answer = {"type": "chat_initiated" if begun else "draft_updated", "re": frame["id"], "payload": told}
        event = {"type": "draft_updated", "payload": {**told, "content": orjson.Fragment(opened)}}
        encoded = orjson.dumps(event)
        for socket in person.sockets:
            if socket is not ws and not begun:
                await socket.send_frame(encoded, WSMsgType.TEXT)
        await ws.send_frame(orjson.dumps(answer), WSMsgType.TEXT)


Opened = AbstractAsyncContextManager[Bare]


@asynccontextmanager
async def alone() -> AsyncIterator[Bare]:
    """The loop that keeps everything itself."""
    yield Bare()


def run(opened: Opened, ready: Callable[[str], None]) -> int:
    """Serves until SIGTERM. `ready` is called with the URL."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(opened, ready))


async def _serve(opened: Opened, ready: Callable[[str], None]) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with opened as loop:
        app = web.Application()
        app.add_routes([web.get("/ws", loop.serve)])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
            await site.start()
            gc.collect()
            gc.freeze()  # as the sidecar does
            ready(f"http://127.0.0.1:{runner.addresses[0][1]}")
            await stop.wait()
        finally:
            await runner.cleanup()
    return 0
