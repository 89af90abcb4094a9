"""Messages: `message_send` and `message_stop` (semantics §4)."""

from __future__ import annotations

from typing import Any

from sidecar.answers import Answer
from sidecar.changes import Accepted, AddMessage, ChatInCache, Conflict
from sidecar.chats import Found, begin, bury, client_change, commit, load, seek
from sidecar.errors import KeyGone, Unavailable, WireError
from sidecar.frames.client import MessageSend, MessageStop
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import ChatId, KeyReference, MessageId, chat_id_of, message_id_of, resolve_chat_id
from sidecar.outcomes import chat_deleted, refuse_over_quota
from sidecar.parts import Caller, Parts
from sidecar.records import Deleted, MessageInDB
from sidecar.responses import message_response, replaced_texts
from sidecar.texts import content_of, seal_message


async def send_message(parts: Parts, caller: Caller, frame: ClientFrame, payload: MessageSend) -> Answer:
    """`message_send`: `message_accepted`, or `chat_deleted`. It makes the chat if need be."""
    user = caller.user
    temp = payload.temp_chat_id
    chat_id = chat_id_of(user, temp) if temp is not None else resolve_chat_id(user, payload.chat_id or "")
    content = content_of(parts, payload.content, parts.settings.message_bytes, frame=frame)
    key, token = await seek(parts, user, chat_id, trust_new=temp is not None)
    if isinstance(key, Deleted):
        return chat_deleted(key)
    found = (await load(parts, user, [chat_id], use=True)).chats.get(chat_id) if key is not None else None
    chat = found if isinstance(found, ChatInCache) else None
    if parts.plugins.guards_messages and not parts.cipher.end_to_end:
        await parts.plugins.guard_message(caller.author, chat_id, chat.in_db() if chat else None, content)
    new = key is None and temp is not None
    if key is None:
        begun = await begin(parts, user, chat_id)
        if isinstance(begun, Deleted):
            return chat_deleted(begun)
        key = begun
    message_id = message_id_of(chat_id, payload.client_message_id)
    sealed: MessageInDB | None = None

    async def what(found: Found | None) -> AddMessage:
        """The message, sealed, or the store's own where only that has it."""
        nonlocal sealed
        chat = found if isinstance(found, ChatInCache) else None
        stored = await _in_store(parts, chat, message_id)
        if stored is None and sealed is None:
            sealed = MessageInDB.model_construct(
                id=message_id,
                chat_id=chat_id,
                hashed_user_id=user,
                client_message_id=payload.client_message_id,
                role="user",
                sender_name=caller.name,
                content=await seal_message(parts, key, user, chat_id, message_id, content.raw),
                sequence=0,
                created_at=parts.now(),
            )
        message = stored or sealed
        assert message is not None, "one of both"  # noqa: S101  # for the type checker
        seen = chat.messages_version if chat is not None else None
        return AddMessage(message, payload.draft_version, payload.draft_op, stored is not None, seen)

    try:
        change = client_change(parts, caller, frame, chat_id, key, await what(chat), token)
        outcome = await commit(parts, change, trust_new=new, again=what)
    except KeyGone:
        return chat_deleted(await bury(parts, user, chat_id, key))
    if isinstance(outcome, Conflict):
        gone = outcome.chat
        if isinstance(gone, Deleted):
            return chat_deleted(await bury(parts, user, chat_id, key))
        raise AssertionError("a message conflicts with nothing but a deletion")
    if not isinstance(outcome, Accepted) or outcome.message is None:
        raise refuse_over_quota(outcome)
    parts.metrics.accepted.labels("message").inc()
    try:
        return await _accepted(parts, chat_id, temp, key, outcome, content.raw)
    except KeyGone:  # deleted by another device meanwhile
        return chat_deleted(await bury(parts, user, chat_id, key))


async def _in_store(parts: Parts, chat: ChatInCache | None, message_id: MessageId) -> MessageInDB | None:
    """The message, where only the store has it: the cache keeps no more than the newest."""
    if chat is None or not chat.older or any(message.id == message_id for message in chat.messages):
        return None
    try:
        return (await parts.store.find(chat.user, chat.id, [message_id])).get(message_id)
    except Unavailable:
        return None  # hardly ever sent before: else nobody could send in a long chat until the store is back, which knows it again


async def _accepted(
    parts: Parts, chat_id: ChatId, temp: str | None, key: KeyReference, outcome: Accepted, raw: bytes
) -> Answer:
    message = outcome.message
    assert message is not None, "checked by the caller"  # noqa: S101  # for the type checker
    answer: dict[str, Any] = {"chatId": chat_id}
    if temp is not None:
        answer["tempChatId"] = temp
    bad: list[str] = []
    answer["message"] = await message_response(parts, key, message, bad)
    if bad:
        answer["undecryptable"] = bad
    answer["messagesVersion"] = outcome.messages_version
    answer["version"] = outcome.version
    answer["op"] = outcome.op
    answer["consumed"] = outcome.consumed
    if outcome.chat is not None:
        replaced = await replaced_texts(parts, outcome.chat, outcome.replaced, draft=raw, title=None)
        if replaced is not None:
            answer["replaced"] = replaced
    answer["durability"] = "stored" if message.status == "delivered" else "cached"
    return Answer("message_accepted", answer, outcome.cursor)


async def stop_message(parts: Parts, caller: Caller, payload: MessageStop) -> Answer:
    """`message_stop`: asks the producer of a streaming message to stop. A message that is not streaming is `not_found`."""
    chat_id = resolve_chat_id(caller.user, payload.chat_id)
    found = (await load(parts, caller.user, [chat_id])).chats.get(chat_id)
    streaming = isinstance(found, ChatInCache) and any(
        message.id == payload.message_id and message.status == "streaming" for message in found.messages
    )
    if not streaming:
        raise WireError("not_found", "no such message is streaming")
    raise WireError("unavailable", "its producer does not answer", retryable=True, retry_after_ms=1000)
