"""A client's sync: what it asks with, and what it does with the answer once it is complete (semantics §6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.model.mirror import Mirror
from tests.model.reference import Broken


class Sync:
    """The sync of one client. Between its request and `complete` nothing is applied."""

    def __init__(self, mirror: Mirror) -> None:
        self.tab = mirror.tab
        self.mirror = mirror
        self.surplus = 0
        """Chats that the last one told of although the cursor was as far as everything that this client was told."""
        self._id: str | None = None
        self._buffer: list[dict[str, Any]] = []
        self._named: set[str] = set()
        self._dead_before: set[str] = set()

    def request(self, *, with_cursor: bool) -> None:
        tab = self.tab
        tab.synced = False
        self._buffer = []
        self._id = f"s{tab.world.number()}"
        held = []
        for chat in tab.chats.values():
            if not chat.told:
                continue
            named: dict[str, Any] = {
                "id": chat.id,
                "version": chat.draft.version,
                "titleVersion": chat.title.version,
                "messagesVersion": chat.known,
            }
            if chat.draft.op is not None:
                named["op"] = chat.draft.op
            if chat.title.op is not None:
                named["titleOp"] = chat.title.op
            held.append(named)
        self._named = {each["id"] for each in held}
        self._dead_before = tab.dead - tab.deletions.keys()
        payload: dict[str, Any] = {"chats": held}
        if with_cursor and tab.cursor is not None:
            payload["cursor"] = tab.cursor
        if tab.last_open is not None:
            payload["lastOpenChatId"] = tab.last_open
        tab.send("sync_request", self._id, payload)

    def offline(self) -> None:
        """The connection is gone."""
        tab = self.tab
        tab.synced = False
        self._id = None
        self._buffer = []
        tab.asked = {}
        tab.forget_waiting()

    def answer(self, type_: str, re: str, payload: dict[str, Any]) -> None:
        """A frame of the answer."""
        if re != self._id:
            return
        if type_ == "error":
            self.tab.expect_unavailable(payload, "sync_request")
            self.tab.rest(None, lambda: self.request(with_cursor=True) if self._id == re else None)
            self._buffer = []
            return
        self._buffer.append(payload)
        if payload["complete"]:
            frames, self._buffer, self._id = self._buffer, [], None
            self._complete(type_, frames)

    def _complete(self, type_: str, frames: list[dict[str, Any]]) -> None:
        tab = self.tab
        cursor: str = frames[-1]["cursor"]
        epoch = cursor.partition(".")[0]
        another = epoch != tab.epoch
        tab.cursor, tab.epoch = cursor, epoch
        chats = [chat for each in frames for chat in each["chats"]]
        self.surplus = 0 if tab.behind else len(chats)
        tab.behind = False
        self._once(type_, chats)
        missing = {chat_id for each in frames for chat_id in each["missing"]}
        risen = self._dead_before & {chat["id"] for chat in chats}
        if risen:
            raise Broken(f"{tab.name} was told that {risen} are deleted, and then asked and was told of them")
        if another and type_ == "initial_sync_data":
            for chat_id in self._named & tab.chats.keys():
                # A new epoch: what was there before counts no longer, the server sends it whole or is asked for it.
                tab.chats[chat_id].messages = {}
                tab.chats[chat_id].early = {}
                tab.chats[chat_id].incomplete = tab.chats[chat_id].known > 0
        for response in chats:
            self.mirror.response(response, "block" if type_ == "initial_sync_data" else "part")
        for gone in [gone for each in frames for gone in each["deleted"]]:
            self.mirror.told_deleted(gone["id"])  # last: it may have happened between two phases
        told = {
            name: {chat["id"]: chat[name] for chat in chats if name in chat} for name in ("version", "title_version")
        }
        for chat_id in self._named:
            held = tab.chats.get(chat_id)
            if held is None:
                continue
            if chat_id in missing:
                if not tab.world.losses:
                    raise Broken(f"nothing was ever lost, and {tab.name} was told that {chat_id} is missing")
                tab.restore(held)
            else:
                # Not missing by now; but of what this very sync told in an older version the server had lost the rest, and
                # what it has instead may come from another device.
                if told["version"].get(chat_id, held.draft.version) >= held.draft.version:
                    held.draft.confirmed = epoch
                if told["title_version"].get(chat_id, held.title.version) >= held.title.version:
                    held.title.confirmed = epoch
        tab.synced = True
        self._carry_on()

    @staticmethod
    def _once(type_: str, chats: list[dict[str, Any]]) -> None:
        for part in ("version", "messages"):
            ids = [chat["id"] for chat in chats if part in chat]
            if len(ids) != len(set(ids)):
                raise Broken(f"{type_} told a chat twice: {ids}")

    def _carry_on(self) -> None:
        """After `complete`: what is open goes again, same ids."""
        tab = self.tab
        tab.forget_waiting()
        for message_id, (chat_id, op) in tab.outbox.items():
            chat = tab.chats[chat_id]
            if op in chat.ops:
                continue
            shown = chat.messages.get(message_id)
            if shown is None or shown.status != "delivered":
                op.resend = True
                if tab.world.chance.random() < 0.3:
                    # Another id will do as well: the message's own id tells that it is the same.
                    op = replace(op, id=tab.new_id())
                    tab.outbox[message_id] = (chat_id, op)
                op.waiting = False
                chat.ops.insert(0, op)
        for chat in list(tab.chats.values()):
            if chat.stub:
                tab.ask_for(chat)
            if chat.incomplete:
                tab.fetch(chat)
            tab.push(chat)
        tab.push_deletions()
