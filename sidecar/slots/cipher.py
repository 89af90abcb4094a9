"""The slot `encryption`: one key per chat, whose life is the chat's life (semantics §8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from sidecar.ids import ChatId, KeyReference, UserHash
from sidecar.records import Field, Sealed


class Cipher(ABC):
    """Errors of every method: `Unavailable`, `KeyGone`, `Undecryptable`. A key is made in `begin` and nowhere else."""

    end_to_end: bool = False
    """The client sealed it: content is a string, guards do not see it, nobody is granted plaintext."""

    @abstractmethod
    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        """The chat's key, made if there is none (create-only: the loser of a race gets the winner's). `KeyGone` if it was destroyed."""
        ...

    @abstractmethod
    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        """Seals with the newest version of the key; bound to the field."""
        ...

    @abstractmethod
    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        """Opens what was sealed for exactly this field, else `Undecryptable`."""
        ...

    @abstractmethod
    async def rotate(self, key: KeyReference) -> None:
        """A new version: new writes use it, all versions read."""
        ...

    @abstractmethod
    async def destroy(self, key: KeyReference) -> None:
        """Destroys all versions and leaves a durable mark: `KeyGone` for good. Again is fine."""
        ...

    @abstractmethod
    async def forget(self, key: KeyReference) -> None:
        """Takes the mark away too: a person is erased."""
        ...

    async def destroyed(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, datetime]:
        """Which of these chats carry the mark of a destroyed key, and since when. Makes no key.

        The default knows of none: a chat whose mark is not asked for here is told to be deleted only when it is restored or edited.
        """
        return {}

    async def begun(self, user: UserHash, chat_id: ChatId) -> bool:
        """Whether a key was ever made for this chat, destroyed or not. Makes none.

        Asked while the store is away: only a chat without a key can be believed to be new. The default says yes, so that
        no chat begins before the store is back.
        """
        return True

    async def keys(self) -> AsyncIterator[tuple[KeyReference, UserHash, ChatId]]:
        """Every key that is not destroyed, for `keys prune`. The default lists none."""
        return
        yield

    async def keys_of(self, user: UserHash) -> AsyncIterator[tuple[KeyReference, UserHash, ChatId]]:
        """As `keys`, of one person. The default looks through all of them."""
        async for each in self.keys():
            if each[1] == user:
                yield each
