"""The hooks: every place where a plugin is asked or told something, and the only file that knows pluggy."""

from __future__ import annotations

from datetime import datetime

import pluggy

from sidecar.documents import Document
from sidecar.ids import ChatId, UserHash
from sidecar.records import Author, ChatInDB, Deleted, MessageInDB, Page
from sidecar.slots.authenticator import Authenticator
from sidecar.slots.cache import Cache
from sidecar.slots.cipher import Cipher
from sidecar.slots.store import Store

hookspec = pluggy.HookspecMarker("sidecar")
hookimpl = pluggy.HookimplMarker("sidecar")


class Hooks:
    """An implementation names only the arguments it wants. Naming `plaintext` needs `grants: [plaintext]`."""

    @hookspec
    async def provide_auth(self) -> Authenticator: ...
    @hookspec
    async def provide_encryption(self) -> Cipher: ...
    @hookspec
    async def provide_cache(self) -> Cache: ...
    @hookspec
    async def provide_persistence(self) -> Store: ...
    @hookspec
    async def before_draft(
        self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document
    ) -> None: ...
    @hookspec
    async def before_message(
        self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document
    ) -> None: ...
    @hookspec
    async def on_draft(self, chat: ChatInDB, plaintext: Document | None) -> None: ...
    @hookspec
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document) -> None: ...
    @hookspec
    async def on_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document) -> None: ...
    @hookspec
    async def on_title(self, chat: ChatInDB, plaintext: str | None) -> None: ...
    @hookspec
    async def on_chat_deleted(self, chat: Deleted) -> None: ...
    @hookspec
    async def on_user_erased(self, user: UserHash) -> None: ...
    @hookspec
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]: ...
