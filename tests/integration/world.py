"""What the scenario tests do around the sidecar: look into its files, take its store away, empty its cache."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from plugins.cache.memory_chats import MemoryChats
from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_records import unpack
from plugins.encryption.local import LocalCipher
from plugins.persistence.sqlite_store import SqliteStore
from sidecar import ChatId, ChatInCache, Chats, Unavailable, UserHash
from sidecar.server.running import Server
from tests.device import Device, Frame, doc

AT_ONCE = {"debounce": "0s", "max_debounce": "0s"}
"""Drafts and titles go to the store without delay."""
NEVER = {"debounce": "10m", "max_debounce": "10m"}
"""Nothing goes to the store but messages, and what goes with them."""

FAST = {"frames_per_second": 5000, "burst": 5000}
"""No limit of frames that a test could meet."""


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Returns when the condition holds; fails the test if it does not come to hold."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


async def settled(server: Server, seconds: float = 15.0) -> None:
    """Returns when the outbox has delivered everything that is due now or later."""
    outbox = server.context.parts.cache.outbox

    async def empty() -> bool:
        server.context.worker.wake()
        return not await _due(server) and not any(position.pending for position in (await outbox.positions()).values())

    await outbox.hurry()
    await until(empty, seconds)


async def fields_of_person(chats: Chats, user: UserHash) -> list[Any]:
    """What the Redis cache has of a person beside chats, in the order of `redis_layout.PERSON`."""
    redis = cast("RedisChats", chats)
    [client] = await redis._link.clients()
    async with client:
        packed = cast("bytes", await client.hget(redis._keys.person(user)[0], "p"))
    return cast("list[Any]", unpack(packed))


async def _due(server: Server) -> int:
    """How many chats were edited and have no entry for it in the outbox yet."""
    chats = server.context.parts.cache.chats
    if isinstance(chats, MemoryChats):
        return len(chats._state.dues._marks)
    redis = cast("RedisChats", chats)
    due = [redis._keys.key(shard, "due") for shard in range(redis._keys.shards)]
    if (nodes := redis._link._nodes) is not None:
        return sum([await nodes._cluster.zcard(key) for key in due])
    [client] = await redis._link.clients()
    async with client:
        return sum([await client.zcard(key) for key in due])


def shard_of(server: Server, device: Device) -> str:
    """The name of the lease on the work of this person's shard."""
    return f"outbox:{server.context.parts.cache.outbox.shard_of(UserHash(device.user))}"


async def stop_outbox(server: Server) -> None:
    """From now on nothing is delivered by this process, as if it were about to be killed."""
    tasks = server.context.worker._tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def lose_cache(server: Server, device: Device) -> None:
    """Everything that the cache had of this person is gone: chats, log, epoch, outcomes, tombstones."""
    await server.context.parts.cache.chats.drop(UserHash(device.user), None)


async def cached(server: Server, chat_id: str) -> ChatInCache | None:
    """The chat as the cache has it, found without using it; None when it is not there."""
    chats = server.context.parts.cache.chats
    for context in server.context.registry:
        found = (await chats.read(context.user, [ChatId(chat_id)])).get(ChatId(chat_id))
        if isinstance(found, ChatInCache):
            return found
    return None


def key_count(server: Server) -> int:
    """How many chats have a key that is not destroyed."""
    return cast("LocalCipher", server.context.parts.cipher).counts()[0]


def rows(folder: Path, statement: str, *values: object) -> list[sqlite3.Row]:
    """What the store's file answers to a query or a change made by hand."""
    with closing(sqlite3.connect(folder / "data" / "store.sqlite", timeout=5.0)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(statement, values).fetchall()
        connection.commit()
        return found


@contextmanager
def store_away(server: Server, *, reads: bool = True, writes: bool = True) -> Iterator[list[str]]:
    """The store answers `Unavailable` meanwhile; gives the calls that were refused."""
    connections = cast("SqliteStore", server.context.parts.store)._connections
    refused: list[str] = []

    def refusing(what: str) -> Callable[..., Awaitable[Any]]:
        async def refuse(*_: object, **__: object) -> Any:
            refused.append(what)
            raise Unavailable("persistence", "away for the test", retry_after=0.05)

        return refuse

    with pytest.MonkeyPatch.context() as patch:
        if reads:
            patch.setattr(connections, "read", refusing("read"))
        if writes:
            patch.setattr(connections, "write", refusing("write"))
        yield refused


@contextmanager
def slow_reads(server: Server) -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Reads of the store hang after they read, until the second event is set; the first says that one hangs."""
    connections = cast("SqliteStore", server.context.parts.store)._connections
    hanging, go_on = asyncio.Event(), asyncio.Event()
    read = connections.read

    async def slow(query: Any) -> Any:
        found = await read(query)
        hanging.set()
        await go_on.wait()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "read", slow)
        yield hanging, go_on
        go_on.set()


def of_chat(chat_id: str) -> Callable[[Frame], bool]:
    """Which events are about this chat."""
    return lambda event: chat_id in (event.get("chatId"), event.get("message", {}).get("chat_id"))


def of_message(message_id: str) -> Callable[[Frame], bool]:
    """Which events are about this message."""
    return lambda event: event.get("messageId") == message_id


def chats_of(frames: Sequence[Frame]) -> dict[str, Frame]:
    """The chats of a sync's or page's frames, field by field as a client takes them together."""
    chats: dict[str, Frame] = {}
    for frame in frames:
        for chat in frame["chats"]:
            chats.setdefault(chat["id"], {}).update(chat)
    return chats


def held(chat: Frame) -> dict[str, Any]:
    """What a device says of a chat that it holds like this."""
    return {
        "id": chat["id"],
        "version": chat["version"],
        "op": chat["draft_op"],
        "titleVersion": chat["title_version"],
        "titleOp": chat["title_op"],
        "messagesVersion": chat["messages_version"],
    }


async def record(device: Device, chat_id: str) -> Frame:
    """The chat as the server gives it on demand."""
    answer = await device.ask("chats_request", {"ids": [chat_id]})
    assert answer["type"] == "chats_page", answer
    [chat] = answer["payload"]["chats"]
    return cast("Frame", chat)


@asynccontextmanager
async def devices(server: Server, count: int, name: str = "alice", *, sync: bool = True) -> AsyncIterator[list[Device]]:
    """Devices of one person, ready (and synced)."""
    opened: list[Device] = []
    try:
        for _ in range(count):
            device = await Device(server.url, name).open()
            opened.append(device)
            if sync:
                await device.sync()
        yield opened
    finally:
        for device in opened:
            await device.close()


async def begin(device: Device, chat: str, content: Any) -> Frame:
    """A new chat with this draft: the payload of `chat_initiated`."""
    answer = await device.ask("draft_update", {"tempChatId": chat, "content": content, "basedOnVersion": 0})
    assert answer["type"] == "chat_initiated", answer
    return cast("Frame", answer["payload"])


async def edit_by_turns(devices: Sequence[Device], chat: str, edits: int) -> None:
    """Each in turn edits a draft that is new: every version is the next one, and everybody else is told of it, in their order."""
    for version in range(1, edits + 1):
        writer = devices[version % len(devices)]
        edit = {"chatId": chat, "content": doc(f"{version}"), "basedOnVersion": version}
        said = await writer.ask("draft_update", edit)
        assert (said["type"], said["payload"].get("version")) == ("draft_updated", version + 1), said
        for device in devices:
            if device is not writer:
                told = await device.event("draft_updated")
                assert (told["version"], told["content"]) == (version + 1, doc(f"{version}"))


async def say(device: Device, chat: str, message: str, content: Any, **more: Any) -> Frame:
    """A message: the payload of `message_accepted`."""
    answer = await device.ask(
        "message_send", {"tempChatId": chat, "clientMessageId": message, "content": content, **more}
    )
    assert answer["type"] == "message_accepted", answer
    return cast("Frame", answer["payload"])


async def many_messages(device: Device, chats: range, **more: Any) -> None:
    """A chat with one message for each number, in this order."""
    ids = [
        await device.send(
            "message_send", {"tempChatId": f"c{number}", "clientMessageId": "m1", "content": doc(f"{number}"), **more}
        )
        for number in chats
    ]
    for id_ in ids:
        answer = await device.answer(id_)
        assert answer["type"] == "message_accepted", answer


def named(chat: str, version: int = 0, title: int = 0, messages: int = 0, op: str | None = None) -> dict[str, Any]:
    """What a device says that it holds."""
    return {"id": chat, "version": version, "op": op, "titleVersion": title, "messagesVersion": messages}


def restore_of(chat: Frame) -> dict[str, Any]:
    """What a device sends that holds the chat like this."""
    payload: dict[str, Any] = {"chatId": chat["id"], "messagesVersion": chat["messages_version"]}
    if chat["version"]:
        payload["draft"] = {
            "content": chat["draft"],
            "state": chat["draft_state"],
            "version": chat["version"],
            "op": chat["draft_op"],
        }
    if chat["title_version"]:
        payload["title"] = {"title": chat["title"], "version": chat["title_version"], "op": chat["title_op"]}
    return payload
