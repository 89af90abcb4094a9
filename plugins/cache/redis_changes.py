"""A change as the script `commit` gets it, and what the script made of it as an outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def asked(change: Change) -> tuple[str, bytes, bytes, bytes]:
    """Which kind of change it is, what it asks, packed, and its sealed texts."""
    kind, what, first, second = _what(change)
    token = change.token
    head = [
        *(kind, change.chat_id, change.device or False, change.key, change.operation or False, change.digest),
        *(micro(change.at), change.connection or False),
        # A token of somebody else is no proof: it is not even looked up.
        token.value if token is not None and token.user == change.user else None,
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
            return "title", [what.base_version, what.base_op, what.title is not None, False], what.title or b"", b""
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
        case Stored():
            return "stored", [what.version, what.title_version, what.message_id], b"", b""
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


@dataclass(frozen=True, slots=True)
class Step:
    """What one step appended to a person's log, and what its entries tell of."""

    epoch: str
    start: Cursor
    """The end of the log before it."""
    end: Cursor
    items: tuple[Item, ...]
    record: ChatInCache | Deleted | None
    """The chat after it, with the messages that its entries name; None: it has to be read."""


def outcome_of(change: Change, answer: Sequence[Any]) -> tuple[Outcome, Step | None]:
    """The outcome that the script tells, and the step that it made in the log."""
    told = unpack(answer[0])
    match told[0]:
        case b"A":
            return _accepted(change, told, answer)
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


def _given(change: Change, draft: Any, title: Any, body: Any) -> tuple[Any, Any, Any]:
    """The texts that the change itself brought are not sent back."""
    _, _, first, second = _what(change)
    return (
        first if draft == _GIVEN else draft,
        (second if isinstance(change.what, Restore) else first) if title == _GIVEN else title,
        first if body == _GIVEN else body,
    )


def _accepted(change: Change, told: Sequence[Any], answer: Sequence[Any]) -> tuple[Accepted, Step | None]:
    _, version, op, title_version, title_op, messages_version, at, created, again, consumed, doomed, lost = told[:12]
    record, deleted, place, asked_for, replaced, epoch, end, tag, start, start_tag, packed_items = told[12:]
    user, chat_id = change.user, change.chat_id
    _, draft, title, body, replaced_draft, replaced_title = answer
    if _GIVEN in (draft, title, body):
        draft, title, body = _given(change, draft, title, body)
    chat = chat_of(user, chat_id, unpack(record), draft, title) if record else None
    message: MessageInCache | None = message_of(user, chat_id, place, body) if place and body is not None else None
    gone = Deleted(user, chat_id, time_of(deleted)) if deleted is not False else None
    epoch = epoch.decode()
    step: Step | None = None
    cursor: Cursor | None = None
    if packed_items:
        items = tuple(item_of(packed, start + number) for number, packed in enumerate(packed_items, 1))
        cursor = Cursor(epoch, end, tag.decode())
        step = Step(epoch, Cursor(epoch, start, start_tag.decode()), cursor, items, _told_of(chat, message, gone))
    accepted = Accepted(
        chat_id=chat_id,
        version=version,
        op=_word(op),
        title_version=title_version,
        title_op=_word(title_op),
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


def _told_of(
    chat: ChatInCache | None, message: MessageInCache | None, gone: Deleted | None
) -> ChatInCache | Deleted | None:
    if gone is not None:
        return gone
    return chat.having(messages=(message,)) if chat is not None and message is not None else chat


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
    items = tuple(item_of(each, start + number) for number, each in enumerate(packed_items, 1))
    start_cursor = Cursor(epoch, start, start_tag.decode())
    end = Cursor(epoch, items[-1].offset, items[-1].tag) if items else start_cursor
    chat = chat_of(user, chat_id, unpack(record), _there(draft), _there(title)) if record else None
    message = message_of(user, chat_id, place, body) if chat is not None and place and body is not False else None
    gone = Deleted(user, chat_id, time_of(deleted)) if deleted is not False else None
    return user, Step(epoch, start_cursor, end, items, _told_of(chat, message, gone))


def _there(text: Any) -> bytes | None:
    return text if text is not False else None
