"""A careful client, by the rules of `semantics.md` and `protocol.md`: one tab, with storage that outlives its connections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from sidecar.ids import UserHash, client_part, message_id_of
from sidecar.testing.frames import check, check_client
from tests.model.reference import Broken, FieldName, Reference
from tests.model.world import Link, World, frame, texts

_IN_FLIGHT = 2
"""Operations of one chat that may wait for their answers: the next names the revision that the one before it will make."""
_PAGE = 3
_RETRY = 0.7
_RANK = {"sent": 0, "error": 0, "streaming": 0, "delivered": 1}


@dataclass(slots=True)
class Copy:
    """A draft or title as this client last had it from the server."""

    text: str | None = None
    state: str = "none"
    version: int = 0
    op: str | None = None
    stored: bool = False
    confirmed: str = ""
    """The epoch in which the server was last known to have it."""

    @property
    def revision(self) -> tuple[int, str | None]:
        return self.version, self.op


@dataclass(slots=True)
class Message:
    text: str
    sequence: int
    status: str
    client_id: str


@dataclass(slots=True)
class Op:
    """An open operation: from the moment the person did it until its answer is known."""

    id: str
    type: str
    payload: dict[str, Any]
    token: str | None = None
    over: str | None = None
    """What the editor showed."""
    field: FieldName | None = None
    """Whose chain of revisions it goes on; None for what makes no revision."""
    base: tuple[int, str | None] = (0, None)
    sent: bool = False
    """Some server may have got it: its frame must not change."""
    waiting: bool = False
    """Sent on this connection, not answered."""
    again: bool = False
    """Answered `missing`: it goes again under a new id, after the restore."""
    resend: bool = False
    """A message that was accepted and is not delivered."""
    born: int = 0

    @property
    def makes(self) -> tuple[int, str | None]:
        return self.base[0] + 1, self.id


@dataclass(slots=True)
class Held:
    """A chat on this client."""

    id: str
    draft: Copy = field(default_factory=Copy)
    title: Copy = field(default_factory=Copy)
    messages: dict[str, Message] = field(default_factory=dict)
    early: dict[str, str] = field(default_factory=dict)
    """Statuses of messages that are not here yet: an answer of this client's own may come after what follows on it."""
    known: int = 0
    """The highest messages_version that was seen."""
    counted: int = 0
    """That of the last event on this connection."""
    incomplete: bool = False
    """Its messages have to be asked for."""
    stub: bool = False
    """It was heard of and has to be asked for."""
    ops: list[Op] = field(default_factory=list)
    held: dict[tuple[str, int, str | None], int] = field(default_factory=dict)
    """Revisions that the editor showed once as they are, and since when. One that arrives behind an open edit is not shown."""
    told: bool = False
    """The server told of it: it holds a revision or a message."""
    page: str | None = None
    """The page request under way."""
    resting: bool = False
    """A part of the server was away: nothing is sent for a moment."""

    def copy(self, name: FieldName) -> Copy:
        return self.draft if name == "draft" else self.title


class Client:
    """One tab. The person's doings are the methods without an underscore; `receive` is what comes from the server."""

    def __init__(self, world: World, reference: Reference, user: UserHash, device: str, name: str) -> None:
        self.world = world
        self.reference = reference
        self.user = user
        self.device = device
        self.name = name
        self.chats: dict[str, Held] = {}
        self.dead: set[str] = set()
        """Chats that this client was told, or has asked, to delete."""
        self.deletions: dict[str, Op] = {}
        self.outbox: dict[str, tuple[str, Op]] = {}
        """Messages of this client until they are delivered, by message id, with their chat."""
        self.history: list[Op] = []
        self.cursor: str | None = None
        self.epoch = ""
        self.link: Link | None = None
        self.synced = False
        self.last_open: str | None = None
        self.chats_received = 0
        """Chat payloads of the last sync."""
        self._sync: str | None = None
        self._buffer: list[dict[str, Any]] = []
        self._asked: dict[str, str] = {}
        self._named: set[str] = set()
        self._dead_before: set[str] = set()
        self._frames = 0

    # -- what a person does --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        if self.link is None:
            self.link = self.world.connect(self, self.user, self.device)

    def disconnect(self, arriving: int, lingering: float) -> None:
        """The line is cut: so many frames on their way still arrive, and the server notices after so many seconds."""
        if self.link is not None:
            link, self.link = self.link, None
            link.cut(arriving, lingering)
            self._offline()

    def new_chat(self) -> Held:
        """A chat that nobody knows yet."""
        number = self.world.number()
        chat = Held(f"{self.user[:8]}_{self.name}-{number}")
        self.chats[chat.id] = chat
        return chat

    def edit(self, chat: Held) -> None:
        """Types another draft over what the editor shows."""
        token = f"d{self.world.number()}"
        tail = self._tail(chat, "draft")
        if tail is not None and tail.type == "draft_update" and not tail.sent:
            self.reference.type(token, chat.id, "draft", tail.token, unsent=True)
            self.reference.also_over(token, tail.over)
            tail.token = token
            tail.payload["content"] = _doc(token)
        else:
            over, base = self._shown(chat, "draft")
            # What the editor shows of an unanswered operation is this client's own; it is safe if the new text is.
            self.reference.type(token, chat.id, "draft", over, unsent=False)
            payload: dict[str, Any] = {"content": _doc(token)}
            chat.ops.append(self._op("draft_update", chat, payload, "draft", base, token, over))
        self._push(chat)

    def clear(self, chat: Held) -> bool:
        """Empties the editor; False where it shows nothing."""
        over, base = self._shown(chat, "draft")
        if over is None:
            return False
        tail = self._tail(chat, "draft")
        if tail is not None and not tail.sent and tail.type == "draft_update":
            # It never left: what it was typed over is cleared instead.
            self.reference.cleared(tail.token)
            chat.ops.remove(tail)
            over, base = tail.over, tail.base
            if over is None:
                if not chat.ops and not chat.told:
                    del self.chats[chat.id]
                return True
        has = bool(chat.messages) or chat.known > 0 or any(op.type == "message_send" for op in chat.ops)
        chat.ops.append(self._op("draft_delete", chat, {"hasMessages": has}, "draft", base, None, over))
        if not has:
            self.reference.delete(chat.id)  # should it turn out that there is no message, the chat goes with its draft
        self._push(chat)
        return True

    def entitle(self, chat: Held, *, clear: bool = False) -> bool:
        """Writes another title; False where that is not allowed yet."""
        if not chat.told:
            return False
        over, base = self._shown(chat, "title")
        token = None if clear and over is not None else f"t{self.world.number()}"
        tail = self._tail(chat, "title")
        unsent = tail is not None and not tail.sent
        if token is not None:
            self.reference.type(token, chat.id, "title", over, unsent=unsent)
        if tail is not None and unsent:
            if token is None:
                self.reference.cleared(tail.token)
            else:
                self.reference.also_over(token, tail.over)
            tail.token = token
            tail.payload["title"] = token
        else:
            chat.ops.append(self._op("title_update", chat, {"title": token}, "title", base, token, over))
        self._push(chat)
        return True

    def send(self, chat: Held, *, draft: bool) -> None:
        """Sends a message, made from the draft in the editor if there is one and `draft` says so."""
        token = f"m{self.world.number()}"
        over, base = self._shown(chat, "draft") if draft else (None, (0, None))
        tail = self._tail(chat, "draft")
        unsent = False
        if over is not None and tail is not None and not tail.sent and tail.type == "draft_update":
            # The text goes as a message and never as a draft; the message names what it was typed over.
            chat.ops.remove(tail)
            base, unsent = tail.base, True
        payload: dict[str, Any] = {"clientMessageId": token, "content": _doc(token)}
        self.reference.send(token, chat.id, over, unsent=unsent)
        # It names the revision whose text goes with it; of an unsent draft that is the one it was typed over.
        made_from = base[0] > 0 and (tail.over if unsent and tail is not None else over) is not None
        if unsent and tail is not None:
            self.reference.also_over(token, tail.over)
        chat.ops.append(self._op("message_send", chat, payload, "draft" if made_from else None, base, token, over))
        self._push(chat)

    def delete(self, chat: Held) -> None:
        """Deletes the chat; at once here, and for good once the server answers."""
        self.reference.delete(chat.id)
        op = self._op("chat_delete", chat, {})
        self._remove(chat.id, keep=False)
        self.deletions[chat.id] = op
        self._push_deletions()

    def open(self, chat: Held) -> None:
        """Looks at a chat."""
        self.last_open = chat.id
        if self.synced:
            self._send("set_active_chat", f"v{self.world.number()}", {"chatId": chat.id})

    def look_back(self, chat: Held | None) -> None:
        """Scrolls: asks for messages of a chat, or for the list of chats, once more."""
        if not self.synced:
            return
        if chat is None:
            id_ = f"l{self.world.number()}"
            self._asked[id_] = ""
            self._send("chats_request", id_, {"limit": 2})
        elif chat.told:
            chat.incomplete = True
            self._fetch(chat)

    def repeat(self, which: int) -> None:
        """Sends a frame of an earlier operation once more, as an impatient client does."""
        if self.synced and self.history:
            op = self.history[which % len(self.history)]
            if op.sent:
                self._send(op.type, op.id, self._payload(op))

    # -- sending -------------------------------------------------------------------------------------------------------

    def _op(
        self,
        type_: str,
        chat: Held,
        payload: dict[str, Any],
        name: FieldName | None = None,
        base: tuple[int, str | None] = (0, None),
        token: str | None = None,
        over: str | None = None,
    ) -> Op:
        client_id = client_part(chat.id)  # type: ignore[arg-type]
        if not chat.told and type_ in ("draft_update", "message_send") and base[0] == 0:
            payload["tempChatId"] = client_id
        else:
            payload["chatId"] = client_id if self.world.chance.random() < 0.3 else chat.id
        return Op(self._new_id(), type_, payload, token, over, name, base, born=self.world.number())

    def _new_id(self) -> str:
        return f"op-{self.name}-{self.world.number()}"

    def _tail(self, chat: Held, name: FieldName) -> Op | None:
        return next((op for op in reversed(chat.ops) if op.field == name and not op.resend), None)

    def _shown(self, chat: Held, name: FieldName) -> tuple[str | None, tuple[int, str | None]]:
        """What the editor shows, and the revision of it."""
        tail = self._tail(chat, name)
        if tail is None:
            copy = chat.copy(name)
            return copy.text, copy.revision
        if name == "draft" and tail.type != "draft_update":
            return None, tail.makes
        return tail.token, tail.makes

    def _push(self, chat: Held) -> None:
        """Sends what may be sent now of this chat."""
        if not self.synced or chat.resting:
            return
        restore = next((op for op in chat.ops if op.type == "chat_restore"), None)
        if restore is not None:
            if not restore.waiting:
                self._transmit(restore)
            return
        waiting = sum(op.waiting for op in chat.ops)
        for op in list(chat.ops):
            if waiting >= _IN_FLIGHT:
                return
            if op.waiting:
                continue
            if op.again:
                if waiting:
                    return  # those before it must have their answers first
                self._renew(chat, op)
            self._transmit(op)
            waiting += 1

    def _push_deletions(self) -> None:
        if self.synced:
            for op in self.deletions.values():
                if not op.waiting:
                    self._transmit(op)

    def _renew(self, chat: Held, op: Op) -> None:
        old = op.id
        op.id = self._new_id()
        op.sent = op.again = False
        for later in chat.ops:
            if not later.sent and later.base[1] == old:
                later.base = (later.base[0], op.id)

    @staticmethod
    def _payload(op: Op) -> dict[str, Any]:
        payload = dict(op.payload)
        if op.type in ("draft_update", "draft_delete", "title_update"):
            payload["basedOnVersion"] = op.base[0]
            if op.base[1] is not None:
                payload["basedOnOp"] = op.base[1]
        elif op.type == "message_send" and op.field is not None:
            payload["draftVersion"] = op.base[0]
            if op.base[1] is not None:
                payload["draftOp"] = op.base[1]
        return payload

    def _transmit(self, op: Op) -> None:
        if not op.sent:
            self.history.append(op)
            del self.history[:-30]
        op.sent = op.waiting = True
        self._send(op.type, op.id, self._payload(op))

    def _send(self, type_: str, id_: str, payload: dict[str, Any]) -> None:
        if self.link is None:
            return
        self._frames += 1
        if self._frames % 8 == 0:
            check_client({"type": type_, "id": id_, "payload": payload})
        self.link.send(frame(type_, id_, payload))

    def _fetch(self, chat: Held, before: str | None = None) -> None:
        if (self.synced and chat.page is None) or before is not None:
            chat.page = f"p{self.world.number()}"
            self._asked[chat.page] = chat.id
            payload: dict[str, Any] = {"chatId": chat.id, "limit": _PAGE}
            if before is not None:
                payload["before"] = before
            self._send("messages_request", chat.page, payload)

    def _ask_for(self, chat: Held) -> None:
        id_ = f"l{self.world.number()}"
        self._asked[id_] = chat.id
        self._send("chats_request", id_, {"ids": [chat.id]})

    def _rest(self, chat: Held | None, call: Callable[[], None]) -> None:
        """A part of the server was away: tries again in a moment, if the connection is still the same."""
        link = self.link
        if chat is not None:
            chat.resting = True

        def again() -> None:
            if chat is not None:
                chat.resting = False
            if self.link is link:
                call()

        self.world.loop.call_later(_RETRY, again)

    # -- connection and sync -------------------------------------------------------------------------------------------

    def ready(self, epoch: str) -> None:
        self._request(with_cursor=True)

    def cut_off(self) -> None:
        self.link = None
        self._offline()

    def _offline(self) -> None:
        self.synced = False
        self._sync = None
        self._buffer = []
        self._asked = {}
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        for chat in self.chats.values():
            chat.page = None
            chat.resting = False
            chat.counted = 0
            for op in chat.ops:
                op.waiting = False
        for op in self.deletions.values():
            op.waiting = False

    def _request(self, *, with_cursor: bool) -> None:
        self.synced = False
        self._buffer = []
        self._sync = f"s{self.world.number()}"
        held = []
        for chat in self.chats.values():
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
        self._dead_before = self.dead - self.deletions.keys()
        payload: dict[str, Any] = {"chats": held}
        if with_cursor and self.cursor is not None:
            payload["cursor"] = self.cursor
        if self.last_open is not None:
            payload["lastOpenChatId"] = self.last_open
        self._send("sync_request", self._sync, payload)

    def _sync_frame(self, type_: str, payload: dict[str, Any]) -> None:
        self._buffer.append(payload)
        if not payload["complete"]:
            return
        frames, self._buffer, self._sync = self._buffer, [], None
        cursor: str = payload["cursor"]
        epoch = cursor.partition(".")[0]
        another = epoch != self.epoch
        self.cursor, self.epoch = cursor, epoch
        chats = [chat for each in frames for chat in each["chats"]]
        self.chats_received = len(chats)
        self._once(type_, chats)
        missing = {chat_id for each in frames for chat_id in each["missing"]}
        risen = self._dead_before & {chat["id"] for chat in chats}
        if risen:
            raise Broken(f"{self.name} was told that {risen} are deleted, and then asked and was told of them")
        if another and type_ == "initial_sync_data":
            for chat_id in self._named & self.chats.keys():
                # A new epoch: what was there before counts no longer, the server sends it whole or is asked for it.
                self.chats[chat_id].messages = {}
                self.chats[chat_id].early = {}
                self.chats[chat_id].incomplete = self.chats[chat_id].known > 0
        for response in chats:
            self._response(response, "block" if type_ == "initial_sync_data" else "part")
        for gone in [gone for each in frames for gone in each["deleted"]]:
            self._told_deleted(gone["id"])  # last: it may have happened between two phases
        for chat_id in self._named:
            held = self.chats.get(chat_id)
            if held is None:
                continue
            if chat_id in missing:
                if not self.world.losses:
                    raise Broken(f"nothing was ever lost, and {self.name} was told that {chat_id} is missing")
                self._restore(held)
            else:
                held.draft.confirmed = held.title.confirmed = epoch
        self.synced = True
        self._carry_on()

    def _once(self, type_: str, chats: list[dict[str, Any]]) -> None:
        for part in ("version", "messages"):
            ids = [chat["id"] for chat in chats if part in chat]
            if len(ids) != len(set(ids)):
                raise Broken(f"{type_} told a chat twice: {ids}")

    def _carry_on(self) -> None:
        """After `complete`: what is open goes again, same ids."""
        self._forget_waiting()
        for message_id, (chat_id, op) in self.outbox.items():
            chat = self.chats[chat_id]
            if op in chat.ops:
                continue
            shown = chat.messages.get(message_id)
            if shown is None or shown.status != "delivered":
                op.resend = True
                if self.world.chance.random() < 0.3:
                    # Another id will do as well: the message's own id tells that it is the same.
                    op = replace(op, id=self._new_id())
                    self.outbox[message_id] = (chat_id, op)
                op.waiting = False
                chat.ops.insert(0, op)
        for chat in list(self.chats.values()):
            if chat.stub:
                self._ask_for(chat)
            if chat.incomplete:
                self._fetch(chat)
            self._push(chat)
        self._push_deletions()

    def _restore(self, chat: Held) -> None:
        payload: dict[str, Any] = {"messagesVersion": chat.known}
        draft, title = chat.draft, chat.title
        if draft.version:
            content = _doc(draft.text) if draft.text is not None else None
            payload["draft"] = {"content": content, "state": draft.state, "version": draft.version, "op": draft.op}
        if title.version:
            payload["title"] = {"title": title.text, "version": title.version, "op": title.op}
        for op in chat.ops:
            if op.type == "chat_restore" and {**op.payload, "chatId": ""} == {**payload, "chatId": ""}:
                return  # it is on its way already
        op = self._op("chat_restore", chat, payload)
        places = [place for place, each in enumerate(chat.ops) if each.type == "chat_restore"]
        chat.ops.insert(places[-1] + 1 if places else 0, op)

    # -- what comes from the server ------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """One frame."""
        told = orjson.loads(data)
        self._frames += 1
        if self._frames % 8 == 0:
            check(told)
        type_, re, payload = told["type"], told.get("re"), told["payload"]
        if re is None:
            self._event(type_, payload)
        elif re[0] == "s":
            self._sync_answer(type_, re, payload)
        elif re[0] == "o":
            self._answer(type_, re, payload)
        elif re in self._asked:
            self._page(type_, re, payload, self._asked.pop(re))

    def _sync_answer(self, type_: str, re: str, payload: dict[str, Any]) -> None:
        if re != self._sync:
            return
        if type_ == "error":
            self._expect_unavailable(payload, "sync_request")
            self._rest(None, lambda: self._request(with_cursor=True) if self._sync == re else None)
            self._buffer = []
        else:
            self._sync_frame(type_, payload)

    def _expect_unavailable(self, payload: dict[str, Any], what: str) -> None:
        if payload["code"] != "unavailable":
            raise Broken(f"{what} of {self.name}: {payload}")

    def _event(self, type_: str, payload: dict[str, Any]) -> None:
        if type_ == "resync_required":
            self._request(with_cursor=False)
            return
        if not self.synced:
            return
        self._advance(payload["cursor"])
        match type_:
            case "chat_added" | "chat_restored":
                self._response(payload["chat"], "none")
                chat = self.chats.get(payload["chat"]["id"])
                if chat is not None and chat.incomplete:
                    self._fetch(chat)
            case "draft_updated":
                chat = self._heard(payload["chatId"])
                if chat is not None:
                    self._take(
                        chat,
                        "draft",
                        _token(payload["content"]),
                        payload["version"],
                        payload["op"],
                        payload["reason"],
                        payload["durability"] == "stored",
                    )
            case "title_updated":
                chat = self._heard(payload["chatId"])
                if chat is not None:
                    stored = payload["durability"] == "stored"
                    self._take(
                        chat, "title", payload["title"], payload["titleVersion"], payload["op"], "edited", stored
                    )
            case "chat_stored":
                chat = self.chats.get(payload["chatId"])
                if chat is not None:
                    chat.draft.stored |= payload["version"] >= chat.draft.version
                    chat.title.stored |= payload["titleVersion"] >= chat.title.version
            case "message_new":
                chat = self._heard(payload["message"]["chat_id"])
                if chat is not None:
                    self._count(chat, payload["messagesVersion"], "message_new")
                    self._message(chat, payload["message"])
            case "message_update":
                chat = self._heard(payload["chatId"])
                if chat is not None:
                    self._count(chat, payload["messagesVersion"], "message_update")
                    self._status(chat, payload["messageId"], payload["status"])
            case "chat_deleted":
                self._told_deleted(payload["chatId"])
            case _:
                raise Broken(f"an event that nobody expects: {type_}")

    def _advance(self, cursor: str) -> None:
        """Stores a cursor; on one socket none leaves before what stands before it."""
        epoch, offset, _ = cursor.split(".")
        if epoch == self.epoch and self.cursor is not None and int(offset) >= int(self.cursor.split(".")[1]):
            self.cursor = cursor

    def _count(self, chat: Held, version: int, what: str) -> None:
        if version <= chat.counted:
            raise Broken(f"{what} of {chat.id} says messages_version {version} after {chat.counted}")
        chat.counted = version
        chat.known = max(chat.known, version)

    def _heard(self, chat_id: str) -> Held | None:
        """The chat that an event or sync tells of; one that is unknown becomes a stub that is asked for."""
        if chat_id in self.dead:
            return None  # what happened before may come after: a sync knows more than the events behind its position
        if chat_id[:9] != f"{self.user[:8]}_":
            raise Broken(f"{self.name} hears of {chat_id}, which is another person's")
        chat = self.chats.get(chat_id)
        if chat is None:
            chat = self.chats[chat_id] = Held(chat_id, stub=True, incomplete=True, told=True)
            if self.synced:
                self._ask_for(chat)
                self._fetch(chat)
        chat.told = True
        return chat

    def _response(self, response: dict[str, Any], messages: Literal["block", "part", "none"]) -> None:
        """A `ChatResponse`, field by field. Its messages are the newest, those that changed, or no part of such a frame."""
        if response["undecryptable"]:
            raise Broken(f"{response['id']} does not open: {response['undecryptable']}")
        chat_id = response["id"]
        whole = "version" in response and "title_version" in response
        if whole and chat_id not in self.chats and chat_id not in self.dead:
            self.chats[chat_id] = Held(chat_id, told=True, incomplete=response["persisted"])
        chat = self._heard(chat_id)
        if chat is None:
            return
        stored = response["durability"] == "stored"
        if "version" in response:
            state = response["draft_state"]
            self._take(
                chat, "draft", _token(response["draft"]), response["version"], response["draft_op"], state, stored
            )
        if "title_version" in response:
            self._take(
                chat, "title", response["title"], response["title_version"], response["title_op"], "edited", stored
            )
        if whole:
            chat.stub = False
        elif stored and messages == "part":
            # What is not told is as it was named, and the store has all of it.
            chat.draft.stored = chat.title.stored = True
        version = response.get("messages_version", chat.known)
        if "messages" in response:
            for message in response["messages"]:
                self._message(chat, message)
            more = response["has_more_messages"]
            chat.incomplete = more or (chat.incomplete and messages != "block")
        elif messages != "none" and version > chat.known:
            chat.incomplete = True
        chat.known = max(chat.known, version)

    def _take(
        self,
        chat: Held,
        name: FieldName,
        text: str | None,
        version: int,
        op: str | None,
        state: str,
        stored: bool,
    ) -> None:
        """Applies a field by its revision."""
        if version:
            self.reference.revision(chat.id, name, version, op, text)
        copy = chat.copy(name)
        if version < copy.version:
            return
        if (version, op) == copy.revision:
            copy.stored |= stored
            copy.confirmed = self.epoch
            if name == "draft" and state != copy.state:
                raise Broken(f"the draft {version}/{op} of {chat.id} is {copy.state} and {state}")
            return
        if version == copy.version or (not copy.stored and copy.confirmed != self.epoch):
            # Equal versions never meet as equal; and what only the lost cache had is nobody else's to keep.
            self.reference.keep(copy.text)
        copy.text, copy.state, copy.version, copy.op = text, state, version, op
        copy.stored, copy.confirmed = stored, self.epoch
        self._show(chat, name)

    def _show(self, chat: Held, name: FieldName) -> None:
        copy = chat.copy(name)
        if not any(op.field == name and not op.resend for op in chat.ops):
            chat.held.setdefault((name, *copy.revision), self.world.number())

    def _message(self, chat: Held, message: dict[str, Any]) -> None:
        token = _token(message["content"])
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
        self._status(chat, message["id"], status)

    def _status(self, chat: Held, message_id: str, status: str) -> None:
        message = chat.messages.get(message_id)
        if message is None:
            chat.early[message_id] = status
            chat.incomplete = True
            self._fetch(chat)
            return
        if _RANK[status] >= _RANK[message.status]:
            message.status = status
        if message.status == "delivered":
            _, op = self.outbox.pop(message_id, (None, None))
            if op is not None and op in chat.ops and not op.waiting:
                chat.ops.remove(op)

    # -- answers to operations -----------------------------------------------------------------------------------------

    def _answer(self, type_: str, re: str, payload: dict[str, Any]) -> None:
        if not self.synced:
            return
        for chat_id, op in self.deletions.items():
            if op.id == re:
                self._deletion_answered(chat_id, op, type_, payload)
                return
        for chat in self.chats.values():
            for op in chat.ops:
                if op.id == re:
                    self._operation_answered(chat, op, type_, payload)
                    return
        if type_ == "error" and payload["code"] != "unavailable":
            raise Broken(f"a repeat of {re} was answered {payload}")
        self.world.weather.replacements.answered(re)
        self._same_again(type_, re, payload)
        for name, old in payload.get("replaced", {}).items():
            self.reference.keep(_replaced_text(name, old))  # a loss made the repeat an operation of its own

    def _deletion_answered(self, chat_id: str, op: Op, type_: str, payload: dict[str, Any]) -> None:
        op.waiting = False
        if type_ == "error":
            self._expect_unavailable(payload, "chat_delete")
            self._rest(None, self._push_deletions)
            return
        if type_ != "chat_deleted":
            raise Broken(f"chat_delete was answered {type_}")
        del self.deletions[chat_id]
        self.reference.gone.add(chat_id)
        self._advance(payload["cursor"])

    def _operation_answered(self, chat: Held, op: Op, type_: str, payload: dict[str, Any]) -> None:
        op.waiting = False
        if type_ == "error":
            self._expect_unavailable(payload, op.type)
            self._rest(chat, lambda: self._push(chat))
            return
        if "cursor" in payload:
            self._advance(payload["cursor"])
        if op.again:
            return  # an answer to its first sending came twice
        self.world.weather.replacements.answered(op.id)
        self._same_again(type_, op.id, payload)
        refused = type_ in ("draft_conflict", "title_conflict")
        if refused and payload["reason"] == "missing":
            self._missing(chat, op, payload)
        elif type_ == "chat_deleted" or (refused and payload["reason"] == "chat_deleted"):
            self._told_deleted(chat.id)
            return
        elif refused:
            self._refused(chat, op, payload)
        else:
            chat.ops.remove(op)
            chat.told = True
            getattr(self, f"_{type_}")(chat, op, payload)
        if chat.id in self.chats:
            self._show(chat, "draft")
            self._show(chat, "title")
            if chat.incomplete:
                self._fetch(chat)
            self._push(chat)

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

    def _missing(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        name: FieldName = "title" if op.type == "title_update" else "draft"
        version = payload["titleVersion" if name == "title" else "version"]
        before = any(other is not op and other.field == name for other in chat.ops[: chat.ops.index(op)])
        if chat.copy(name).version > version or (version == 0 and chat.told and chat.draft.version + chat.known):
            op.again = True
            self._restore(chat)
        elif before:
            op.again = True  # what it is based on waits for its answer too
        else:
            self._drop(chat, op)

    def _refused(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        if op.type == "title_update":
            self._drop(chat, op)
            self._take(chat, "title", payload["title"], payload["titleVersion"], payload["op"], "edited", stored=False)
            return
        state = {"stale": "edited", "consumed": "consumed", "deleted": "deleted"}[payload["reason"]]
        if payload["version"] == 0:
            state = "none"
        text, version, revised = _token(payload["content"]), payload["version"], payload["op"]
        if op.type == "chat_restore":
            chat.ops.remove(op)
            held = op.payload["draft"]
            if (held["version"], held["op"]) != (version, revised):
                self.reference.keep(_token(held["content"]))
        else:
            self._drop(chat, op)
        self._take(chat, "draft", text, version, revised, state, stored=False)

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

    def _told_deleted(self, chat_id: str) -> None:
        if chat_id not in self.reference.deleted:
            raise Broken(f"{self.name} was told that {chat_id} is deleted, and nobody deleted it")
        self.reference.gone.add(chat_id)
        self._remove(chat_id, keep=True)

    def _remove(self, chat_id: str, *, keep: bool) -> None:
        self.dead.add(chat_id)
        chat = self.chats.pop(chat_id, None)
        if chat is None:
            return
        for op in chat.ops:
            if keep:
                self.reference.keep(op.token)
        for message_id in [each for each, (where, _) in self.outbox.items() if where == chat_id]:
            del self.outbox[message_id]
        if self.last_open == chat_id:
            self.last_open = None

    # each accepted answer, by its type

    def _chat_initiated(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        if payload["finalChatId"] != chat.id:
            raise Broken(f"{chat.id} became {payload['finalChatId']}")
        self._draft_updated(chat, op, payload)
        self._response(payload["chat"], "none")

    def _draft_updated(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        own = payload["op"] == op.id
        if own:
            self.reference.step(op.id, op.base[0], payload["version"], chat.id)
        if op.type == "draft_delete":
            if own:
                self.reference.cleared(op.over)
            state = payload["reason"]
        else:
            state = "edited"
        self._take(chat, "draft", op.token, payload["version"], payload["op"], state, payload["durability"] == "stored")

    def _title_updated(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        if payload["op"] == op.id:
            self.reference.step(op.id, op.base[0], payload["titleVersion"], chat.id)
            if op.token is None:
                self.reference.cleared(op.over)
        stored = payload["durability"] == "stored"
        self._take(chat, "title", op.token, payload["titleVersion"], payload["op"], "edited", stored)

    def _message_accepted(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        message = payload["message"]
        self._message(chat, message)
        if chat.messages[message["id"]].status != "delivered":  # an event may have said so before
            self.outbox[message["id"]] = (chat.id, op)
        chat.known = max(chat.known, payload["messagesVersion"])
        if payload["consumed"]:
            if op.field is None or payload["version"] != op.base[0] + 1:
                raise Broken(f"message {op.id} on {op.base} consumed {payload['version']}")
            if op.over is not None and op.token is not None:
                self.reference.consumed[op.over] = op.token
            self._take(chat, "draft", None, payload["version"], payload["op"], "consumed", stored=False)
        elif op.field is not None and op.over is not None:
            self.reference.unconsumed(op.id, op.base, (payload["version"], payload["op"]))
        self._replaced(chat, op, payload)

    def _chat_restored(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        self._response(payload["chat"], "none")
        self._replaced(chat, op, payload)

    def _replaced(self, chat: Held, op: Op, payload: dict[str, Any]) -> None:
        """A text that gave way is this client's to keep, unless its editor had shown it before the operation was made."""
        for name, old in payload.get("replaced", {}).items():
            if chat.held.get((name, old["version"], old["op"]), op.born) >= op.born:
                self.reference.keep(_replaced_text(name, old))

    # -- answers to questions ------------------------------------------------------------------------------------------

    def _page(self, type_: str, re: str, payload: dict[str, Any], chat_id: str) -> None:
        chat = self.chats.get(chat_id)
        if chat is not None and chat.page == re:
            chat.page = None
        if type_ == "error":
            if payload["code"] != "not_found":  # it was lost or deleted: a restore or an event follows
                self._expect_unavailable(payload, "a page")
            if chat is not None:
                self._rest(None, lambda: self._ask_once_more(chat))
            return
        if not self.synced:
            return
        if type_ == "chats_page":
            for response in payload["chats"]:
                if response["id"] not in self.dead:
                    self._response(response, "none")
                    if self.chats[response["id"]].incomplete:
                        self._fetch(self.chats[response["id"]])
        elif type_ == "messages_page" and chat is not None:
            for message in payload["messages"]:
                self._message(chat, message)
            chat.incomplete = payload["hasMore"] and bool(payload["messages"])
            if chat.incomplete:
                self._fetch(chat, payload["messages"][0]["id"])

    def _ask_once_more(self, chat: Held) -> None:
        if chat.id in self.chats and self.synced:
            if chat.stub:
                self._ask_for(chat)
            if chat.incomplete:
                self._fetch(chat)

    # -- for the end ---------------------------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Whether it is connected, synced, and waits for nothing."""
        return (
            self.synced
            and self.link is not None
            and self.link.idle
            and not self.deletions
            and not self._asked
            and not self.outbox
            and not any(chat.ops or chat.incomplete or chat.stub for chat in self.chats.values())
        )

    @property
    def shown(self) -> dict[str, Any]:
        """Everything that it shows, chat by chat."""
        return {
            chat.id: {
                "draft": (chat.draft.text, chat.draft.state, *chat.draft.revision),
                "title": (chat.title.text, *chat.title.revision),
                "messages": [
                    (each.sequence, each.text, each.status)
                    for each in sorted(chat.messages.values(), key=lambda each: (each.sequence, each.text))
                ],
                "messages_version": chat.known,
            }
            for chat in self.chats.values()
            if chat.told
        }


def _doc(token: str) -> dict[str, Any]:
    return {"type": "doc", "content": texts([token])}


def _replaced_text(name: str, old: dict[str, Any]) -> str | None:
    text: str | None = old["title"] if name == "title" else _token(old["content"])
    return text


def _token(content: Any) -> str | None:
    if content is None:
        return None
    token: str = content["content"][0]["content"][0]["text"]
    return token
