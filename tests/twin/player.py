"""Plays random changes, and all that happens to a cache beside them, through both caches."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

from sidecar.changes import (
    AddMessage,
    Change,
    ChatInCache,
    DeleteChat,
    DoomChat,
    MessageElsewhere,
    MessageStatus,
    NewEpoch,
    Notify,
    PutDraft,
    PutTitle,
    Restore,
    RestoredDraft,
    RestoredTitle,
    Stored,
    Unmerged,
    What,
)
from sidecar.ids import ChatId, ConnectionId, DeviceId, KeyReference, UserHash, chat_id_of, message_id_of
from sidecar.records import Deleted, MessageInDB, Sealed
from tests.twin.pair import LISTENERS, Pair

_BEGUN = datetime(2026, 5, 1, tzinfo=UTC)


class Player:
    """One person's random life. `played` counts the changes."""

    def __init__(self, pair: Pair, user: UserHash, seed: int) -> None:
        self.pair = pair
        self.user = user
        self.chance = Random(seed)
        self.played = 0
        self._sent: list[Change] = []
        self._generation = 0
        self._known: dict[ChatId, ChatInCache | Deleted] = {}
        self._old: list[ChatInCache] = []

    def _chats(self) -> list[ChatId]:
        # An id is never used again, so a person who deletes goes on to new ones.
        return [chat_id_of(self.user, f"{name}-{self._generation}") for name in "abcde"]

    async def play(self, changes: int) -> None:
        while self.played < changes:
            draw = self.chance.random()
            if draw < 0.80:
                await self._change()
            elif draw < 0.86:
                await self._outbox()
            elif draw < 0.91:
                await self._look()
            elif draw < 0.97:
                await self._fill()
            else:
                await self._lose()
            if self.played % 400 == 399:
                self._generation += 1

    # -- changes -----------------------------------------------------------------------------------------------------------

    async def _change(self) -> None:
        chance = self.chance
        if self._sent and chance.random() < 0.12:
            change = chance.choice(self._sent[-30:])
            if chance.random() < 0.1:
                change = replace(change, digest=b"another frame...")
        else:
            change = self._new()
            if change.operation is not None:
                self._sent.append(change)
        outcome = await self.pair.commit(change)
        self.played += 1
        if isinstance(outcome, Unmerged) and chance.random() < 0.8:
            await self.pair.prepare([change.chat_id])
            if isinstance(change.what, AddMessage) and chance.random() < 0.8:
                known = self._known.get(change.chat_id)
                seen = known.messages_version if isinstance(known, ChatInCache) else None
                change = replace(change, what=replace(change.what, seen=seen))
            await self.pair.commit(change)
            self.played += 1
        if chance.random() < 0.25:
            await self._refresh()

    async def _refresh(self) -> None:
        self._known = await self.pair.read(self._chats(), use=self.chance.random() < 0.3)
        self._old = [*self._old[-20:], *(each for each in self._known.values() if isinstance(each, ChatInCache))]

    def _new(self) -> Change:
        chance = self.chance
        chat_id = chance.choice(self._chats())
        found = self._known.get(chat_id)
        chat = found if isinstance(found, ChatInCache) else None
        what = self._what(chat_id, chat)
        by_client = isinstance(what, PutDraft | PutTitle | Restore | AddMessage | DoomChat)
        operation = f"op-{chance.getrandbits(64):x}" if by_client and chance.random() < 0.95 else None
        return Change(
            user=self.user,
            device=DeviceId(chance.choice(["phone", "laptop"])) if chance.random() < 0.9 else None,
            chat_id=chat_id,
            key=KeyReference(f"key of {chat_id}"),
            operation=operation,
            digest=hashlib.sha256(repr(what).encode()).digest()[:16] if operation else b"",
            at=_BEGUN + timedelta(milliseconds=self.played + chance.randint(-50, 50)),
            what=what,
            connection=ConnectionId("tab") if chance.random() < 0.9 else None,
        )

    def _base(self, version: int) -> int:
        return max(0, version + self.chance.choice([0, 0, 0, 0, 0, 0, -1, 1, 2]))

    def _op(self, op: str | None) -> str | None:
        return self.chance.choice([op, op, None, "another"])

    def _text(self) -> Sealed:
        size = self.chance.choice([5, 50, 500, 5000]) if self.chance.random() < 0.9 else 15_000
        return Sealed(self.chance.randbytes(size))

    def _what(self, chat_id: ChatId, chat: ChatInCache | None) -> What:
        chance = self.chance
        draft, title = (chat.version, chat.title_version) if chat is not None else (0, 0)
        draw = chance.random()
        if draw < 0.34:
            text = self._text() if chance.random() < 0.85 else None
            return PutDraft(text, self._base(draft), self._op(chat.draft_op if chat else None), chance.random() < 0.5)
        if draw < 0.44:
            text = self._text() if chance.random() < 0.8 else None
            return PutTitle(text, self._base(title), self._op(chat.title_op if chat else None))
        if draw < 0.56:
            return self._restore(chat)
        if draw < 0.76:
            return self._message(chat_id, chat)
        messages = chat.messages if chat is not None else ()
        message_id = chance.choice(messages).id if messages else message_id_of(chat_id, "m0")
        if draw < 0.80:
            return MessageStatus(message_id, chance.choice(["sent", "delivered", "error"]))
        if draw < 0.81:
            return MessageElsewhere(message_id, deleted=chance.random() < 0.6)
        if draw < 0.95:
            return Stored(self._base(draft), self._base(title), message_id if chance.random() < 0.8 else None)
        if draw < 0.965:
            return DoomChat()
        if draw < 0.98:
            return DeleteChat()
        if draw < 0.985:
            return NewEpoch("nobody's")
        return Notify(chance.choice(["erased", "device_added", "device_revoked"]))

    def _restore(self, chat: ChatInCache | None) -> Restore:
        chance = self.chance
        draft = RestoredDraft(
            self._text() if chance.random() < 0.8 else None,
            chance.choice(["edited", "consumed", "deleted", "none"]),
            self._base(chat.version if chat else 1),
            self._op(chat.draft_op if chat else "first"),
        )
        title = RestoredTitle(
            self._text() if chance.random() < 0.8 else None,
            self._base(chat.title_version if chat else 1),
            self._op(chat.title_op if chat else "first"),
        )
        return Restore(
            draft if chance.random() < 0.8 else None,
            title if chance.random() < 0.5 else None,
            self._base(chat.messages_version if chat else 0),
        )

    def _message(self, chat_id: ChatId, chat: ChatInCache | None) -> AddMessage:
        chance = self.chance
        name = f"m{chance.randint(0, 12)}"
        return AddMessage(
            MessageInDB(
                id=message_id_of(chat_id, name),
                chat_id=chat_id,
                hashed_user_id=self.user,
                client_message_id=name if chance.random() < 0.9 else None,
                role="user",
                sender_name="Alice" if chance.random() < 0.9 else None,
                content=self._text(),
                sequence=chance.randint(0, 9),
                created_at=_BEGUN,
            ),
            self._base(chat.version if chat else 0) if chance.random() < 0.7 else None,
            self._op(chat.draft_op if chat else None),
            stored=chance.random() < 0.1,
            seen=chat.messages_version if chat and chance.random() < 0.7 else None,
        )

    # -- what happens beside -------------------------------------------------------------------------------------------------

    async def _outbox(self) -> None:
        pair, chance = self.pair, self.chance
        plugin = chance.choice(LISTENERS)
        if chance.random() < 0.3:
            await pair.hurry()
        entries, ids = await pair.entries(plugin)
        drawn = {entry.id: chance.random() for entry in entries}
        done = [name for name, draw in drawn.items() if draw < 0.6]
        failed = [name for name, draw in drawn.items() if 0.6 <= draw < 0.75]
        aside = [name for name, draw in drawn.items() if draw > 0.93]
        await pair.settle(plugin, done, failed, aside, ids)
        if chance.random() < 0.5:
            parked = [entry.id for entry in await pair.parked(plugin)]
            replay = [name for name in parked if chance.random() < 0.5]
            await pair.parked(plugin, replay, [name for name in parked if chance.random() < 0.3])
        await pair.positions()

    async def _look(self) -> None:
        chance = self.chance
        damage = chance.choice(["", "", "", "", "", "", "", "older", "ahead", "tag"])
        await self.pair.events(chance.randint(0, 60), chance.choice([1, 5, 200]), damage)

    async def _fill(self) -> None:
        chance = self.chance
        chat_id = chance.choice(self._chats())
        await self.pair.prepare([chat_id])
        if chance.random() < 0.3:
            await self._change()
        if chance.random() < 0.03:
            await self.pair.fill([Deleted(self.user, chat_id, _BEGUN)])
            return
        olds = [chat for chat in self._old if chat.id == chat_id]
        if olds:
            chat = chance.choice(olds)
            more = chance.choice([0, 0, 1, 3])
            chat = chat.having(
                version=chat.version + more,
                stored_version=chat.version + chance.choice([0, more]),
                messages_version=chat.messages_version + chance.choice([0, 1]),
                in_store=True,
            )
            await self.pair.fill([chat], older=chance.random() < 0.1)
        if chance.random() < 0.5:
            await self._refresh()

    async def _lose(self) -> None:
        if self.chance.random() < 0.05:
            await self.pair.drop(None)
        else:
            await self.pair.drop([chat for chat in self._chats() if self.chance.random() < 0.4])
