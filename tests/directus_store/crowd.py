"""People who write while Directus is in trouble, and what must hold of its rows afterwards."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sidecar.ids import hash_user
from sidecar.server.running import Server
from tests.device import Device, Frame, doc
from tests.directus_store.world import Prepared
from tests.integration.world import settled

FULL = os.environ.get("DIRECTUS_FULL") == "true"
"""The faults have the numbers that their rows in faults.md name, and take the time."""
LOOK = {"changes": "look"}


async def say(device: Device, chat: str, *numbers: int, text: str = "hello") -> list[str]:
    """Sends these messages, each accepted; their ids."""
    ids = []
    for number in numbers:
        sent = {"tempChatId": chat, "clientMessageId": f"{chat}-{number}", "content": doc(f"{text} {number}")}
        answer = await device.ask("message_send", sent)
        assert answer["type"] == "message_accepted", answer
        assert answer["payload"]["message"]["status"] == "sent"
        ids.append(answer["payload"]["message"]["id"])
    return ids


@asynccontextmanager
async def crowd(server: Server, people: Sequence[str]) -> AsyncIterator[list[Device]]:
    devices = [Device(server.url, person, wait=60) for person in people]
    try:
        await asyncio.gather(*(device.open() for device in devices))
        yield devices
    finally:
        await asyncio.gather(*(device.close() for device in devices))


@asynccontextmanager
async def talking(server: Server, people: Sequence[str]) -> AsyncIterator[list[Device]]:
    """As `crowd`, and each has a chat with a message that is stored."""
    async with crowd(server, people) as devices:
        await asyncio.gather(*(say(device, "one", 0) for device in devices))
        await settled(server)
        yield devices


async def in_order(directus: Prepared, people: Sequence[str]) -> int:
    """How many messages there are; each once, in the order of its chat, each chat with at least one of them."""
    condition = {"hashed_user_id": {"_in": [hash_user(person) for person in people]}}
    messages = await directus.rows("messages", filter=condition, sort=["chat_id", "sequence"])
    chats = {row["id"] for row in await directus.rows("chats", filter=condition)}
    by_chat: dict[str, list[int]] = {}
    for row in messages:
        by_chat.setdefault(row["chat_id"], []).append(row["sequence"])
        number = int(row["client_message_id"].rpartition("-")[2])
        assert number == row["sequence"] - 1, "in the order in which they were sent"
    assert set(by_chat) == chats
    for sequences in by_chat.values():
        assert sequences == list(range(1, len(sequences) + 1))
    return len(messages)


def tells(message_id: str, status: str, event: Frame) -> bool:
    return (event["messageId"], event["status"]) == (message_id, status)


async def nothing_parked(server: Server) -> None:
    assert await server.context.parts.cache.outbox.parked("persistence") == []


async def all_stored(server: Server, directus: Prepared, people: Sequence[str], messages: int) -> None:
    """Waits until nothing is left to deliver: then these messages are there, in order, and none was given up."""
    await settled(server, 120)  # the worker pauses for up to a minute
    assert await in_order(directus, people) == messages
    await nothing_parked(server)
