"""What must hold once nothing moves any more: on the devices, in the store, and against the plain model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from sidecar import ChatId, ChatInDB, Field, MessageId, UserHash
from tests.model.client import Client
from tests.model.documents import token_of
from tests.model.reference import Broken, Reference
from tests.model.world import World

_PATIENCE = 400.0
"""Seconds in which everything must have come to rest, the longest pause of the outbox included."""


class Promises:
    """Those made to these people. Every method raises `Broken` for one that is not kept."""

    def __init__(self, world: World, clients: Sequence[Client], people: Sequence[tuple[UserHash, Reference]]) -> None:
        self._world = world
        self._clients = clients
        self._people = people

    def settle(self, *, again: bool) -> None:
        """All reconnect and sync until nothing moves; then everything that was promised must hold. `again`: twice."""
        self._world.weather.away.clear()
        self._until_quiet()
        self._check()
        if again:
            for client in self._clients:
                client.disconnect(0, 0.0)
            self._until_quiet()
            for client in self._clients:
                if client.sync.surplus:
                    raise Broken(f"nothing changed, and {client.name} was sent {client.sync.surplus} chats")
            self._check()

    def _until_quiet(self) -> None:
        waited, quiet = 0.0, 0
        while quiet < 2:  # twice: what is about to leave the server is nowhere to be seen
            quiet = quiet + 1 if self._quiet() else 0
            for client in self._clients:
                client.connect()
            self._world.pass_time(0.25)
            waited += 0.25
            if waited > _PATIENCE:
                raise Broken(f"this never comes to rest: {self._restless()}")

    def _quiet(self) -> bool:
        if not all(client.quiet for client in self._clients):
            return False
        position = self._world.run(self._world.life.cache.outbox.positions())["persistence"]
        if position.parked:
            raise Broken(f"{position.parked} entries were parked")
        return not position.pending and not self._dirty()

    def _dirty(self) -> bool:
        """Whether a draft or title of a persisted chat waits to be written."""
        for user, _ in self._people:
            ids = [chat_id for client in self._clients if client.user == user for chat_id in client.chats]
            here = self._world.run(self._world.life.cache.chats.read(user, ids))  # type: ignore[arg-type]
            if any(getattr(chat, "dirty", False) and chat.persisted for chat in here.values()):
                return True
        return False

    def _restless(self) -> str:
        return "; ".join(client.unrest for client in self._clients if not client.quiet)

    def _check(self) -> None:
        for user, reference in self._people:
            clients = [client for client in self._clients if client.user == user]
            shown = clients[0].shown
            for client in clients[1:]:
                if client.shown != shown:
                    raise Broken(f"devices disagree:\n{_difference(clients[0], client)}")
            self._check_texts(reference, shown)
            self._check_messages(reference, shown)
            self._world.run(self._check_rows(user, shown))

    @staticmethod
    def _check_texts(reference: Reference, shown: dict[str, Any]) -> None:
        current = [chat[name][0] for chat in shown.values() for name in ("draft", "title")]
        messages = [text for chat in shown.values() for _, text, _ in chat["messages"]]
        lost = reference.lost(current, messages)
        if lost:
            raise Broken(f"gone: {[(token, reference.typed[token]) for token in lost]}")
        drafts = {chat_id: chat["draft"][0] for chat_id, chat in shown.items()}
        back = reference.come_back(drafts, reference.consumed)
        if back:
            raise Broken(f"sent or removed, and back: {back}")
        alive = reference.gone & shown.keys()
        if alive:
            raise Broken(f"deleted, and back: {alive}")

    @staticmethod
    def _check_messages(reference: Reference, shown: dict[str, Any]) -> None:
        for chat_id, chat in shown.items():
            sequences = [sequence for sequence, _, _ in chat["messages"]]
            texts = [text for _, text, _ in chat["messages"]]
            if len(sequences) != len(set(sequences)) or len(texts) != len(set(texts)):
                raise Broken(f"{chat_id} has {chat['messages']}")
            if any(status != "delivered" for _, _, status in chat["messages"]):
                raise Broken(f"{chat_id} has not delivered {chat['messages']}")
            sent = {
                token for token, typed in reference.typed.items() if (typed.chat, typed.what) == (chat_id, "message")
            }
            if sent != set(texts):
                raise Broken(f"{chat_id} shows {texts}, and {sent} were sent")

    async def _check_rows(self, user: UserHash, shown: dict[str, Any]) -> None:
        """The store opens to exactly what devices show, and knows nothing of a chat without a message."""
        life = self._world.life
        page = await life.sqlite.on_sync(user, None, 1000)
        stored = {chat_id: chat for chat_id, chat in shown.items() if chat["messages"]}
        if {row.id for row in page.items} != stored.keys() or len(page.items) != page.total:
            raise Broken(f"the store has {sorted(row.id for row in page.items)}, devices show {sorted(stored)}")
        for row in page.items:
            opened = await self._opened(row)
            if opened != stored[row.id]:
                raise Broken(f"the store has {opened} of {row.id}, devices show {stored[row.id]}")

    async def _opened(self, row: ChatInDB) -> dict[str, Any]:
        life, user, key = self._world.life, row.hashed_user_id, row.vault_key_reference
        draft = title = None
        if row.draft is not None:
            draft = _text(await life.cipher.open(key, Field(user, row.id, "draft", row.id, row.version), row.draft))
        if row.title is not None:
            field = Field(user, row.id, "title", row.id, row.title_version)
            title = (await life.cipher.open(key, field, row.title)).decode()
        page = await life.store.messages(user, row.id, None, 1000)
        messages = [
            (
                message.sequence,
                _text(await life.cipher.open(key, Field(user, row.id, "message", message.id, 0), message.content)),
                "delivered",
            )
            for message in reversed(page.items)
        ]
        return {
            "draft": (draft, row.draft_state, row.version, row.draft_op),
            "title": (title, row.title_version, row.title_op),
            "messages": messages,
            "messages_version": row.messages_version,
        }

    def stored(self) -> None:
        """Before the cache goes: what a device was told to be stored is in the store, at least in that version."""
        self._world.run(self._look_up())

    async def _look_up(self) -> None:
        store = self._world.life.store
        # First what they were told until now: more is told while the store is asked.
        told = [
            (
                client,
                chat.id,
                chat.draft.version if chat.draft.stored else 0,
                chat.title.version if chat.title.stored else 0,
                [each for each, message in chat.messages.items() if message.status == "delivered"],
            )
            for client in self._clients
            for chat in client.chats.values()
            if chat.id not in self._doomed()
        ]
        for client, chat_id, version, title_version, delivered in told:
            row = (await store.known(client.user, [ChatId(chat_id)])).get(ChatId(chat_id))
            there = (row.version, row.title_version) if row is not None else (0, 0)
            if there[0] < version or there[1] < title_version:
                raise Broken(
                    f"{client.name} was told that {version, title_version} of {chat_id} is stored, not {there}"
                )
            if len(await store.find(client.user, ChatId(chat_id), [MessageId(each) for each in delivered])) < len(
                delivered
            ):
                raise Broken(f"{client.name} was told of delivered messages of {chat_id} that the store lacks")

    def _doomed(self) -> set[str]:
        return {chat_id for _, reference in self._people for chat_id in reference.deleted}


def _text(raw: bytes) -> str | None:
    return token_of(orjson.loads(raw))


def _difference(one: Client, other: Client) -> str:
    mine, theirs = one.shown, other.shown
    return "\n".join(
        f"{chat_id}\n  {one.name}: {mine.get(chat_id)}\n  {other.name}: {theirs.get(chat_id)}"
        for chat_id in sorted(mine.keys() | theirs.keys())
        if mine.get(chat_id) != theirs.get(chat_id)
    )
