"""Loads the sample plugins as the command line would."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sidecar.documents import Document
from sidecar.ids import ChatId, DeviceId, KeyReference, MessageId, UserHash
from sidecar.plugin_entry import PluginEntry, SlotName, Surroundings
from sidecar.plugins import Plugins
from sidecar.plugins_loading import load
from sidecar.records import Author, ChatInDB, MessageInDB, Sealed

HERE = Path(__file__).parent
USER = UserHash("a" * 64)
CHAT_ID = ChatId("aaaaaaaa_one")
AUTHOR = Author(USER, DeviceId("laptop"))
TEXT = Document(b'{"type":"doc","content":[]}')
NOW = datetime(2026, 1, 2, tzinfo=UTC)
CHAT = ChatInDB(
    id=CHAT_ID,
    hashed_user_id=USER,
    vault_key_reference=KeyReference("k"),
    draft=Sealed(b"sealed"),
    version=3,
    created_at=NOW,
    updated_at=NOW,
)
MESSAGE = MessageInDB(
    id=MessageId("m"),
    chat_id=CHAT_ID,
    hashed_user_id=USER,
    client_message_id="c",
    role="user",
    sender_name="Ann",
    content=Sealed(b"sealed"),
    sequence=1,
    created_at=NOW,
)


def slot(kind: SlotName, use: str, **more: Any) -> PluginEntry:
    return PluginEntry(kind, f"sample_slots:{use}", slot=kind, **more)


def slots(
    *, encryption: str = "Encryption", persistence: str = "Persistence", timeout: float = 5.0
) -> list[PluginEntry]:
    return [
        slot("auth", "Auth"),
        slot("encryption", encryption),
        slot("cache", "Caching"),
        slot("persistence", persistence, timeout=timeout),
    ]


def listed(use: str, name: str = "", **more: Any) -> PluginEntry:
    """An entry of `plugins:`, granted plaintext unless said otherwise."""
    return PluginEntry("plugins[0]", use, name=name, **{"grants": ("plaintext",), **more})


def loaded(*more: PluginEntry, **kinds: Any) -> Plugins:
    """Plugins with the sample slots and these."""
    return loaded_from([*slots(**kinds), *more])


def loaded_from(entries: Sequence[PluginEntry], *folders: Path) -> Plugins:
    return load(entries, Surroundings(Path("data"), "127.0.0.1"), [HERE, *folders])


def instance(plugins: Plugins, name: str) -> Any:
    """The plugin itself, which nothing outside of tests ever touches."""
    return next(each.instance for each in plugins._plugins if each.name == name)
