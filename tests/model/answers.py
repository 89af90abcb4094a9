"""Answers to a client's operations: accepted, refused, missing, deleted, not now (semantics §1–§4)."""

from __future__ import annotations

from typing import Any

from tests.model.documents import token_of
from tests.model.held import Held, Op
from tests.model.mirror import Mirror
from tests.model.reference import Broken, FieldName

_STATES = {"stale": "edited", "consumed": "consumed", "deleted": "deleted"}
"""Of a draft that won, by the reason of the conflict."""


class Answers:
    """What one client does with them."""

    def __init__(self, mirror: Mirror) -> None:
        self.tab = mirror.tab
        self.mirror = mirror
        self.reference = mirror.reference

    def take(self, type_: str, re: str, payload: dict[str, Any]) -> None:
        """An answer to the operation `re`, open or not."""
        tab = self.tab
        if not tab.synced:
            return
        for chat_id, op in tab.deletions.items():
            if op.id == re:
                self._deletion(chat_id, op, type_, payload)
                return
        for chat in tab.chats.values():
            for op in chat.ops:
                if op.id == re:
                    self._operation(chat, op, type_, payload)
                    return
        if type_ == "error" and payload["code"] != "unavailable":
            raise Broken(f"a repeat of {re} was answered {payload}")
        if "cursor" in payload:
            tab.behind |= tab.is_ahead(payload["cursor"])
        tab.world.weather.replacements.answered(re)
        self._same_again(type_, re, payload)
        for name, old in payload.get("replaced", {}).items():
            self.reference.keep(_replaced_text(name, old))  # a loss made the repeat an operation of its own

    def _deletion(self, chat_id: str, op: Op, type_: str, payload: dict[str, Any]) -> None:
        tab = self.tab
        op.waiting = False
        if type_ == "error":
            tab.expect_unavailable(payload, "chat_delete")
            tab.rest(None, tab.push_deletions)
            return
        if type_ != "chat_deleted":
            raise Broken(f"chat_delete was answered {type_}")
        del tab.deletions[chat_id]
        self.reference.gone.add(chat_id)
        tab.advance(payload["cursor"])

    def _operation(self, chat: Held, op: Op, type_: str, payload: dict[str, Any]) -> None:
        tab = self.tab
        op.waiting = False
        if type_ == "error":
            tab.expect_unavailable(payload, op.type)
            tab.rest(chat, lambda: tab.push(chat))
            return
        if "cursor" in payload:
            tab.advance(payload["cursor"])
        if op.again:
            return  # an answer to its first sending came twice
        tab.world.weather.replacements.answered(op.id)
        self._same_again(type_, op.id, payload)
        refused = type_ in ("draft_conflict", "title_conflict")
        if refused and payload["reason"] == "missing":
            self._missing(chat, op, payload)
        elif type_ == "chat_deleted" or (refused and payload["reason"] == "chat_deleted"):
            self.mirror.told_deleted(chat.id)
            return
        elif refused:
            self._refused(chat, op, payload)
            self._replaced(chat, op, payload)
        else:
            chat.ops.remove(op)
            chat.told = True
            self._accepted(type_, chat, op, payload)
        if chat.id in tab.chats:
            self.mirror.show(chat, "draft")
            self.mirror.show(chat, "title")
            if chat.incomplete:
                tab.fetch(chat)
            tab.push(chat)

    def _same_again(self, type_: str, re: str, payload: dict[str, Any]) -> None:
        match type_:
            case "draft_updated" | "chat_initiated" if payload["op"] == re:
                self.reference.answer(re, "accepted", payload["version"])
            case "title_updated" if payload["op"] == re:
                self.reference.answer(re, "accepted", payload["titleVersion"])
            case "message_accepted":
                consumed = payload["consumed"]
                version = payload["version"] if consumed else None
                self.reference.answer(re, "accepted", payload["message"]["sequence"], consumed, version)
            case "draft_conflict" | "title_conflict" if payload["reason"] not in ("missing", "chat_deleted"):
                self.reference.answer(re, "refused")
            case _:
                pass

    # -- refused -------------------------------------------------------------------------------------------------------

    def _missing(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        name: FieldName = "title" if op.type == "title_update" else "draft"
        version = payload["titleVersion" if name == "title" else "version"]
        before = any(other is not op and other.field == name for other in chat.ops[: chat.ops.index(op)])
        if chat.copy(name).version > version or (version == 0 and chat.told and chat.draft.version + chat.known):
            op.again = True
            self.tab.restore(chat)
        elif before:
            op.again = True  # what it is based on waits for its answer too
        else:
            self._drop(chat, op)

    def _refused(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        take = self.mirror.take
        if op.type == "title_update":
            self._drop(chat, op)
            take(chat, "title", payload["title"], payload["titleVersion"], payload["op"], "edited", stored=False)
            return
        text, version, revised = token_of(payload["content"]), payload["version"], payload["op"]
        state = _STATES[payload["reason"]] if version else "none"
        if op.type == "chat_restore":
            chat.ops.remove(op)
            held = op.payload["draft"]
            if (held["version"], held["op"]) != (version, revised):
                self.reference.keep(token_of(held["content"]))
        else:
            self._drop(chat, op)
        take(chat, "draft", text, version, revised, state, stored=False)

    def _drop(self, chat: Held, op: Op) -> None:
        """The operation lost: its text becomes a conflict copy, and so does what was typed on top of it and has not left."""
        if op not in chat.ops:
            return
        chat.ops.remove(op)
        if op.type in ("draft_update", "title_update"):
            self.reference.keep(op.token)
        for later in list(chat.ops):
            if later.base[1] == op.id and not later.sent:
                if later.type == "message_send":
                    later.field = None  # the revision that it was made from never came to be
                else:
                    self._drop(chat, later)

    # -- accepted ------------------------------------------------------------------------------------------------------

    def _accepted(self, type_: str, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        match type_:
            case "chat_initiated":
                self._initiated(chat, op, payload)
            case "draft_updated":
                self._draft(chat, op, payload)
            case "title_updated":
                self._title(chat, op, payload)
            case "message_accepted":
                self._message(chat, op, payload)
            case "chat_restored":
                self.mirror.response(payload["chat"], "none")
                self._replaced(chat, op, payload)
            case _:
                raise Broken(f"{op.type} was answered {type_}")

    def _initiated(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        if payload["finalChatId"] != chat.id:
            raise Broken(f"{chat.id} became {payload['finalChatId']}")
        self._draft(chat, op, payload)
        self.mirror.response(payload["chat"], "none")

    def _draft(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        own = payload["op"] == op.id
        if own:
            self.reference.step(op.id, op.base[0], payload["version"], chat.id)
        if op.type == "draft_delete":
            if own:
                self.reference.cleared(op.over)
            state = payload["reason"]
        else:
            state = "edited"
        stored = payload["durability"] == "stored"
        self.mirror.take(chat, "draft", op.token, payload["version"], payload["op"], state, stored)

    def _title(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        if payload["op"] == op.id:
            self.reference.step(op.id, op.base[0], payload["titleVersion"], chat.id)
            if op.token is None:
                self.reference.cleared(op.over)
        stored = payload["durability"] == "stored"
        self.mirror.take(chat, "title", op.token, payload["titleVersion"], payload["op"], "edited", stored)

    def _message(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        message = payload["message"]
        self.mirror.message(chat, message)
        if chat.messages[message["id"]].status != "delivered":  # an event may have said so before
            self.tab.outbox[message["id"]] = (chat.id, op)
        chat.known = max(chat.known, payload["messagesVersion"])
        if payload["consumed"]:
            if op.field is None or payload["version"] != op.base[0] + 1:
                raise Broken(f"message {op.id} on {op.base} consumed {payload['version']}")
            if op.over is not None and op.token is not None:
                self.reference.consumed[op.over] = op.token
            self.mirror.take(chat, "draft", None, payload["version"], payload["op"], "consumed", stored=False)
        elif op.field is not None and op.over is not None:
            self.reference.unconsumed(op.id, op.base, (payload["version"], payload["op"]))
        self._replaced(chat, op, payload)

    def _replaced(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        """A text that gave way is this client's to keep, unless its editor had shown it before the operation was made."""
        for name, old in payload.get("replaced", {}).items():
            if chat.held.get((name, old["version"], old["op"]), op.born) >= op.born:
                self.reference.keep(_replaced_text(name, old))


def _replaced_text(name: str, old: dict[str, Any]) -> str | None:
    text: str | None = old["title"] if name == "title" else token_of(old["content"])
    return text
