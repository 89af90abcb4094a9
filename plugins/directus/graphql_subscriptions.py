"""What Directus reports over its GraphQL WebSocket (`graphql-transport-ws`). Of deletions and updates alone, creations cost it nothing.

Its other WebSocket copies the whole schema for each row that is written to a collection in which anybody takes an interest, whatever
the kind of interest: 2 ms of a Directus that else creates a row in 0.7 ms. Here it looks at the kind first. An update is looked
up one row after the other, so what is updated often is better looked for (`plugins.persistence.directus_looks`).

Protocol: https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson

from plugins.directus.client import DirectusClient, NotServed
from plugins.directus.subscriptions import PATIENCE, Heard, Wanted, next_message, reports
from sidecar import Unavailable

_PROTOCOL = "graphql-transport-ws"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_PROBE = "probe"


async def follow_graphql(client: DirectusClient, path: str, wanted: Sequence[Wanted]) -> AsyncGenerator[Heard | None]:
    """As `subscriptions.follow`, of updates and deletions. Raises `NotServed` too."""
    for subscription in wanted:
        if not _NAME.match(subscription.collection):
            raise NotServed(client.part, f"GraphQL has no name for the collection {subscription.collection}")
    async with (
        client.socket(path, (_PROTOCOL,)) as socket,
        aclosing(
            reports(client, socket, _open(client, socket, wanted), lambda each: _heard(client, each, wanted))
        ) as heard,
    ):
        async for each in heard:
            yield each


def _query(wanted: Wanted) -> str:
    data = f" data {{ {' '.join(wanted.fields)} }}" if wanted.action != "delete" else ""
    return f"subscription {{ {wanted.collection}_mutated(event: {wanted.action}) {{ key{data} }} }}"


async def _open(
    client: DirectusClient, socket: aiohttp.ClientWebSocketResponse, wanted: Sequence[Wanted]
) -> list[Heard]:
    """What was reported before all of them held, as far as can be told: that a subscription holds is answered by nothing."""
    if socket.protocol != _PROTOCOL:
        raise NotServed(client.part, f"what answers at Directus' GraphQL WebSocket does not speak {_PROTOCOL}")
    await _say(socket, {"type": "connection_init", "payload": {"access_token": client.token.value}})
    try:
        answer = await next_message(client, socket, PATIENCE)
    except Unavailable:
        client.token.read_again()  # a refused token ends the connection: the next one has the present token
        raise
    if answer.get("type") != "connection_ack":
        raise NotServed(client.part, "Directus does not let the token in at its GraphQL WebSocket")
    # Answers come once the schema is made, which takes the first one longest; behind it they come in the order of the questions.
    early = await _probe(client, socket, wanted)
    for number, each in enumerate(wanted):
        await _say(socket, {"id": str(number), "type": "subscribe", "payload": {"query": _query(each)}})
    return early + await _probe(client, socket, wanted)


async def _probe(
    client: DirectusClient, socket: aiohttp.ClientWebSocketResponse, wanted: Sequence[Wanted]
) -> list[Heard]:
    await _say(socket, {"id": _PROBE, "type": "subscribe", "payload": {"query": "query { __typename }"}})
    early: list[Heard] = []
    while True:
        message = await next_message(client, socket, PATIENCE)
        if message.get("id") == _PROBE and message.get("type") == "complete":
            return early
        if message.get("id") == _PROBE and message.get("type") == "error":
            raise NotServed(client.part, "Directus answers no question over its GraphQL WebSocket")
        heard = _heard(client, message, wanted)
        if heard is not None:
            early.append(heard)


async def _say(socket: aiohttp.ClientWebSocketResponse, message: Mapping[str, Any]) -> None:
    await socket.send_str(orjson.dumps(message).decode())


def _heard(client: DirectusClient, message: Mapping[str, Any], wanted: Sequence[Wanted]) -> Heard | None:
    number, kind = message.get("id"), message.get("type")
    if not isinstance(number, str) or not number.isdecimal() or int(number) >= len(wanted):
        return None
    each = wanted[int(number)]
    if kind in ("error", "complete"):
        raise NotServed(
            client.part, f"Directus does not report changes of {each.collection} over its GraphQL WebSocket"
        )
    payload = message.get("payload")
    data = payload.get("data") if isinstance(payload, dict) else None
    event = data.get(f"{each.collection}_mutated") if isinstance(data, dict) else None
    if kind != "next" or not isinstance(event, dict) or event.get("key") is None:
        return None
    key = str(event["key"])
    if each.action == "delete":
        return Heard(each.collection, "delete", keys=[key])
    row = event.get("data")
    return Heard(each.collection, each.action, rows=[{**row, "id": key}]) if isinstance(row, dict) else None
