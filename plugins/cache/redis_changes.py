"""A change as the script `commit` gets it, and what the script made of it as an outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never, cast

from plugins.cache.redis_layout import NEWS
from plugins.cache.redis_records import body_of, chat_of, item_of, message_of, micro, pack, time_of, unpack
from sidecar import (
    Accepted,
    AddMessage,
    Change,
    ChatInCache,
    Conflict,
    Cursor,
    DeleteChat,
    Deleted,
    DoomChat,
    Item,
    MessageElsewhere,
    MessageInCache,
    MessageStatus,
    NewEpoch,
    Notify,
    Outcome,
    OverQuota,
    PutDraft,
    PutTitle,
    Replaced,
    Restore,
    Reused,
    Sealed,
    Stored,
    Unmerged,
)


def asked(change: Change, tag: str) -> tuple[str, bytes, bytes, bytes]:
    """Which kind of change it is, what it asks, packed (`redis_layout.CHANGE`), and its sealed texts. `tag` is for the log."""
    kind, what, first, second = _what(change)
    token = change.token
    head = [
        *(kind, change.chat_id, change.device or False, change.key, change.operation or False, change.digest),
        *(micro(change.at), change.connection or False),
        # A token of somebody else is no proof: it is not even looked up.
        token.value if token is not None and token.user == change.user else None,
        tag,
        what,
    ]
    return kind, pack(head), first, second


def _what(change: Change) -> tuple[str, Sequence[Any], bytes, bytes]:
    what = change.what
    match what:
        case PutDraft():
            body = [what.base_version, what.base_op, what.content is not None, what.has_messages]
            return "draft", body, what.content or b"", b""
        case PutTitle():
            return "title", [what.base_version, what.base_op, what.title is not None], what.title or b"", b""
        case Restore(draft, title):
            restored = [
                [draft.content is not None, draft.state, draft.version, draft.op or False] if draft else None,
                [title.title is not None, title.version, title.op or False] if title else None,
                what.messages_version,
            ]
            texts = (draft.content if draft else None) or b"", (title.title if title else None) or b""
            return "restore", restored, *texts
        case AddMessage(message):
            body = [message.id, len(message.content), message.sequence, micro(message.created_at)]
            more = [what.draft_version, what.draft_op, what.stored, what.seen]
            return "message", [*body, *more], body_of(message), b""
        case MessageStatus():
            return "status", [what.message_id, what.status], b"", b""
        case MessageElsewhere():
            return "elsewhere", [what.message_id, what.deleted], b"", b""
        case Stored():
            return "stored", [what.message_id, what.version, what.title_version], b"", b""
        case DoomChat():
            return "doom", [], b"", b""
        case DeleteChat():
            return "delete", [], b"", b""
        case NewEpoch():
            return "epoch", [what.seen], b"", b""
        case Notify():
            return "notify", [what.name], b"", b""
        case _:
            assert_never(what)


_GIVEN = 1


class Step:
    """What one step appended to a person's log, and what its entries tell of."""

    __slots__ = ("_chat", "_items", "_message", "end", "start")

    def __init__(
        self,
        start: Cursor,
        end: Cursor,
        items: Sequence[bytes],
        chat: ChatInCache | Deleted | None,
        message: MessageInCache | None,
    ) -> None:
        """`items` as they stand in the log."""
        self.start = start
        """The end of the log before it."""
        self.end = end
        self._items = items
        self._chat = chat
        self._message = message

    @property
    def items(self) -> list[Item]:
        """The entries. Taken out of their packing at each call: those of a change that its author tells itself never are."""
        return [item_of(packed, self.start.offset + number) for number, packed in enumerate(self._items, 1)]

    @property
    def record(self) -> ChatInCache | Deleted | None:
        """The chat after it, with the message that an entry names; None: it has to be read."""
        chat, message = self._chat, self._message
        return chat.having(messages=(message,)) if isinstance(chat, ChatInCache) and message is not None else chat


def outcome_of(
    change: Change, tag: str, first: bytes, second: bytes, answer: Sequence[Any]
) -> tuple[Outcome, Step | None]:
    """The outcome that the script tells, and the step that it made in the log, under this tag; the texts as in `asked`."""
    told = unpack(answer[0])
    match told[0]:
        case b"A":
            return _accepted(change, tag, first, second, told, answer)
        case b"C":
            return _conflict(change, told, answer), None
        case b"Q":
            return OverQuota("draft_chats" if told[1] == b"draft_chats" else "bytes", told[2]), None
        case b"R":
            return Reused(), None
        case _:
            return Unmerged(), None


def _conflict(change: Change, told: Sequence[Any], answer: Sequence[Any]) -> Conflict:
    _, reason, again, winner, deleted = told
    chat: ChatInCache | Deleted | None = None
    if winner:
        chat = chat_of(change.user, change.chat_id, unpack(winner), answer[1], answer[2])
    elif deleted is not False:
        chat = Deleted(change.user, change.chat_id, time_of(deleted))
    return Conflict(reason.decode(), chat, repeat=again)


def _given(change: Change, first: bytes, second: bytes, draft: Any, title: Any, body: Any) -> tuple[Any, Any, Any]:
    """The texts that the change itself brought are not sent back."""
    return (
        first if draft == _GIVEN else draft,
        (second if isinstance(change.what, Restore) else first) if title == _GIVEN else title,
        first if body == _GIVEN else body,
    )


def _accepted(
    change: Change, tag: str, first: bytes, second: bytes, told: Sequence[Any], answer: Sequence[Any]
) -> tuple[Accepted, Step | None]:
    _, versions, at, created, again, consumed, doomed, lost, deleted, place, asked_for, replaced = told[:12]
    epoch, start, start_tag = told[12:]
    user, chat_id = change.user, change.chat_id
    _, draft, title, body, replaced_draft, replaced_title, record, packed_items = answer
    if _GIVEN in (draft, title, body):
        draft, title, body = _given(change, first, second, draft, title, body)
    chat = chat_of(user, chat_id, unpack(record), draft, title) if record is not None else None
    if versions:
        version, op, title_version, title_op, messages_version = versions
        op, title_op = _word(op), _word(title_op)
    elif chat is not None:
        version, op, messages_version = chat.version, chat.draft_op, chat.messages_version
        title_version, title_op = chat.title_version, chat.title_op
    else:
        version, op, title_version, title_op, messages_version = 0, None, 0, None, 0
    message: MessageInCache | None = message_of(user, chat_id, place, body) if place and body is not None else None
    gone = Deleted(user, chat_id, time_of(deleted)) if deleted is not False else None
    step: Step | None = None
    cursor: Cursor | None = None
    if packed_items:
        epoch = epoch.decode()
        cursor = Cursor(epoch, start + len(packed_items), tag)
        step = Step(Cursor(epoch, start, start_tag.decode()), cursor, packed_items, gone or chat, message)
    accepted = Accepted(
        chat_id=chat_id,
        version=version,
        op=op,
        title_version=title_version,
        title_op=title_op,
        messages_version=messages_version,
        at=time_of(at) if at is not False else None,
        created=created,
        repeat=again,
        consumed=consumed,
        message=message if asked_for else None,
        replaced=_replaced(replaced, replaced_draft, replaced_title) if replaced else None,
        deleted=gone,
        doomed=doomed,
        chat=chat,
        draft_lost=cast(Any, _word(lost)),
        cursor=cursor,
    )
    return accepted, step


def _replaced(told: Sequence[Any], draft: bytes | None, title: bytes | None) -> Replaced:
    version, op, title_version, title_op = told
    return Replaced(
        draft=Sealed(draft) if draft is not None else None,
        draft_version=version,
        draft_op=_word(op),
        title=Sealed(title) if title is not None else None,
        title_version=title_version,
        title_op=_word(title_op),
    )


def _word(value: Any) -> str | None:
    return value.decode() if value is not False else None


def notice_of(packed: bytes) -> tuple[str, Step]:
    """What another process tells of a change that it made: whose it was, and the step."""
    told = unpack(packed)
    user, epoch, start, start_tag, packed_items, chat_id, record, draft, title, place, body, deleted = told[: len(NEWS)]
    user, epoch, chat_id = user.decode(), epoch.decode(), chat_id.decode()
    start_cursor = end = Cursor(epoch, start, start_tag.decode())
    if packed_items:
        last = item_of(packed_items[-1], start + len(packed_items))
        end = Cursor(epoch, last.offset, last.tag)
    chat = chat_of(user, chat_id, unpack(record), _there(draft), _there(title)) if record else None
    message = message_of(user, chat_id, place, body) if chat is not None and place and body is not False else None
    gone = Deleted(user, chat_id, time_of(deleted)) if deleted is not False else None
    return user, Step(start_cursor, end, packed_items, gone or chat, message)


def _there(text: Any) -> bytes | None:
    return text if text is not False else None
