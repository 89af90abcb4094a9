"""What a device says that it holds, compared with what is here (semantics §6). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.changes import ChatInCache
from sidecar.chats import Found
from sidecar.frames.client import HeldChat
from sidecar.ids import ChatId
from sidecar.records import Deleted

Held = Mapping[ChatId, HeldChat]


def judge(held: Held, found: Mapping[ChatId, Found]) -> tuple[list[ChatId], list[Deleted]]:
    """What the client named and the server has less of or nothing, and what was deleted."""
    missing: list[ChatId] = []
    deleted: list[Deleted] = []
    for chat_id, named in held.items():
        chat = found.get(chat_id)
        if isinstance(chat, Deleted):
            deleted.append(chat)
        elif chat is None:
            if named.version or named.title_version or named.messages_version:
                missing.append(chat_id)
        elif (
            named.version > chat.version
            or named.title_version > chat.title_version
            or named.messages_version > chat.messages_version
        ):
            missing.append(chat_id)
    return missing, deleted


def draft_differs(named: HeldChat | None, chat: ChatInCache) -> bool:
    return named is None or named.version != chat.version or (named.op is not None and named.op != chat.draft_op)


def title_differs(named: HeldChat | None, chat: ChatInCache) -> bool:
    return (
        named is None
        or named.title_version != chat.title_version
        or (named.title_op is not None and named.title_op != chat.title_op)
    )


def messages_differ(named: HeldChat | None, chat: ChatInCache) -> bool:
    return named is None or named.messages_version != chat.messages_version


def differs(named: HeldChat | None, chat: ChatInCache) -> bool:
    """Whether the chat has anything that the client did not name."""
    return draft_differs(named, chat) or title_differs(named, chat) or messages_differ(named, chat)
