"""A person with many chats, written into the key file and the store as the sidecar itself would have, before it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import orjson

from bench.drafts import example
from plugins.encryption.local import Local
from plugins.persistence.sqlite import Sqlite
from sidecar import ChatId, ChatInDB, Cipher, Field, MessageInDB, Surroundings, UserHash
from sidecar.ids import chat_id_of, hash_user, message_id_of

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_AT_ONCE = 500
_TEXTS = ("short", "emoji_nodes", "emoji", "mentions", "code", "lists")


class Keys(Protocol):
    """A plugin that fills the slot `encryption`."""

    async def provide_encryption(self) -> Cipher: ...


class Stored(Protocol):
    """A plugin that writes down chats and messages."""

    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None: ...

    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None: ...


def client_chat_id(number: int) -> str:
    """The client's id of the n-th chat; 0 is the one changed last."""
    return f"seeded-{number}"


async def seed(
    data_dir: Path,
    name: str,
    chats: int,
    messages: int,
    *,
    drafts: bool,
    keys: Keys | None = None,
    store: Stored | None = None,
) -> None:
    """Gives the user `name` so many chats with so many messages each; every chat with a title and, if wanted, a 2 KB draft.

    The sidecar must not run on `data_dir`, which is made if need be. `keys`: an entered plugin that has the keys; without it
    they are in the key file there. `store`: likewise one that has the rows, instead of the database there.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    surroundings = Surroundings(data_dir=data_dir, host="127.0.0.1")
    user = hash_user(name)
    texts = [orjson.dumps(example(text)) for text in _TEXTS]
    draft = orjson.dumps(example("draft_2kb")) if drafts else None
    async with AsyncExitStack() as stack:
        if keys is None:
            keys = await stack.enter_async_context(Local(Local.Options(), surroundings))
        if store is None:
            store = await stack.enter_async_context(Sqlite(Sqlite.Options(), surroundings))
        cipher = await keys.provide_encryption()
        for start in range(0, chats, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, chats))
            made = await asyncio.gather(
                *(_chat(cipher, user, number, texts, messages, draft) for number in numbers),
            )
            await asyncio.gather(*(_write(store, chat, written) for chat, written in made))


async def _write(store: Stored, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
    await store.on_first_message(chat, messages[0])
    await asyncio.gather(*(store.on_message(chat, message) for message in messages[1:]))


async def _chat(
    cipher: Cipher, user: UserHash, number: int, texts: Sequence[bytes], messages: int, draft: bytes | None
) -> tuple[ChatInDB, Sequence[MessageInDB]]:
    chat_id: ChatId = chat_id_of(user, client_chat_id(number))
    key = await cipher.begin(user, chat_id)
    at = _BEGAN - timedelta(minutes=number)
    written = []
    for sequence in range(1, messages + 1):
        client_message_id = f"message-{sequence}"
        message_id = message_id_of(chat_id, client_message_id)
        text = texts[(number + sequence) % len(texts)]
        written.append(
            MessageInDB(
                id=message_id,
                chat_id=chat_id,
                hashed_user_id=user,
                client_message_id=client_message_id,
                role="user",
                sender_name=None,
                content=await cipher.seal(key, Field(user, chat_id, "message", message_id, 0), text),
                sequence=sequence,
                created_at=at,
            )
        )
    title = await cipher.seal(key, Field(user, chat_id, "title", chat_id, 1), f"Chat number {number}".encode())
    sealed = None
    if draft is not None:
        sealed = await cipher.seal(key, Field(user, chat_id, "draft", chat_id, 1), draft)
    chat = ChatInDB(
        id=chat_id,
        hashed_user_id=user,
        vault_key_reference=key,
        title=title,
        title_version=1,
        title_op=f"title-{number}",
        draft=sealed,
        version=1 if sealed is not None else 0,
        draft_op=f"draft-{number}" if sealed is not None else None,
        draft_state="edited" if sealed is not None else "none",
        messages_version=2 * messages,  # each message was new once, and delivered once
        created_at=at,
        updated_at=at,
        last_message_timestamp=at,
    )
    return chat, written
