"""Directus' own WebSocket: who creates, changes or deletes rows there is heard here within milliseconds.

A drop is not repaired by Directus: after each (re)connect `Connected` says that anything may have happened meanwhile. Two habits
of Directus shape this file. It answers no protocol ping, so aiohttp's own heartbeat would end every connection; it sends a JSON
`ping` every 30 s and closes where no `pong` came. And a subscription without `event` is answered with every row there is, so
each event is subscribed to by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, cast

import aiohttp
import jiter
import structlog

from sidecar import Unavailable

log = structlog.get_logger("plugins.directus")

Happening = Literal["create", "update", "delete"]

_HANDSHAKE_SECONDS = 10.0
_SILENT_SECONDS = 75.0
"""Directus pings every 30 s. Who says nothing for longer than two of these is gone, whatever TCP thinks."""
_LARGEST = 64 * 1024 * 1024
"""One event holds every row that one call changed."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0


@dataclass(frozen=True, slots=True)
class Topic:
    """What is to be heard of one collection. `fields` are those of each row that come with it."""

    collection: str
    fields: Sequence[str]
    events: Sequence[Happening] = ("create", "update", "delete")


@dataclass(frozen=True, slots=True)
class Connected:
    """From here on everything is heard. What happened before is not known."""


@dataclass(frozen=True, slots=True)
class Lost:
    """From here on nothing is heard, until the next `Connected`. `reason` names the kind of trouble."""

    reason: str


@dataclass(frozen=True, slots=True)
class Happened:
    """Rows of one collection: with the fields of the topic, or for `delete` the keys alone."""

    collection: str
    event: Happening
    rows: Sequence[dict[str, Any]] = ()
    keys: Sequence[str] = ()


class NotHeard(Exception):
    """This connection ended; the text names the kind of trouble and holds nothing that Directus sent."""


async def listen(
    url: str,
    token: Callable[[], str],
    topics: Sequence[Topic],
    *,
    pauses: tuple[float, float] = (_FIRST_PAUSE, _LONGEST_PAUSE),
) -> AsyncGenerator[Connected | Lost | Happened, None]:
    """Runs for good, connecting again whenever the connection ends. `url` is Directus' own (`http://host:8055`).

    `token` is asked at every connect, so that one that was replaced is used from then on. Close it with `aclosing`.
    """
    pause, longest = pauses
    while True:
        reason = "ended"
        try:
            async with aclosing(_connection(url, token(), topics)) as heard:
                async for each in heard:
                    pause = pauses[0]
                    yield each
        except NotHeard as error:
            reason = str(error)
        except (aiohttp.ClientError, OSError, TimeoutError, Unavailable) as error:
            reason = type(error).__name__
        yield Lost(reason)
        log.warning("directus_not_heard", reason=f"Directus' WebSocket: {reason}", retry_after=pause)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
        pause = min(pause * 2, longest)


async def _connection(url: str, token: str, topics: Sequence[Topic]) -> AsyncGenerator[Connected | Happened, None]:
    address = f"{url.rstrip('/')}/websocket"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_HANDSHAKE_SECONDS)
    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_refuse_redirect)
    async with aiohttp.ClientSession(timeout=timeout, trace_configs=[tracing]) as session:
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            ws = await _connect(session, address)
        async with ws:
            subscribed: dict[str, tuple[Topic, Happening]] = {}
            early: list[Happened] = []
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await _sign_in(ws, token)
                for topic in topics:
                    for event in topic.events:
                        uid = f"{len(subscribed)}"
                        subscribed[uid] = topic, event
                        query = {"fields": list(topic.fields)}
                        await ws.send_json(
                            {
                                "type": "subscribe",
                                "collection": topic.collection,
                                "event": event,
                                "query": query,
                                "uid": uid,
                            }
                        )
                waiting = set(subscribed)
                while waiting:
                    message = await _next(ws)
                    if message.get("type") != "subscription":
                        continue
                    if message.get("event") == "init" or "event" not in message:
                        waiting.discard(str(message.get("uid")))
                    elif (happened := _happened(message, subscribed)) is not None:
                        early.append(happened)
            yield Connected()
            for happened in early:
                yield happened
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    message = await _next(ws)
                if (heard := _happened(message, subscribed)) is not None:
                    yield heard


async def _refuse_redirect(*_: object) -> None:
    """Whoever it points to would get the token (threats T40)."""
    raise NotHeard("redirected, which is not followed")


async def _connect(session: aiohttp.ClientSession, address: str) -> aiohttp.ClientWebSocketResponse:
    try:
        return await session.ws_connect(address, max_msg_size=_LARGEST)
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (404, 403, 400):
            raise NotHeard(f"refused with {error.status}; set WEBSOCKETS_ENABLED=true for Directus") from None
        raise NotHeard(f"refused with {error.status}") from None


async def _sign_in(ws: aiohttp.ClientWebSocketResponse, token: str) -> None:
    await ws.send_json({"type": "auth", "access_token": token})
    while True:
        message = await _next(ws)
        if message.get("type") == "auth":
            if message.get("status") == "ok":
                return
            error = message.get("error")
            code = error.get("code") if isinstance(error, dict) else None
            raise NotHeard(f"the service token was refused ({_word(code)})")


async def _next(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The next message that is none of the pings, which are answered here. Raises `NotHeard` at the end, and at any error."""
    while True:
        frame = await ws.receive()
        if frame.type is not aiohttp.WSMsgType.TEXT:
            raise NotHeard(f"closed with {ws.close_code}")
        try:
            message = jiter.from_json(cast("str", frame.data).encode())
        except ValueError:
            raise NotHeard("sent what is not JSON") from None
        if not isinstance(message, dict):
            raise NotHeard("sent what is no message")
        if message.get("type") == "ping":
            await ws.send_json({"type": "pong"})
            continue
        if message.get("status") == "error" and message.get("type") != "auth":
            error = message.get("error")
            code = error.get("code") if isinstance(error, dict) else None
            raise NotHeard(f"refused a subscription ({_word(code)})")
        return message


def _happened(message: dict[str, Any], subscribed: dict[str, tuple[Topic, Happening]]) -> Happened | None:
    found = subscribed.get(str(message.get("uid")))
    if (
        message.get("type") != "subscription"
        or found is None
        or message.get("event") not in ("create", "update", "delete")
    ):
        return None
    topic, event = found
    data = message.get("data")
    if not isinstance(data, list):
        return None
    if event == "delete":
        return Happened(topic.collection, event, keys=[str(key) for key in data])
    return Happened(topic.collection, event, rows=[row for row in data if isinstance(row, dict)])


def _word(code: object) -> str:
    return code[:64] if isinstance(code, str) and code.replace("_", "").isalnum() else "no code"
