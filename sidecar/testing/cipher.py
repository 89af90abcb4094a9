"""The contract of the slot `encryption`. Subclass it in a test module; every test then runs against your cipher:

class TestMine(CipherContract):
    @pytest_asyncio.fixture
    async def cipher(self) -> AsyncIterator[Cipher]:
        async with Mine(Mine.Options()) as plugin:
            yield await plugin.provide_encryption()

    @pytest_asyncio.fixture
    async def broken_cipher(self) -> AsyncIterator[tuple[Cipher, KeyReference]]:
        ...  # a cipher, and a key that it made and does not have in memory, whose backend fails from now on
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import permutations, product
from typing import Literal

import pytest
import pytest_asyncio

from sidecar.envelope import key_version_of
from sidecar.errors import KeyGone, SidecarError, Unavailable, Undecryptable
from sidecar.ids import ChatId, KeyReference, UserHash
from sidecar.records import Field, Sealed
from sidecar.slots.cipher import Cipher
from sidecar.slots.keyed_cipher import KeyedCipher

ANNA = UserHash("a1" * 32)
BERT = UserHash("b2" * 32)
CHAT = ChatId("a1a1a1a1_first")
OTHER = ChatId("a1a1a1a1_second")
TEXT = b'{"type":"doc","content":[{"type":"text","text":"a canary that sings"}]}'


PLACES: tuple[tuple[Literal["title", "draft", "message"], str, int], ...] = (
    ("title", "", 1),
    ("title", "", 2),
    ("draft", "", 1),
    ("draft", "", 2),
    ("message", "m-1", 0),
    ("message", "m-2", 0),
)


async def _listed(cipher: Cipher) -> list[tuple[KeyReference, UserHash, ChatId]]:
    every = cipher.keys()
    return [each async for each in every]


def a_field(user: UserHash = ANNA, chat_id: ChatId = CHAT, version: int = 1) -> Field:
    return Field(user, chat_id, "draft", chat_id, version)


class CipherContract:
    """What the core relies on. The flags say what a cipher of this kind can promise; leave them as they are unless it cannot."""

    keyed: bool = True
    """It has a key per chat. False only for a cipher that passes through what the client sealed."""
    finds_marks: bool = True
    """It implements `destroyed`."""
    lists_keys: bool = True
    """It implements `keys`."""

    @pytest_asyncio.fixture
    async def cipher(self) -> AsyncIterator[Cipher]:
        raise NotImplementedError("override the fixture `cipher`")
        yield

    @pytest_asyncio.fixture
    async def broken_cipher(self) -> AsyncIterator[tuple[Cipher, KeyReference]]:
        raise NotImplementedError("override the fixture `broken_cipher`")
        yield

    def _needs(self, promised: bool) -> None:
        if not promised:
            pytest.skip("not promised by this cipher")

    @pytest.mark.asyncio
    async def test_what_was_sealed_opens(self, cipher: Cipher) -> None:
        key = await cipher.begin(ANNA, CHAT)
        for version, plaintext in enumerate((b"", b"x", TEXT, bytes(range(256)) * 512)):
            field = a_field(version=version)
            sealed = await cipher.seal(key, field, plaintext)
            assert isinstance(sealed, bytes)
            assert await cipher.open(key, field, sealed) == plaintext

    @pytest.mark.asyncio
    async def test_begin_again_gives_the_same_key(self, cipher: Cipher) -> None:
        key = await cipher.begin(ANNA, CHAT)
        sealed = await cipher.seal(key, a_field(), TEXT)
        again = await cipher.begin(ANNA, CHAT)
        assert again == key
        assert await cipher.open(again, a_field(), sealed) == TEXT

    @pytest.mark.asyncio
    async def test_s61_those_who_race_to_begin_get_one_key(self, cipher: Cipher) -> None:
        keys = await asyncio.gather(*(cipher.begin(ANNA, CHAT) for _ in range(20)))
        assert len(set(keys)) == 1
        sealed = await asyncio.gather(*(cipher.seal(key, a_field(), TEXT) for key in keys))
        for each in sealed:
            assert await cipher.open(keys[0], a_field(), each) == TEXT

    @pytest.mark.asyncio
    async def test_nothing_of_the_text_shows_and_no_two_envelopes_are_alike(self, cipher: Cipher) -> None:
        self._needs(self.keyed)
        key = await cipher.begin(ANNA, CHAT)
        envelopes = {await cipher.seal(key, a_field(), TEXT) for _ in range(50)}
        assert len(envelopes) == 50
        assert not any(each.count(b"canary") for each in envelopes)

    @pytest.mark.asyncio
    async def test_t27_s62_a_value_opens_only_in_its_place(self, cipher: Cipher) -> None:
        """T27, S62: every pair of 6 fields, 3 chats and 2 users, swapped, fails closed."""
        self._needs(self.keyed)
        chats = [CHAT, OTHER, ChatId("a1a1a1a1_third")]
        places = [
            (user, chat, Field(user, chat, name, record or chat, version))
            for user, chat in product((ANNA, BERT), chats)
            for name, record, version in PLACES
        ]
        keys = {(user, chat): await cipher.begin(user, chat) for user, chat in product((ANNA, BERT), chats)}
        sealed = [await cipher.seal(keys[user, chat], field, TEXT) for user, chat, field in places]
        for (_, value), ((user, chat, field), _) in permutations(list(zip(places, sealed, strict=True)), 2):
            with pytest.raises(Undecryptable):
                await cipher.open(keys[user, chat], field, value)

    @pytest.mark.asyncio
    async def test_t29_a_damaged_value_never_opens(self, cipher: Cipher) -> None:
        """T29: each byte flipped, each length cut, and what never was an envelope."""
        self._needs(self.keyed)
        key = await cipher.begin(ANNA, CHAT)
        sealed = await cipher.seal(key, a_field(), b"short")
        flipped = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
        for value in (*flipped, *(sealed[:length] for length in range(len(sealed))), sealed + b"\0", TEXT):
            with pytest.raises(Undecryptable):
                await cipher.open(key, a_field(), Sealed(value))

    @pytest.mark.asyncio
    async def test_s63_after_a_rotation_old_values_open_and_new_ones_use_the_new_key(self, cipher: Cipher) -> None:
        self._needs(self.keyed)
        key = await cipher.begin(ANNA, CHAT)
        old = await cipher.seal(key, a_field(), TEXT)
        await cipher.rotate(key)
        new = await cipher.seal(key, a_field(), TEXT)
        assert await cipher.open(key, a_field(), old) == TEXT
        assert await cipher.open(key, a_field(), new) == TEXT
        assert await cipher.begin(ANNA, CHAT) == key
        if isinstance(cipher, KeyedCipher):
            assert key_version_of(new) > key_version_of(old)

    @pytest.mark.asyncio
    async def test_a_destroyed_key_is_gone_for_good(self, cipher: Cipher) -> None:
        self._needs(self.keyed)
        key = await cipher.begin(ANNA, CHAT)
        sealed = await cipher.seal(key, a_field(), TEXT)
        await cipher.destroy(key)
        await cipher.destroy(key)  # again is fine
        for call in (
            lambda: cipher.begin(ANNA, CHAT),
            lambda: cipher.seal(key, a_field(), TEXT),
            lambda: cipher.open(key, a_field(), sealed),
            lambda: cipher.rotate(key),
        ):
            with pytest.raises(KeyGone):
                await call()

    @pytest.mark.asyncio
    async def test_destroying_one_key_leaves_the_others(self, cipher: Cipher) -> None:
        self._needs(self.keyed)
        one, other = await cipher.begin(ANNA, CHAT), await cipher.begin(ANNA, OTHER)
        field = a_field(chat_id=OTHER)
        sealed = await cipher.seal(other, field, TEXT)
        await cipher.destroy(one)
        assert await cipher.open(other, field, sealed) == TEXT

    @pytest.mark.asyncio
    async def test_marks_are_found_with_their_time_and_make_no_key(self, cipher: Cipher) -> None:
        self._needs(self.keyed and self.finds_marks)
        for user, chat in ((ANNA, CHAT), (ANNA, OTHER), (BERT, CHAT)):
            await cipher.begin(user, chat)
        await cipher.destroy(await cipher.begin(ANNA, CHAT))
        nobody = ChatId("a1a1a1a1_nobody")
        marks = await cipher.destroyed(ANNA, [CHAT, OTHER, nobody])
        assert set(marks) == {CHAT}
        assert marks[CHAT].tzinfo is not None
        assert not await cipher.destroyed(BERT, [CHAT])
        assert not await cipher.destroyed(ANNA, [])
        if self.lists_keys:
            assert nobody not in {chat for _, _, chat in await _listed(cipher)}

    @pytest.mark.asyncio
    async def test_a_mark_keeps_its_first_time(self, cipher: Cipher) -> None:
        self._needs(self.keyed and self.finds_marks)
        key = await cipher.begin(ANNA, CHAT)
        await cipher.destroy(key)
        first = await cipher.destroyed(ANNA, [CHAT])
        await asyncio.sleep(0.005)
        await cipher.destroy(key)
        assert await cipher.destroyed(ANNA, [CHAT]) == first

    @pytest.mark.asyncio
    @pytest.mark.parametrize("destroyed_before", [True, False])
    async def test_forgetting_takes_the_mark_and_the_key(self, cipher: Cipher, destroyed_before: bool) -> None:
        self._needs(self.keyed)
        key = await cipher.begin(ANNA, CHAT)
        sealed = await cipher.seal(key, a_field(), TEXT)
        if destroyed_before:
            await cipher.destroy(key)
        await cipher.forget(key)
        await cipher.forget(key)
        assert not await cipher.destroyed(ANNA, [CHAT])
        with pytest.raises((Undecryptable, Unavailable, KeyGone)):
            await cipher.open(key, a_field(), sealed)
        anew = await cipher.begin(ANNA, CHAT)
        with pytest.raises(Undecryptable):
            await cipher.open(anew, a_field(), sealed)

    @pytest.mark.asyncio
    async def test_living_keys_are_listed(self, cipher: Cipher) -> None:
        self._needs(self.keyed and self.lists_keys)
        one, other = await cipher.begin(ANNA, CHAT), await cipher.begin(BERT, OTHER)
        await cipher.rotate(one)
        await cipher.destroy(await cipher.begin(ANNA, OTHER))
        assert sorted(await _listed(cipher)) == sorted([(one, ANNA, CHAT), (other, BERT, OTHER)])
        assert [each async for each in cipher.keys_of(ANNA)] == [(one, ANNA, CHAT)]

    @pytest.mark.asyncio
    async def test_s60_not_found_makes_no_key(self, cipher: Cipher) -> None:
        """S60: only `begin` makes a key; for a reference that is not known everything else fails and writes nothing."""
        self._needs(self.keyed)
        key = await cipher.begin(ANNA, CHAT)
        sealed = await cipher.seal(key, a_field(), TEXT)
        await cipher.forget(key)
        with pytest.raises(SidecarError):
            await cipher.seal(key, a_field(), TEXT)
        with pytest.raises(SidecarError):
            await cipher.open(key, a_field(), sealed)
        with pytest.raises(SidecarError):
            await cipher.rotate(key)
        if self.lists_keys:
            assert await _listed(cipher) == []
        with pytest.raises(SidecarError):
            await cipher.seal(key, a_field(), TEXT)

    @pytest.mark.asyncio
    async def test_many_at_once_do_not_mix(self, cipher: Cipher) -> None:
        chats = [ChatId(f"a1a1a1a1_{number}") for number in range(40)]
        keys = await asyncio.gather(*(cipher.begin(ANNA, chat) for chat in chats))

        async def there_and_back(key: KeyReference, chat: ChatId) -> bytes:
            field = a_field(chat_id=chat)
            return await cipher.open(key, field, await cipher.seal(key, field, chat.encode()))

        opened = await asyncio.gather(*map(there_and_back, keys, chats))
        assert opened == [chat.encode() for chat in chats]

    @pytest.mark.asyncio
    async def test_every_method_says_that_the_backend_fails(self, broken_cipher: tuple[Cipher, KeyReference]) -> None:
        """S60: while the keys cannot be reached nothing is sealed, opened or made; `Unavailable`, never "not found" or "gone"."""
        self._needs(self.keyed)
        cipher, key = broken_cipher
        sealed = Sealed(bytes.fromhex("0101 00000001") + bytes(64))
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: cipher.begin(ANNA, ChatId("a1a1a1a1_new")),
            lambda: cipher.seal(key, a_field(), TEXT),
            lambda: cipher.open(key, a_field(), sealed),
            lambda: cipher.rotate(key),
            lambda: cipher.destroy(key),
            lambda: cipher.forget(key),
        ]
        if self.finds_marks:
            calls.append(lambda: cipher.destroyed(ANNA, [CHAT]))
        if self.lists_keys:
            calls.append(lambda: anext(aiter(cipher.keys())))
        for call in calls:
            with pytest.raises(Unavailable) as caught:
                await call()
            assert "canary" not in str(caught.value)

    @pytest.mark.asyncio
    async def test_t38_no_error_shows_the_text_or_a_key(self, cipher: Cipher) -> None:
        self._needs(self.keyed)
        key = await cipher.begin(ANNA, CHAT)
        sealed = await cipher.seal(key, a_field(), TEXT)
        secrets = (await cipher.read_key(key)).values() if isinstance(cipher, KeyedCipher) else []
        with pytest.raises(Undecryptable) as caught:
            await cipher.open(key, a_field(version=7), sealed)
        for shown in (str(caught.value), repr(caught.value), repr(cipher)):
            assert "canary" not in shown
            assert not any(secret.hex() in shown or repr(secret) in shown for secret in secrets)
