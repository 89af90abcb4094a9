"""What Directus reports over its own WebSocket: changes of items, as they are made. After a gap it repeats nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import orjson

from plugins.directus.client import DirectusClient
from sidecar import Unavailable

Action = Literal["create", "update", "delete"]

PATIENCE = 10.0
"""For the answer to a sign-in or a subscription."""
_SILENCE = 75.0
"""Directus pings every 30 s; after this long without a word the connection is dead."""
_PING_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A subscription."""

    collection: str
    action: Action
    fields: tuple[str, ...] = ("*",)
    """Of the rows that a create or an update reports. Each costs Directus a read, so no more than is needed."""

    def message(self, uid: str) -> dict[str, Any]:
        query = {} if self.action == "delete" else {"query": {"fields": list(self.fields)}}
        return {"type": "subscribe", "collection": self.collection, "event": self.action, "uid": uid, **query}


@dataclass(frozen=True, slots=True)
class Heard:
    """One event: rows (of a create or an update) or keys (of a delete)."""

    collection: str
    action: Action
    rows: Sequence[Mapping[str, Any]] = ()
    keys: Sequence[str] = ()


async def follow(client: DirectusClient, wanted: Sequence[Wanted]) -> AsyncGenerator[Heard | None, None]:
    """First None, as soon as all subscriptions hold: what happened before is to be read. Then events until the connection ends.

    Ends with `Unavailable`: when the connection does, when Directus refuses the token or a subscription, when its WebSocket is off.
    """
    async with (
        client.socket() as socket,
        aclosing(reports(client, socket, _open(client, socket, wanted), lambda each: _heard(each, wanted))) as heard,
    ):
        async for each in heard:
            yield each


async def reports(
    client: DirectusClient,
    socket: aiohttp.ClientWebSocketResponse,
    opening: Awaitable[Sequence[Heard]],
    heard: Callable[[Mapping[str, Any]], Heard | None],
) -> AsyncGenerator[Heard | None]:
    """None once `opening` is through, then what it heard meanwhile and what `heard` makes of each message. Ends with `Unavailable`."""
    try:
        early = await opening
        yield None
        for each in early:
            yield each
        async with _pinging(socket):
            while True:
                news = heard(await next_message(client, socket))
                if news is not None:
                    yield news
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise _ended(client, f"Directus' WebSocket broke ({type(error).__name__})") from None


async def _open(
    client: DirectusClient, socket: aiohttp.ClientWebSocketResponse, wanted: Sequence[Wanted]
) -> list[Heard]:
    await _sign_in(client, socket)
    early: list[Heard] = []
    for number in range(len(wanted)):
        early += await _subscribe(client, socket, wanted, number)
    return early


def _ended(client: DirectusClient, reason: str) -> Unavailable:
    return Unavailable(client.part, reason)


@asynccontextmanager
async def _pinging(socket: aiohttp.ClientWebSocketResponse) -> AsyncGenerator[None]:
    """Meanwhile Directus is asked for a sign of life now and then; `next_message` misses it."""
    task = asyncio.create_task(_ping(socket))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _ping(socket: aiohttp.ClientWebSocketResponse) -> None:
    # Ours, so that a connection which silently died is noticed: Directus answers `pong`, and its silence is heard.
    try:
        while True:
            await asyncio.sleep(_PING_SECONDS)
            await socket.send_str('{"type":"ping"}')
    except (aiohttp.ClientError, ConnectionError):
        pass  # the reader notices it too


async def next_message(
    client: DirectusClient, socket: aiohttp.ClientWebSocketResponse, patience: float | None = None
) -> Mapping[str, Any]:
    """The next message that is none of Directus' own pings, which are answered. Waits no longer than `patience`; else while it lives."""
    while True:
        async with asyncio.timeout(patience or _SILENCE):
            frame = await socket.receive()
        if frame.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            raise _ended(client, f"Directus ended its WebSocket ({socket.close_code})")
        try:
            message = orjson.loads(frame.data)
        except orjson.JSONDecodeError:
            raise _ended(client, "what answers over the WebSocket is no Directus: look at options.url") from None
        if not isinstance(message, dict):
            continue
        if message.get("type") == "ping":
            await socket.send_str('{"type":"pong"}')
            continue
        return message


async def _sign_in(client: DirectusClient, socket: aiohttp.ClientWebSocketResponse) -> None:
    for again in (False, True):
        await socket.send_bytes(orjson.dumps({"type": "auth", "access_token": client.token.value}))
        answer = await next_message(client, socket, PATIENCE)
        if answer.get("type") == "auth" and answer.get("status") == "ok":
            return
        if again or not client.token.read_again():
            break
    raise _ended(client, "Directus refuses the token over its WebSocket")


async def _subscribe(
    client: DirectusClient, socket: aiohttp.ClientWebSocketResponse, wanted: Sequence[Wanted], number: int
) -> list[Heard]:
    """What those that hold already reported meanwhile."""
    uid = str(number)
    await socket.send_bytes(orjson.dumps(wanted[number].message(uid)))
    early: list[Heard] = []
    while True:
        answer = await next_message(client, socket, PATIENCE)
        if answer.get("uid") != uid:
            heard = _heard(answer, wanted)
            if heard is not None:
                early.append(heard)
            continue
        if answer.get("type") == "subscription" and answer.get("event") == "init":
            return early
        error = answer.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        raise _ended(
            client, f"Directus refuses to report changes of {wanted[number].collection} ({code}): run sidecar doctor"
        )


def _heard(message: Mapping[str, Any], wanted: Sequence[Wanted]) -> Heard | None:
    uid, data = message.get("uid"), message.get("data")
    if message.get("type") != "subscription" or not isinstance(uid, str) or not isinstance(data, list):
        return None
    if not uid.isdecimal() or int(uid) >= len(wanted):
        return None
    each = wanted[int(uid)]
    if each.action == "delete":
        return Heard(each.collection, "delete", keys=[str(key) for key in data])
    return Heard(each.collection, each.action, rows=[row for row in data if isinstance(row, dict)])
