"""What the server tells, field by field by revision, on what a client holds (semantics §6)."""

from __future__ import annotations

from typing import Any, Literal

from sidecar.ids import message_id_of
from tests.model.documents import token_of
from tests.model.held import Held, Message
from tests.model.reference import Broken, FieldName
from tests.model.tab import Tab

_RANK = {"sent": 0, "error": 0, "streaming": 0, "delivered": 1}


class Mirror:
    """A client's chats as the server tells of them."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.reference = tab.reference

    def heard(self, chat_id: str) -> Held | None:
        """The chat that an event or sync tells of; one that is unknown becomes a stub that is asked for."""
        tab = self.tab
        if chat_id in tab.dead:
            return None  # what happened before may come after: a sync knows more than the events behind its position
        if chat_id[:9] != f"{tab.user[:8]}_":
            raise Broken(f"{tab.name} hears of {chat_id}, which is another person's")
        chat = tab.chats.get(chat_id)
        if chat is None:
            chat = tab.chats[chat_id] = Held(chat_id, stub=True, incomplete=True, told=True)
            if tab.synced:
                tab.ask_for(chat)
                tab.fetch(chat)
        chat.told = True
        return chat

    def response(self, response: dict[str, Any], messages: Literal["block", "part", "none"]) -> None:
        """A `ChatResponse`, field by field. Its messages are the newest, those that changed, or no part of such a frame."""
        if response["undecryptable"]:
            raise Broken(f"{response['id']} does not open: {response['undecryptable']}")
        tab = self.tab
        chat_id = response["id"]
        whole = "version" in response and "title_version" in response
        if whole and chat_id not in tab.chats and chat_id not in tab.dead:
            tab.chats[chat_id] = Held(chat_id, told=True, incomplete=response["persisted"])
        chat = self.heard(chat_id)
        if chat is None:
            return
        stored = response["durability"] == "stored"
        if "version" in response:
            text, state = token_of(response["draft"]), response["draft_state"]
            self.take(chat, "draft", text, response["version"], response["draft_op"], state, stored)
        if "title_version" in response:
            version, op = response["title_version"], response["title_op"]
            self.take(chat, "title", response["title"], version, op, "edited", stored)
        if whole:
            chat.stub = False
        elif stored and messages == "part":
            # What is not told is as it was named, and the store has all of it.
            chat.draft.stored = chat.title.stored = True
        version = response.get("messages_version", chat.known)
        if "messages" in response:
            for message in response["messages"]:
                self.message(chat, message)
            more = response["has_more_messages"]
            chat.incomplete = more or (chat.incomplete and messages != "block")
        elif messages != "none" and version > chat.known:
            chat.incomplete = True
        chat.known = max(chat.known, version)

    def take(
        self, chat: Held, name: FieldName, text: str | None, version: int, op: str | None, state: str, stored: bool
    ) -> None:
        """Applies a field by its revision."""
        if version:
            self.reference.revision(chat.id, name, version, op, text)
        copy = chat.copy(name)
        if version < copy.version:
            return
        if (version, op) == copy.revision:
            copy.stored |= stored
            copy.confirmed = self.tab.epoch
            if name == "draft" and state != copy.state:
                raise Broken(f"the draft {version}/{op} of {chat.id} is {copy.state} and {state}")
            return
        if version == copy.version or (not copy.stored and copy.confirmed != self.tab.epoch):
            # Equal versions never meet as equal; and what only the lost cache had is nobody else's to keep.
            self.reference.keep(copy.text)
        copy.text, copy.state, copy.version, copy.op = text, state, version, op
        copy.stored, copy.confirmed = stored, self.tab.epoch
        self.show(chat, name)

    def show(self, chat: Held, name: FieldName) -> None:
        """The editor shows what is here, unless an edit is open."""
        copy = chat.copy(name)
        if not any(op.field == name and not op.resend for op in chat.ops):
            chat.held.setdefault((name, *copy.revision), self.tab.world.number())

    def message(self, chat: Held, message: dict[str, Any]) -> None:
        """A `MessageResponse`."""
        token = token_of(message["content"])
        if token is None or token != message["client_message_id"]:
            raise Broken(f"message {message['id']} of {chat.id} shows {token!r}")
        typed = self.reference.typed.get(token)
        if typed is None or typed.chat != chat.id or message["id"] != message_id_of(chat.id, token):  # type: ignore[arg-type]
            raise Broken(f"{chat.id} has a message {token!r} that nobody sent there")
        self.reference.has(token)
        if message["status"] == "delivered":
            self.reference.sequence(message["id"], message["sequence"])
        known = chat.messages.get(message["id"])
        heard = known.status if known is not None else chat.early.pop(message["id"], "sent")
        status = message["status"]
        if _RANK[heard] > _RANK[status]:
            status = heard
        chat.messages[message["id"]] = Message(token, message["sequence"], status, token)
        self.status(chat, message["id"], status)

    def status(self, chat: Held, message_id: str, status: str) -> None:
        """A message's status; of one that is not here yet it is kept until it comes."""
        message = chat.messages.get(message_id)
        if message is None:
            chat.early[message_id] = status
            chat.incomplete = True
            self.tab.fetch(chat)
            return
        if _RANK[status] >= _RANK[message.status]:
            message.status = status
        if message.status == "delivered":
            _, op = self.tab.outbox.pop(message_id, (None, None))
            if op is not None and op in chat.ops and not op.waiting:
                chat.ops.remove(op)

    def told_deleted(self, chat_id: str) -> None:
        """The server says that the chat is deleted: what waits to be sent becomes conflict copies."""
        if chat_id not in self.reference.deleted:
            raise Broken(f"{self.tab.name} was told that {chat_id} is deleted, and nobody deleted it")
        self.reference.gone.add(chat_id)
        self.remove(chat_id, keep=True)

    def remove(self, chat_id: str, *, keep: bool) -> None:
        """The chat is not here any more."""
        tab = self.tab
        tab.dead.add(chat_id)
        chat = tab.chats.pop(chat_id, None)
        if chat is None:
            return
        for op in chat.ops:
            if keep:
                self.reference.keep(op.token)
        for message_id in [each for each, (where, _) in tab.outbox.items() if where == chat_id]:
            del tab.outbox[message_id]
        if tab.last_open == chat_id:
            tab.last_open = None
