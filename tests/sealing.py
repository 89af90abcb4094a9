"""What the tests of ciphers share: one person's chats, sealed and opened, and what holds wherever keys are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import pytest

from sidecar import ChatId, Cipher, Field, KeyGone, KeyReference, Sealed, Unavailable, Undecryptable, UserHash

USER = UserHash("a1" * 32)
TEXT = b"a canary that sings"

AnyCipher = TypeVar("AnyCipher", bound=Cipher)


def chat(number: int | str) -> ChatId:
    return ChatId(f"a1a1a1a1_{number}")


def field(chat_id: ChatId, user: UserHash = USER) -> Field:
    return Field(user, chat_id, "draft", chat_id, 1)


async def seal(cipher: Cipher, number: int | str) -> tuple[KeyReference, Sealed]:
    key = await cipher.begin(USER, chat(number))
    return key, await cipher.seal(key, field(chat(number)), TEXT)


async def opens(cipher: Cipher, number: int | str, key: KeyReference, sealed: Sealed) -> bool:
    return await cipher.open(key, field(chat(number)), sealed) == TEXT


async def listed(cipher: Cipher) -> list[tuple[KeyReference, UserHash, ChatId]]:
    every = cipher.keys()
    return [each async for each in every]


@asynccontextmanager
async def kept_for_the_next(
    opened: Callable[[], AbstractAsyncContextManager[AnyCipher]],
) -> AsyncIterator[AnyCipher]:
    """One process makes a key with two versions, and destroys another: the next, which this gives, has both versions and the mark."""
    async with opened() as cipher:
        kept, gone = await seal(cipher, 1), await seal(cipher, 2)
        await cipher.rotate(kept[0])
        newer = await cipher.seal(kept[0], field(chat(1)), TEXT)
        await cipher.destroy(gone[0])
        marks = await cipher.destroyed(USER, [chat(1), chat(2)])
    async with opened() as cipher:
        assert await opens(cipher, 1, *kept)
        assert await opens(cipher, 1, kept[0], newer)
        assert await cipher.destroyed(USER, [chat(1), chat(2)]) == marks
        assert set(marks) == {chat(2)}
        with pytest.raises(KeyGone):
            await cipher.begin(USER, chat(2))
        yield cipher


async def unknown_make_no_key(
    cipher: Cipher, references: Sequence[str], stored: Callable[[], Awaitable[object]]
) -> None:
    """S60: nothing is sealed or opened by these references, and what is stored stays as it is."""
    _, sealed = await seal(cipher, 1)
    before = await stored()
    for reference in references:
        with pytest.raises(Unavailable):
            await cipher.seal(KeyReference(reference), field(chat(1)), TEXT)
        with pytest.raises(Undecryptable):
            await cipher.open(KeyReference(reference), field(chat(1)), sealed)
        with pytest.raises(Undecryptable):
            await cipher.rotate(KeyReference(reference))
    assert await stored() == before
