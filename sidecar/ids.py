"""Who and what: typed ids, and the only places where they are built (semantics §1)."""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from typing import NewType

from sidecar.errors import WireError

UserHash = NewType("UserHash", str)
"""Lower-case hex SHA-256 (HMAC-SHA-256 with a pepper) of the user id of the authenticator; 64 characters."""
ChatId = NewType("ChatId", str)
"""`{first 8 characters of the user hash}_{client chat id}`; at most 73 characters."""
ClientChatId = NewType("ClientChatId", str)
MessageId = NewType("MessageId", str)
"""A UUIDv5, lower case with dashes."""
DeviceId = NewType("DeviceId", str)
ConnectionId = NewType("ConnectionId", str)
KeyReference = NewType("KeyReference", str)
"""Names a chat's key to the cipher that made it; opaque to everybody else, stored as `vault_key_reference`."""

_MESSAGE_NAMESPACE = uuid.UUID("5b8a6f0e-3c1d-5e54-9c40-7d1b8f6a2c11")  # fixed for good: it makes the primary keys
_CLIENT_CHAT_ID = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_PREFIX = 8


def hash_user(user_id: str, pepper: str | None = None) -> UserHash:
    """The hash under which everything of this person is kept; with another pepper it is another person."""
    if pepper is None:
        return UserHash(hashlib.sha256(user_id.encode()).hexdigest())
    return UserHash(hmac.new(pepper.encode(), user_id.encode(), hashlib.sha256).hexdigest())


def chat_id_of(user: UserHash, client_chat_id: str) -> ChatId:
    """The full id of this person's chat. Raises `WireError` (`bad_payload`) unless the id is `[A-Za-z0-9-]{1,64}`."""
    if not _CLIENT_CHAT_ID.match(client_chat_id):
        raise WireError("bad_payload", "a client chat id is 1 to 64 of A-Z a-z 0-9 and -", details={"path": "chatId"})
    return ChatId(f"{user[:_PREFIX]}_{client_chat_id}")


def resolve_chat_id(user: UserHash, wire: str) -> ChatId:
    """A `chatId` as it came, full or the client's part alone, as this person's full id.

    The prefix is no proof of anything: it only tells an id that cannot be this person's, which is `not_found`.
    """
    prefix, underscore, client_chat_id = wire.partition("_")
    if not underscore:
        return chat_id_of(user, wire)
    if prefix != user[:_PREFIX]:
        raise WireError("not_found", "no such chat")
    return chat_id_of(user, client_chat_id)


def client_part(chat_id: ChatId) -> ClientChatId:
    """The client chat id within a full chat id."""
    return ClientChatId(chat_id[_PREFIX + 1 :])


def message_id_of(chat_id: ChatId, client_message_id: str) -> MessageId:
    """UUIDv5 (RFC 9562 §5.5) of chat and client message id: the same message is the same row, however often it is sent."""
    return MessageId(str(uuid.uuid5(_MESSAGE_NAMESPACE, f"{chat_id}:{client_message_id}")))
