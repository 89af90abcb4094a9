"""A cipher whose keys come from somewhere, such as a file or a key service: sealing, opening and the key cache are done here."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from time import monotonic

from sidecar.envelope import NONCE_BYTES, ContentKey, content_key, key_version_of, open_, seal
from sidecar.errors import Unavailable, Undecryptable
from sidecar.ids import KeyReference
from sidecar.records import Field, Sealed
from sidecar.slots.cipher import Cipher

SEALS_PER_KEY = 2**24
"""What one key version may seal in one process. Random 96-bit nonces are good for 2^32 (NIST SP 800-38D §8.3); a chat that comes near is misused."""


class _Versions:
    """All versions of one key, as they were read at one time."""

    __slots__ = ("asked", "keys", "lowest", "newest", "seals", "until")

    def __init__(self, keys: Mapping[int, ContentKey], asked: float, until: float) -> None:
        self.keys = keys
        self.newest = keys[max(keys)]
        self.lowest = min(keys)
        self.asked = asked
        self.until = until
        self.seals = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """The moment before a plugin asked for a key: what it hears is as old as that."""

    at: float
    drops: int


class _Flight:
    """One reading of a key that several callers may wait for."""

    __slots__ = ("dropped", "task")

    task: asyncio.Task[_Versions]

    def __init__(self) -> None:
        self.dropped = False


class KeyedCipher(Cipher):
    """Sealing and opening by envelope (`sidecar.envelope`), with the newest version of a key that the plugin reads.

    A plugin writes `read_key`, `begin`, `rotate`, `destroy` and `forget`, and calls `drop_cached` at the end of the last three,
    in a `finally`: a call that failed may still have taken place. While a key is cached, `seal` and `open` do not suspend.
    """

    key_ttl: float = 300.0
    """Seconds that a key may stay in memory; set by the core from `chats.key_ttl`. 0 keeps none."""
    keys_cached: int = 50_000
    """Keys that may be in memory; set by the core from `chats.keys_cached`. The one read longest ago goes first."""
    hits: int = 0
    """Calls of `seal` and `open` that found their key in memory."""
    misses: int = 0
    """Calls that had to wait for `read_key`."""

    _previous_nonce = b""
    _drops = 0
    _sweeping: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    @abstractmethod
    async def read_key(self, key: KeyReference) -> Mapping[int, bytes]:
        """All versions of the key that are still accepted, from 1 up, each exactly 32 bytes.

        A version that is left out does not open any more. Makes no key: `Undecryptable` where there is none under this
        reference, `KeyGone` where it was destroyed, `Unavailable` where that cannot be told now.
        """
        ...

    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        """Seals with the newest version. Without a key nothing is sealed: `Unavailable`, `KeyGone`."""
        held = self._held.get(key)
        if held is not None and held.until > monotonic():
            self.hits += 1
        else:
            try:
                held = await self._read(key)
            except Undecryptable:
                # Not found is not gone: the chat lives and its key may come back from a backup. Nothing is sealed until then.
                raise Unavailable("encryption", "there is no key for this chat; bring back the keys") from None
        if held.seals >= SEALS_PER_KEY:
            raise Unavailable("encryption", f"this key sealed {SEALS_PER_KEY} values; run: sidecar keys rotate")
        nonce = os.urandom(NONCE_BYTES)
        if nonce == self._previous_nonce:
            raise Unavailable("encryption", "the system's random source repeated itself")
        self._previous_nonce = nonce
        held.seals += 1
        return seal(held.newest, field, plaintext, nonce)

    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        """Opens under exactly the version that the value names. A version unknown here is looked for once more at the source."""
        version = key_version_of(sealed)
        began = monotonic()
        held = self._held.get(key)
        if held is not None and held.until > began:
            self.hits += 1
        else:
            held = await self._read(key)
        while (found := held.keys.get(version)) is None:
            # The copy, or the reading that was joined, may be older than a rotation elsewhere. Below the lowest nothing comes back.
            if held.asked >= began or version < held.lowest:
                raise Undecryptable("this value does not open")
            held = await self._read(key)
        return open_(found, field, sealed)

    def drop_cached(self, key: KeyReference | None = None) -> None:
        """Forgets the cached copy of this key (None: of all) at once; a reading under way is done again before it is used."""
        self._drops += 1
        for each in list(self._held) if key is None else [key]:
            self._let_go(each)
        for each in list(self._flights) if key is None else [key]:
            flight = self._flights.pop(each, None)
            if flight is not None:
                flight.dropped = True
        if key is None and self._sweeping is not None:
            self._sweeping[1].cancel()
            self._sweeping = None

    @property
    def in_memory(self) -> int:
        """How many keys are in memory now."""
        return len(self._held)

    def asking(self) -> Asked:
        """To be taken before the question leaves whose answer `keep_cached` gets."""
        return Asked(monotonic(), self._drops)

    def keep_cached(self, key: KeyReference, versions: Mapping[int, bytes], asked: Asked) -> None:
        """For a plugin that learns all versions of a key on another way than `read_key`, as when it has just made it.

        Nothing is kept where any key was dropped since, a newer copy is there, or the key cannot be used.
        """
        held = self._held.get(key)
        if asked.drops != self._drops or not versions or (held is not None and held.asked >= asked.at):
            return
        try:
            keys = {version: content_key(secret, version) for version, secret in versions.items()}
        except ValueError:
            return  # whoever uses it reads it, and is told
        self._keep(key, _Versions(keys, asked.at, asked.at + self.key_ttl))

    # The state is made at first use, so that a plugin's own __init__ need not call this class's.

    @cached_property
    def _held(self) -> dict[KeyReference, _Versions]:
        return {}  # in the order of reading, which is the order of expiry

    @cached_property
    def _flights(self) -> dict[KeyReference, _Flight]:
        return {}

    @cached_property
    def _seals(self) -> dict[bytes, int]:
        return {}  # by commitment, for keys that are not in memory now: a count must outlive the copy

    async def _read(self, key: KeyReference) -> _Versions:
        self.misses += 1
        while True:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight()
                flight.task = asyncio.create_task(self._fetch(key, flight))
                flight.task.add_done_callback(_retrieve)
            # `wait`, since a caller that is cancelled must not take the reading away from the others.
            await asyncio.wait((flight.task,))
            if not flight.dropped:
                return flight.task.result()

    async def _fetch(self, key: KeyReference, flight: _Flight) -> _Versions:
        asked = monotonic()
        try:
            versions = await self.read_key(key)
            if not versions:
                raise Unavailable("encryption", "the key has no version")
            try:
                keys = {version: content_key(secret, version) for version, secret in versions.items()}
            except ValueError as error:
                raise Unavailable("encryption", f"the key cannot be used: {error}") from None
            held = _Versions(keys, asked, asked + self.key_ttl)
            if not flight.dropped:
                self._keep(key, held)
            return held
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _keep(self, key: KeyReference, held: _Versions) -> None:
        self._let_go(key)
        held.seals = self._seals.pop(held.newest.commitment, 0)
        self._held[key] = held
        while len(self._held) > max(self.keys_cached, 1):
            self._let_go(next(iter(self._held)))
        loop = asyncio.get_running_loop()
        if self._sweeping is None or self._sweeping[0] is not loop:
            self._sweeping = loop, loop.call_later(max(held.until - monotonic(), 0), self._sweep)

    def _let_go(self, key: KeyReference) -> None:
        held = self._held.pop(key, None)
        if held is not None and held.seals:
            self._seals.pop(held.newest.commitment, None)
            self._seals[held.newest.commitment] = held.seals
            if len(self._seals) > max(self.keys_cached, 1):
                del self._seals[next(iter(self._seals))]

    def _sweep(self) -> None:
        # By a timer and not only at the next miss: an idle process must not hold keys for longer than promised.
        now = monotonic()
        for key, held in list(self._held.items()):
            if held.until > now:
                loop = asyncio.get_running_loop()
                self._sweeping = loop, loop.call_later(held.until - now, self._sweep)
                return
            self._let_go(key)
        self._sweeping = None


def _retrieve(task: asyncio.Task[_Versions]) -> None:
    # Callers may all have been cancelled; a failure that nobody waits for is nobody's.
    if not task.cancelled():
        task.exception()
