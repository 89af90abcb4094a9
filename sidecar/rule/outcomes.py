"""What the parts of the rule share: how an outcome is said and what of it is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from sidecar.changes import (
    Accepted,
    AddMessage,
    Change,
    ChatInCache,
    Conflict,
    ConflictReason,
    Decision,
    DoomChat,
    Limits,
    NewEntry,
    NewItem,
    OverQuota,
    PutTitle,
    Remembered,
    Replaced,
    Restore,
    View,
    What,
)
from sidecar.records import Deleted, MessageInCache

OperationKind = Literal["draft", "title", "message", "restore", "delete"]
_KINDS: Mapping[type[What], OperationKind] = MappingProxyType(
    {PutTitle: "title", AddMessage: "message", Restore: "restore", DoomChat: "delete"}
)


def kind_of(change: Change) -> OperationKind:
    """Which of a client's operations this change is."""
    return _KINDS.get(change.what.__class__, "draft")


def new_chat(view: View, change: Change) -> ChatInCache:
    """A chat that begins with this change."""
    return ChatInCache(
        id=change.chat_id,
        user=change.user,
        key=change.key,
        epoch=view.epoch,
        created_at=change.at,
        updated_at=change.at,
    )


def usable(view: View, change: Change) -> bool:
    """Whether the record may be used: of the present epoch, or absent with proof that the store was asked."""
    if view.chat is not None:
        return view.chat.epoch == view.epoch
    return view.token_valid and change.token is not None


def reason_of(chat: ChatInCache) -> ConflictReason:
    """Why a draft that was based on an earlier revision than this chat's is refused."""
    if chat.draft_state == "consumed":
        return "consumed"
    return "deleted" if chat.draft_state == "deleted" else "stale"


def conflict(change: Change, reason: ConflictReason, chat: ChatInCache | Deleted | None) -> Decision:
    """Nothing changes. `missing` is not remembered: after a restore the client asks again."""
    remember = None
    if change.operation is not None and reason != "missing":
        remember = Remembered(change.digest, change.at, change.chat_id, False, reason, kind_of(change))
    return Decision(Conflict(reason, chat), remember=remember)


def over_quota(view: View, limits: Limits, before: ChatInCache | None, after: ChatInCache) -> Decision | None:
    """The refusal, if the person would have more than the limits allow of what cannot be evicted."""
    if before is None and after.messages_version == 0 and view.usage.draft_chats >= limits.draft_chats:
        return Decision(OverQuota("draft_chats", limits.draft_chats))
    weight = after.weight
    if view.usage.bytes + weight > limits.bytes:
        growth = weight - (before.weight if before is not None and before.pinned else 0)
        if growth > 0 and view.usage.bytes + growth > limits.bytes:
            return Decision(OverQuota("bytes", limits.bytes))
    return None


def accepted(
    change: Change,
    before: ChatInCache | None,
    after: ChatInCache,
    *,
    items: tuple[NewItem, ...],
    entries: tuple[NewEntry, ...] = (),
    due: bool = True,
    repeat: bool = False,
    consumed: bool = False,
    message: MessageInCache | None = None,
    replaced: Replaced | None = None,
    draft_lost: ConflictReason | None = None,
) -> Decision:
    """The change takes place: `after` is put unless it is `before` itself."""
    changed = after is not before
    created = before is None
    remember = None
    if change.operation is not None:
        remember = Remembered(
            digest=change.digest,
            at=change.at,
            chat_id=change.chat_id,
            accepted=True,
            kind=kind_of(change),
            version=after.version,
            op=after.draft_op,
            title_version=after.title_version,
            title_op=after.title_op,
            messages_version=after.messages_version,
            message_id=message.id if message is not None else None,
            created=created,
            consumed=consumed,
            draft_lost=draft_lost,
            replaced=replaced,
        )
    return Decision(
        Accepted(
            change.chat_id,
            version=after.version,
            op=after.draft_op,
            title_version=after.title_version,
            title_op=after.title_op,
            messages_version=after.messages_version,
            at=change.at,
            created=created,
            repeat=repeat,
            consumed=consumed,
            message=message,
            replaced=replaced,
            doomed=after.doomed,
            chat=after,
            draft_lost=draft_lost,
        ),
        chat=after if changed else None,
        remember=remember,
        items=items if changed else (),
        entries=entries,
        due=due and changed,
    )
