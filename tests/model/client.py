"""A careful client, by the rules of `semantics.md` and `protocol.md`, and the person before it."""

from __future__ import annotations

from typing import Any

import orjson

from sidecar.ids import UserHash
from tests.model.answers import Answers
from tests.model.documents import doc
from tests.model.events import Events
from tests.model.held import Held
from tests.model.mirror import Mirror
from tests.model.reference import Reference
from tests.model.syncing import Sync
from tests.model.tab import Tab
from tests.model.world import World


class Client:
    """One tab. The person's doings come first; `receive` is what comes from the server."""

    def __init__(self, world: World, reference: Reference, user: UserHash, device: str, name: str) -> None:
        self.world = world
        self.reference = reference
        self.user = user
        self.name = name
        self.tab = Tab(world, reference, user, device, name)
        self.mirror = Mirror(self.tab)
        self.sync = Sync(self.mirror)
        self.answers = Answers(self.mirror)
        self.events = Events(self.mirror, self.sync)

    @property
    def chats(self) -> dict[str, Held]:
        return self.tab.chats

    # -- what a person does --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        tab = self.tab
        if tab.link is None:
            tab.link = self.world.connect(self, tab.user, tab.device)

    def disconnect(self, arriving: int, lingering: float) -> None:
        """The line is cut: so many frames on their way still arrive, and the server notices after so many seconds."""
        if self.tab.link is not None:
            link, self.tab.link = self.tab.link, None
            link.cut(arriving, lingering)
            self.sync.offline()

    def new_chat(self) -> Held:
        """A chat that nobody knows yet."""
        number = self.world.number()
        chat = Held(f"{self.user[:8]}_{self.name}-{number}")
        self.chats[chat.id] = chat
        return chat

    def edit(self, chat: Held) -> None:
        """Types another draft over what the editor shows."""
        token = f"d{self.world.number()}"
        tail = chat.tail("draft")
        if tail is not None and tail.type == "draft_update" and not tail.sent:
            self.reference.type(token, chat.id, "draft", tail.token, unsent=True)
            self.reference.also_over(token, tail.over)
            tail.token = token
            tail.payload["content"] = doc(token)
        else:
            over, base = chat.shown("draft")
            # What the editor shows of an unanswered operation is this client's own; it is safe if the new text is.
            self.reference.type(token, chat.id, "draft", over, unsent=False)
            payload: dict[str, Any] = {"content": doc(token)}
            chat.ops.append(self.tab.op("draft_update", chat, payload, "draft", base, token, over))
        self.tab.push(chat)

    def clear(self, chat: Held) -> bool:
        """Empties the editor; False where it shows nothing."""
        over, base = chat.shown("draft")
        if over is None:
            return False
        tail = chat.tail("draft")
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
        chat.ops.append(self.tab.op("draft_delete", chat, {"hasMessages": has}, "draft", base, None, over))
        if not has:
            self.reference.delete(chat.id)  # should it turn out that there is no message, the chat goes with its draft
        self.tab.push(chat)
        return True

    def entitle(self, chat: Held, *, clear: bool = False) -> bool:
        """Writes another title; False where that is not allowed yet."""
        if not chat.told:
            return False
        over, base = chat.shown("title")
        token = None if clear and over is not None else f"t{self.world.number()}"
        tail = chat.tail("title")
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
            chat.ops.append(self.tab.op("title_update", chat, {"title": token}, "title", base, token, over))
        self.tab.push(chat)
        return True

    def send(self, chat: Held, *, draft: bool) -> None:
        """Sends a message, made from the draft in the editor if there is one and `draft` says so."""
        token = f"m{self.world.number()}"
        over, base = chat.shown("draft") if draft else (None, (0, None))
        tail = chat.tail("draft")
        unsent = False
        if over is not None and tail is not None and not tail.sent and tail.type == "draft_update":
            # The text goes as a message and never as a draft; the message names what it was typed over.
            chat.ops.remove(tail)
            base, unsent = tail.base, True
        payload: dict[str, Any] = {"clientMessageId": token, "content": doc(token)}
        self.reference.send(token, chat.id, over, unsent=unsent)
        # It names the revision whose text goes with it; of an unsent draft that is the one it was typed over.
        made_from = base[0] > 0 and (tail.over if unsent and tail is not None else over) is not None
        if unsent and tail is not None:
            self.reference.also_over(token, tail.over)
        chat.ops.append(self.tab.op("message_send", chat, payload, "draft" if made_from else None, base, token, over))
        self.tab.push(chat)

    def delete(self, chat: Held) -> None:
        """Deletes the chat; at once here, and for good once the server answers."""
        self.reference.delete(chat.id)
        op = self.tab.op("chat_delete", chat, {})
        self.mirror.remove(chat.id, keep=False)
        self.tab.deletions[chat.id] = op
        self.tab.push_deletions()

    def open(self, chat: Held) -> None:
        """Looks at a chat."""
        self.tab.last_open = chat.id
        if self.tab.synced:
            self.tab.send("set_active_chat", f"v{self.world.number()}", {"chatId": chat.id})

    def look_back(self, chat: Held | None) -> None:
        """Scrolls: asks for messages of a chat, or for the list of chats, once more."""
        if not self.tab.synced:
            return
        if chat is None:
            self.tab.ask_for_list()
        elif chat.told:
            chat.incomplete = True
            self.tab.fetch(chat)

    def repeat(self, which: int) -> None:
        """Sends a frame of an earlier operation once more, as an impatient client does."""
        history = self.tab.history
        if self.tab.synced and history:
            op = history[which % len(history)]
            if op.sent:
                self.tab.send(op.type, op.id, op.whole)

    # -- what comes from the server ------------------------------------------------------------------------------------

    def ready(self, epoch: str) -> None:
        self.sync.request(with_cursor=True)

    def cut_off(self) -> None:
        self.tab.link = None
        self.sync.offline()

    def receive(self, data: bytes) -> None:
        """One frame."""
        told = orjson.loads(data)
        self.tab.look_at(told)
        type_, re, payload = told["type"], told.get("re"), told["payload"]
        if re is None:
            self.events.take(type_, payload)
        elif re[0] == "s":
            self.sync.answer(type_, re, payload)
        elif re[0] == "o":
            self.answers.take(type_, re, payload)
        elif re in self.tab.asked:
            self.events.page(type_, re, payload, self.tab.asked.pop(re))

    # -- for the end ---------------------------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Whether it is connected, synced, and waits for nothing."""
        tab = self.tab
        return (
            tab.synced
            and tab.link is not None
            and tab.link.idle
            and not tab.deletions
            and not tab.asked
            and not tab.outbox
            and not any(chat.ops or chat.incomplete or chat.stub for chat in tab.chats.values())
        )

    @property
    def unrest(self) -> str:
        """What it still waits for."""
        tab = self.tab
        chats = [f"{chat.id} {chat.ops}" for chat in tab.chats.values() if chat.ops or chat.incomplete]
        linked = tab.link is not None
        return f"{self.name}: synced {tab.synced}, linked {linked}, outbox {list(tab.outbox)}, " + ", ".join(chats)

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
