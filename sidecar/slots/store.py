"""The slot `persistence`: what was stored, read back. It is written through the plugin's `on_…` hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from sidecar.ids import ChatId, DeviceId, MessageId, UserHash
from sidecar.records import ChatInDB, DeviceInDB, MessageInDB, Page


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Something of a person was changed in the store by somebody else: edited, or deleted."""

    user: UserHash
    chat_id: ChatId | None = None
    """None: anything of that person may have been edited."""
    message_id: MessageId | None = None
    """This message of the chat; None: the chat's own row."""
    deleted: bool = False
    """The row was deleted, and was not merely missing: a deleted chat is deleted for good, its key too."""


class Store(ABC):
    """Errors of every method: `Unavailable`, `Unstorable`. Rows of other persons are never returned."""

    @abstractmethod
    async def known(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, ChatInDB]:
        """The rows of these chats; absent means unknown to the store. A row that cannot be read is left out of nothing: it comes with nulls."""
        ...

    @abstractmethod
    async def messages(
        self, user: UserHash, chat_id: ChatId, before: MessageId | None, limit: int
    ) -> Page[MessageInDB]:
        """A page of a chat's messages, newest first by sequence, older than `before`. `before` that is not there gives an empty page."""
        ...

    async def find(self, user: UserHash, chat_id: ChatId, ids: Sequence[MessageId]) -> Mapping[MessageId, MessageInDB]:
        """These messages, where the store has them. This default pages through the chat; a store that has an index overrides it."""
        wanted, found, before = set(ids), dict[MessageId, MessageInDB](), None
        while wanted:
            page = await self.messages(user, chat_id, before, 200)
            for message in page.items:
                if message.id in wanted:
                    found[message.id] = message
                    wanted.discard(message.id)
            if not page.more or not page.items:
                break
            before = page.items[-1].id
        return found

    @abstractmethod
    def everything(self) -> AsyncIterator[ChatInDB]:
        """Every chat of everybody, in no order, for `keys reseal`."""
        ...

    @abstractmethod
    async def reseal(self, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
        """New bytes for the same versions; a row that has another version by now is left as it is."""
        ...

    @abstractmethod
    async def devices(self, user: UserHash) -> Sequence[DeviceInDB]:
        """Every device of this person."""
        ...

    @abstractmethod
    async def put_device(self, device: DeviceInDB) -> None:
        """Makes or replaces a device."""
        ...

    @abstractmethod
    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        """Forgets a device; nothing if it is not there."""
        ...

    async def changed(self) -> AsyncIterator[Elsewhere]:
        """What others change, as it is heard; what this sidecar wrote is left out. May run for good."""
        return
        yield

    async def met(self) -> AsyncIterator[Elsewhere]:
        """What others had changed in rows that this process then wrote: nothing in the store tells of it any more. May run for good.

        Every process follows this, whereas one alone follows `changed`.
        """
        return
        yield
