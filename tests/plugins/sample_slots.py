"""Plugins that fill the four slots for tests of the loader. Their slots answer nothing: no test here uses one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sidecar import (
    Authenticator,
    Cache,
    ChatId,
    ChatInDB,
    Cipher,
    Credential,
    Deleted,
    DeviceId,
    DeviceInDB,
    Field,
    KeyReference,
    MessageId,
    MessageInDB,
    Page,
    Sealed,
    Session,
    Store,
    UserHash,
    hookimpl,
)


class Nobody(Authenticator):
    async def sign_in(self, credential: Credential) -> Session:
        return Session("somebody")

    async def recheck(self, session: Session) -> None:
        return None


class Plain(Cipher):
    def __init__(self, end_to_end: bool = False) -> None:
        self.end_to_end = end_to_end

    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        return KeyReference(chat_id)

    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        return Sealed(plaintext)

    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        return sealed

    async def rotate(self, key: KeyReference) -> None:
        return None

    async def destroy(self, key: KeyReference) -> None:
        return None

    async def forget(self, key: KeyReference) -> None:
        return None


class Empty(Store):
    async def known(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, ChatInDB]:
        return {}

    async def messages(
        self, user: UserHash, chat_id: ChatId, before: MessageId | None, limit: int
    ) -> Page[MessageInDB]:
        return Page((), False, 0)

    async def everything(self) -> AsyncIterator[ChatInDB]:
        return
        yield

    async def reseal(self, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
        return None

    async def devices(self, user: UserHash) -> Sequence[DeviceInDB]:
        return ()

    async def put_device(self, device: DeviceInDB) -> None:
        return None

    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        return None


class Auth:
    api = 1

    def state(self) -> str:
        return "everybody is somebody"

    @hookimpl
    async def provide_auth(self) -> Authenticator:
        return Nobody()


class Encryption:
    api = 1

    @hookimpl
    async def provide_encryption(self) -> Cipher:
        return Plain()


class EndToEnd:
    api = 1

    @hookimpl
    async def provide_encryption(self) -> Cipher:
        return Plain(end_to_end=True)


class Caching:
    api = 1

    def __init__(self) -> None:
        self.page: Page[ChatInDB] | BaseException = Page((), False, 0)

    @hookimpl
    async def provide_cache(self) -> Cache:
        unused: Any = None
        return Cache(unused, unused, unused)

    @hookimpl
    async def on_sync(self) -> Page[ChatInDB]:
        if isinstance(self.page, BaseException):
            raise self.page
        return self.page


class Persistence:
    """Remembers what it was told; answers and raises what a test sets."""

    api = 1

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.page: object = Page((), False, 0)
        self.error: BaseException | None = None

    def _hear(self, hook: str, what: object) -> None:
        self.told.append((hook, what))
        if self.error is not None:
            raise self.error

    @hookimpl
    async def provide_persistence(self) -> Store:
        return Empty()

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        self._hear("on_draft", chat)

    @hookimpl
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        self._hear("on_first_message", (chat, message))

    @hookimpl
    async def on_message(self, message: MessageInDB, chat: ChatInDB) -> None:
        self._hear("on_message", (chat, message))

    @hookimpl
    async def on_title(self, chat: ChatInDB) -> None:
        self._hear("on_title", chat)

    @hookimpl
    async def on_chat_deleted(self, chat: Deleted) -> None:
        self._hear("on_chat_deleted", chat)

    @hookimpl
    async def on_user_erased(self, user: UserHash) -> None:
        self._hear("on_user_erased", user)

    @hookimpl
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        self._hear("on_sync", (user, before, limit))
        return self.page  # type: ignore[return-value]


class NotAStore(Persistence):
    @hookimpl
    async def provide_persistence(self) -> Store:
        return "a store"  # type: ignore[return-value]
