"""Which chats a command is about, and where their keys and rows are found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sidecar.changes import ChatInCache
from sidecar.chats import peek
from sidecar.errors import Unavailable, WireError
from sidecar.ids import ChatId, KeyReference, UserHash, resolve_chat_id
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import OperationRefused
from sidecar.pages import list_chats
from sidecar.parts import Parts
from sidecar.records import ChatInDB

_PAGE = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """A chat and its key."""

    user: UserHash
    chat_id: ChatId
    key: KeyReference


@dataclass(frozen=True, slots=True)
class Scope:
    """One chat, one person, or (both None) everything."""

    user: UserHash | None
    chat: ChatId | None

    def holds(self, user: UserHash, chat_id: ChatId) -> bool:
        return self.user in (None, user) and self.chat in (None, chat_id)


def scope_of(arguments: Arguments) -> Scope:
    """The chats that the arguments name. Raises `OperationRefused`."""
    user, chat = arguments.user, arguments.chat
    if chat is None:
        return Scope(user, None)
    if user is None:
        if "_" not in chat:
            raise OperationRefused(
                "this is only the client's part of a chat's id", "give the full id, as it is listed, or --user too"
            )
        return Scope(None, ChatId(chat))
    try:
        return Scope(user, resolve_chat_id(user, chat))
    except WireError:
        raise OperationRefused(
            "this cannot be the id of a chat of this person", "see that --chat and --user belong together"
        ) from None


async def listed_keys(parts: Parts, scope: Scope) -> AsyncIterator[Target]:
    """Every key in the scope that the cipher lists. Raises `Unavailable`."""
    listed = parts.cipher.keys() if scope.user is None else parts.cipher.keys_of(scope.user)
    async for key, user, chat_id in listed:
        if scope.holds(user, chat_id):
            yield Target(user, chat_id, key)


async def keys_in(parts: Parts, scope: Scope) -> AsyncIterator[Target]:
    """Every key in the scope that is not known to be destroyed, once: what the cipher lists, what the store and the cache name.

    Raises `Unavailable`. A cipher need not be able to list its keys, hence the other places.
    """
    seen: set[KeyReference] = set()
    async for target in listed_keys(parts, scope):
        if target.key not in seen:
            seen.add(target.key)
            yield target
    async for target in _named(parts, scope):
        if target.key and target.key not in seen:
            seen.add(target.key)
            yield target


async def _named(parts: Parts, scope: Scope) -> AsyncIterator[Target]:
    if scope.user is None:
        async for row in parts.store.everything():
            if scope.holds(row.hashed_user_id, row.id):
                yield Target(row.hashed_user_id, row.id, row.vault_key_reference)
        return
    async for ids in _ids(parts, scope.user, scope.chat):
        for chat_id, found in (await peek(parts, scope.user, ids)).items():
            if isinstance(found, ChatInCache):
                yield Target(scope.user, chat_id, found.key)


async def rows_in(parts: Parts, scope: Scope) -> AsyncIterator[ChatInDB]:
    """Every row of the store in the scope. Raises `Unavailable`."""
    if scope.user is None:
        async for row in parts.store.everything():
            if scope.holds(row.hashed_user_id, row.id):
                yield row
        return
    async for ids in _ids(parts, scope.user, scope.chat):
        for row in (await parts.store.known(scope.user, ids)).values():
            yield row


async def _ids(parts: Parts, user: UserHash, chat: ChatId | None) -> AsyncIterator[Sequence[ChatId]]:
    if chat is not None:
        yield [chat]
        return
    place = None
    while True:
        listed = await list_chats(parts, user, place, _PAGE)
        if "cache" in listed.failed:
            raise Unavailable("cache", "it could not list this person's chats")
        if listed.ids:
            yield listed.ids
        if not listed.more or listed.last is None:
            return
        place = listed.last


async def chunks(source: AsyncIterator[T], most: int) -> AsyncIterator[list[T]]:
    """The items of `source`, up to `most` at a time."""
    chunk: list[T] = []
    async for item in source:
        chunk.append(item)
        if len(chunk) >= most:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def refuse_end_to_end(parts: Parts) -> None:
    """Where the clients encrypt there are no keys here to work on."""
    if parts.cipher.end_to_end:
        raise OperationRefused(
            "the clients encrypt here (`encryption`), so the sidecar has no keys", "rotate keys in the clients"
        )
