"""The slot `cache`: what is hot, what is not yet stored, and in which order it happened (semantics §2–§7).

A cache has an index (`Chats`), an outbox and leases, on one backend: a commit writes the chat, the log and the outbox in
one atomic step. Errors of every method: `Unavailable`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sidecar.changes import Change, ChatInCache, Entry, FillToken, Limits, Outcome
from sidecar.cursors import Cursor, Events, Item
from sidecar.ids import ChatId, UserHash
from sidecar.records import Deleted


@dataclass(frozen=True, slots=True)
class Fresh:
    """A stretch of a person's log that a cache knows without asking, and the chats that its entries tell of."""

    items: tuple[Item, ...]
    head: Cursor
    """The place of the last of them."""
    records: Mapping[ChatId, ChatInCache | Deleted]
    """As they were after the newest of these entries, with those messages that the entries name; absent: to be read."""


class Chats(ABC):
    """The chats of each person, their log and the outcomes of their operations."""

    limits: Limits = Limits()
    """Set by the core after the cache was provided, before first use."""

    @abstractmethod
    async def commit(self, change: Change) -> Outcome:
        """One atomic step; the rule is `sidecar.decide`."""
        ...

    @abstractmethod
    async def read(
        self, user: UserHash, ids: Sequence[ChatId], *, use: bool = False
    ) -> Mapping[ChatId, ChatInCache | Deleted]:
        """What is here; absent means not here, which says nothing of the store.

        A record of an older epoch is returned as it is. `use` makes the chats the most recently used (a sync does not).
        """
        ...

    @abstractmethod
    async def prepare(self, user: UserHash, ids: Sequence[ChatId]) -> FillToken:
        """A token for these chats, valid 60 s, set before the store is read."""
        ...

    @abstractmethod
    async def fill(self, user: UserHash, chats: Sequence[ChatInCache | Deleted], token: FillToken) -> None:
        """Installs what was read from the store (or merged with it), each chat only while its token is valid: never over something newer.

        Records carry the present epoch; one of another is not installed.
        """
        ...

    @abstractmethod
    async def drop(self, user: UserHash, ids: Sequence[ChatId] | None) -> None:
        """Forgets clean parts: a clean chat, the clean messages of a dirty one. None: the whole person, dirty parts too."""
        ...

    @abstractmethod
    async def events(self, user: UserHash, after: Cursor | None, limit: int) -> Events:
        """The log after a cursor, oldest first, at most `limit` items. None: the head alone.

        Makes the epoch where it is missing. A cursor beyond the end, with another tag or of a later epoch shows that the
        cache went back: a new epoch begins. Keeps the person's chats without a message alive: their owner is connected.
        """
        ...

    def grown(self, user: UserHash, after: Cursor) -> bool:
        """Whether this person's log may have gone on behind `after`, told without asking a server; True when in doubt."""
        return True

    def fresh(self, user: UserHash, after: Cursor, limit: int) -> Fresh | None:
        """The entries behind `after`, as far as they are known without asking a server; None: ask `events`."""
        return None

    def follow(self, user: UserHash) -> None:
        """A connection of this person came to this process, which wants to hear quickly of what happens elsewhere."""

    def unfollow(self, user: UserHash) -> None:
        """The person's last connection on this process went."""

    @abstractmethod
    def watch(self) -> AsyncIterator[UserHash]:
        """Persons whose log grew, on any process; may lose and double, since the log is the truth. Runs for good."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    name: str
    holder: str
    fence: int
    """Grows with each new holder of a place."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a plugin stands in the outbox, over all shards."""

    pending: int
    parked: int
    oldest: datetime | None
    """When its oldest pending entry was appended."""


class Outbox(ABC):
    """Accepted changes on their way to the plugins, each of which has its own position.

    `shard` is the worker's lease on `outbox:{number}`; a fence that is too old raises `LeaseLost`.
    """

    shards: int = 1

    def shard_of(self, user: UserHash) -> int:
        """The shard in which this person's entries wait."""
        return 0

    @abstractmethod
    async def join(self, plugins: Sequence[str]) -> None:
        """These plugins listen. A new name starts at the end; an entry goes when every name that was known has passed it."""
        ...

    @abstractmethod
    async def pending(self, shard: Lease, plugin: str, limit: int) -> Sequence[Entry]:
        """Oldest first, with their tries, not the parked ones. Drafts and titles whose time has come are appended first."""
        ...

    @abstractmethod
    async def settle(
        self, shard: Lease, plugin: str, done: Sequence[str], failed: Sequence[str], parked: Sequence[str]
    ) -> None:
        """By entry id: `done` are passed, `failed` have one more try, `parked` wait for a person, and every later entry of their chat with them."""
        ...

    @abstractmethod
    async def parked(self, plugin: str, replay: Sequence[str] = (), drop: Sequence[str] = ()) -> Sequence[Entry]:
        """The parked entries, oldest first, after putting `replay` back in order (tries at 0) and forgetting `drop`."""
        ...

    @abstractmethod
    async def hurry(self, user: UserHash | None = None) -> None:
        """Drafts and titles of this person (None: everybody) are due now: the last device left, or the sidecar stops."""
        ...

    @abstractmethod
    async def positions(self) -> Mapping[str, Position]:
        """Every plugin that the outbox knows, gone ones too."""
        ...

    @abstractmethod
    async def forget(self, plugin: str) -> None:
        """Drops the position of a plugin that has gone, parked entries too."""
        ...


class Leases(ABC):
    """A bounded set of places, each with an end and a note: shard work, connection caps, presence, used codes, tries, devices."""

    @abstractmethod
    async def take(self, name: str, holder: str, seconds: float, places: int = 1, note: bytes = b"") -> Lease | None:
        """A place, or None when all are held by others. The same holder again renews its own and keeps its fence."""
        ...

    @abstractmethod
    async def leave(self, lease: Lease) -> None:
        """Gives the place back; nothing if it is no longer held under this fence."""
        ...

    @abstractmethod
    async def held(self, name: str) -> Mapping[str, bytes]:
        """The holders and their notes."""
        ...


@dataclass(frozen=True, slots=True)
class Cache:
    """What `provide_cache` returns."""

    chats: Chats
    outbox: Outbox
    leases: Leases
    shared: bool = False
    """Whether other processes may serve the same people from this cache: one that cannot reach it sends its clients to them."""
