"""The writes of `persistence.sqlite`, each on a connection that is within a transaction.

Every one can be done again: what is there already is left, what is newer in the file stays. Nothing here lowers a version.
"""

from __future__ import annotations

import sqlite3

from plugins.persistence.sqlite_rows import CHAT_COLUMNS, DEVICE_COLUMNS, MESSAGE_COLUMNS, ticks, values
from sidecar import ChatInDB, Deleted, DeviceId, DeviceInDB, MessageInDB, Unstorable, UserHash


def _insert(table: str, columns: tuple[str, ...]) -> str:
    # Names of our own columns only, never a value.
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(':' + name for name in columns)})"  # noqa: S608


# A version that is no number (a damaged row) is below every other, so that the next write mends the row.
_NEWER_DRAFT = "(typeof(chats.version) <> 'integer' OR excluded.version > chats.version)"
_NEWER_TITLE = "(typeof(chats.title_version) <> 'integer' OR excluded.title_version > chats.title_version)"
_PUT_CHAT = f"""{_insert("chats", CHAT_COLUMNS)}
    ON CONFLICT (hashed_user_id, id) DO UPDATE SET
        vault_key_reference = CASE
            WHEN typeof(chats.vault_key_reference) = 'text' AND chats.vault_key_reference <> ''
            THEN chats.vault_key_reference ELSE excluded.vault_key_reference END,
        draft = CASE WHEN {_NEWER_DRAFT} THEN excluded.draft ELSE chats.draft END,
        draft_op = CASE WHEN {_NEWER_DRAFT} THEN excluded.draft_op ELSE chats.draft_op END,
        draft_state = CASE WHEN {_NEWER_DRAFT} THEN excluded.draft_state ELSE chats.draft_state END,
        version = CASE WHEN {_NEWER_DRAFT} THEN excluded.version ELSE chats.version END,
        title = CASE WHEN {_NEWER_TITLE} THEN excluded.title ELSE chats.title END,
        title_op = CASE WHEN {_NEWER_TITLE} THEN excluded.title_op ELSE chats.title_op END,
        title_version = CASE WHEN {_NEWER_TITLE} THEN excluded.title_version ELSE chats.title_version END,
        messages_version = CASE
            WHEN typeof(chats.messages_version) = 'integer'
            THEN max(chats.messages_version, excluded.messages_version) ELSE excluded.messages_version END,
        created_at = CASE WHEN typeof(chats.created_at) = 'integer' THEN chats.created_at ELSE excluded.created_at END,
        updated_at = max(chats.sorted_at, excluded.updated_at),
        last_message_timestamp = CASE
            WHEN excluded.last_message_timestamp IS NULL THEN chats.last_message_timestamp
            WHEN typeof(chats.last_message_timestamp) = 'integer'
            THEN max(chats.last_message_timestamp, excluded.last_message_timestamp)
            ELSE excluded.last_message_timestamp END
"""
_PUT_MESSAGE = f"{_insert('messages', MESSAGE_COLUMNS)} ON CONFLICT (id) DO NOTHING"
_PUT_DEVICE = _insert("devices", DEVICE_COLUMNS).replace("INSERT", "INSERT OR REPLACE", 1)
_RESEAL_CHAT = """
    UPDATE chats SET
        title = CASE WHEN title IS NULL THEN NULL ELSE coalesce(:title, title) END,
        draft = CASE WHEN draft IS NULL THEN NULL ELSE coalesce(:draft, draft) END
    WHERE hashed_user_id = :hashed_user_id AND id = :id
        AND version = :version AND draft_op IS :draft_op
        AND title_version = :title_version AND title_op IS :title_op
"""
_RESEAL_MESSAGE = """
    UPDATE messages SET content = :content
    WHERE id = :id AND hashed_user_id = :hashed_user_id AND chat_id = :chat_id
"""


def put_chat(connection: sqlite3.Connection, chat: ChatInDB) -> bool:
    """Makes the row, or raises the parts of it that `chat` has newer. False: the chat was deleted, and nothing was written."""
    key = (chat.hashed_user_id, chat.id)
    if connection.execute("SELECT 1 FROM deleted_chats WHERE hashed_user_id = ? AND chat_id = ?", key).fetchone():
        return False
    there = connection.execute(
        "SELECT vault_key_reference FROM chats WHERE hashed_user_id = ? AND id = ?", key
    ).fetchone()
    if there and isinstance(there[0], str) and there[0] not in ("", chat.vault_key_reference):
        # A chat has one key for good. Two texts of one chat under two references: one of them would never open again.
        raise Unstorable(f"chat {chat.id}: the store has it under another key reference")
    connection.execute(_PUT_CHAT, values(chat))
    return True


def put_message(connection: sqlite3.Connection, chat: ChatInDB, message: MessageInDB) -> None:
    """The chat and its message together. The same message again is fine and changes nothing of it."""
    if (message.hashed_user_id, message.chat_id) != (chat.hashed_user_id, chat.id):
        raise Unstorable(f"message {message.id} does not belong to chat {chat.id}")
    if not put_chat(connection, chat):
        return
    if connection.execute(_PUT_MESSAGE, values(message)).rowcount:
        return
    there = connection.execute("SELECT hashed_user_id, chat_id FROM messages WHERE id = ?", (message.id,)).fetchone()
    if there is None or tuple(there) != (message.hashed_user_id, message.chat_id):
        raise Unstorable(f"message {message.id} of chat {chat.id}: the store has another chat's message of that id")


def delete_chat(connection: sqlite3.Connection, chat: Deleted) -> None:
    """Removes chat and messages, and marks the id so that a write that comes late brings nothing back."""
    key = (chat.user, chat.chat_id)
    connection.execute("INSERT OR IGNORE INTO deleted_chats VALUES (?, ?, ?)", (*key, ticks(chat.at)))
    connection.execute("DELETE FROM messages WHERE hashed_user_id = ? AND chat_id = ?", key)
    connection.execute("DELETE FROM chats WHERE hashed_user_id = ? AND id = ?", key)


def erase_user(connection: sqlite3.Connection, user: UserHash) -> None:
    """Removes every trace of this person, the marks of deleted chats included."""
    connection.execute("DELETE FROM messages WHERE hashed_user_id = ?", (user,))
    connection.execute("DELETE FROM chats WHERE hashed_user_id = ?", (user,))
    connection.execute("DELETE FROM devices WHERE hashed_user_id = ?", (user,))
    connection.execute("DELETE FROM deleted_chats WHERE hashed_user_id = ?", (user,))


def reseal(connection: sqlite3.Connection, chat: ChatInDB, messages: tuple[MessageInDB, ...]) -> None:
    """New bytes for the same revisions. A null never replaces a value, and no row is made."""
    connection.execute(_RESEAL_CHAT, values(chat))
    for message in messages:
        if (message.hashed_user_id, message.chat_id) != (chat.hashed_user_id, chat.id):
            raise Unstorable(f"message {message.id} does not belong to chat {chat.id}")
        connection.execute(_RESEAL_MESSAGE, values(message))


def put_device(connection: sqlite3.Connection, device: DeviceInDB) -> None:
    """Makes or replaces a device."""
    connection.execute(_PUT_DEVICE, values(device))


def drop_device(connection: sqlite3.Connection, user: UserHash, device: DeviceId) -> None:
    """Removes a device; nothing if it is not there."""
    connection.execute("DELETE FROM devices WHERE hashed_user_id = ? AND id = ?", (user, device))
