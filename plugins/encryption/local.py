"""`encryption.local`: one random AES-256 key per chat, in a file on this host that a master key seals.

Several processes of one host may share the file; processes on several hosts may not (take `vault` for that). `destroy`
overwrites the key in the file. On a disk that writes elsewhere instead of in place (copy-on-write file systems, flash) the
old bytes may survive for a while, still sealed by the master key; a file system with its own encryption closes that.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, SecretStr, field_validator
from pydantic import Field as Option

from plugins.encryption import durable
from plugins.encryption.keyfile import Failure, KeyFile, Step
from plugins.encryption.keyrecords import Damaged, Slot
from plugins.encryption.masterkey import MasterKey, kept
from sidecar import (
    ChatId,
    Cipher,
    Field,
    Finding,
    KeyedCipher,
    KeyGone,
    KeyReference,
    Sealed,
    StartRefused,
    Surroundings,
    Unavailable,
    Undecryptable,
    UserHash,
    hookimpl,
)

_REFERENCE = re.compile(r"local:([0-9a-f]{64})\Z")
_NAMES = 1024
_WATCH_SECONDS = 1.0


class LocalCipher(KeyedCipher):
    """Keys from a key file. A reference is `local:` and the SHA-256 of user hash and chat id: no client's text is part of any path."""

    def __init__(self, file: KeyFile) -> None:
        self._file = file
        self._waiting: list[tuple[Step, asyncio.Future[Slot | None]]] = []
        self._turn: asyncio.Task[None] | None = None
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        if self._file.revoked():
            await self._take(Step("look", b""))
        return await super().seal(key, field, plaintext)

    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        if self._file.revoked():
            await self._take(Step("look", b""))
        return await super().open(key, field, sealed)

    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        if len(user) + len(chat_id) > _NAMES:
            raise ValueError(f"user hash and chat id have more than {_NAMES} characters")
        slot = _slot_of(user, chat_id)
        known = None if self._file.changed() else self._file.slot(slot)
        if known is None or not known.keys:
            await self._take(Step("begin", slot, user, chat_id))
        return _reference(slot)

    async def read_key(self, key: KeyReference) -> Mapping[int, bytes]:
        slot = _slot_in(key)
        found = await self._look(slot)
        if found is None:
            raise Undecryptable("there is no key under this reference")
        if found.mark is not None:
            raise KeyGone("this chat's key was destroyed")
        try:
            return self._file.secrets(found)
        except Damaged:
            # The record opened when it was taken in; only another process that is exchanging the file comes between.
            raise Unavailable("encryption", "the key file is being exchanged") from None

    async def rotate(self, key: KeyReference) -> None:
        await self._change("rotate", key)

    async def destroy(self, key: KeyReference) -> None:
        await self._change("destroy", key)

    async def forget(self, key: KeyReference) -> None:
        await self._change("forget", key)

    async def destroyed(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, datetime]:
        marks: dict[ChatId, datetime] = {}
        for chat_id in ids:
            slot = _slot_of(user, chat_id)
            found = await self._look(slot)
            at = self._file.destroyed_at(found) if found else None
            if at is not None:
                marks[chat_id] = at
        return marks

    async def begun(self, user: UserHash, chat_id: ChatId) -> bool:
        return await self._look(_slot_of(user, chat_id)) is not None

    async def keys(self) -> AsyncIterator[tuple[KeyReference, UserHash, ChatId]]:
        await self._take(Step("look", b""))
        for slot, user, chat_id in self._file.names():
            yield _reference(slot), UserHash(user), ChatId(chat_id)

    def counts(self) -> tuple[int, int]:
        """Keys, and marks of destroyed ones."""
        return self._file.counts()

    async def close(self) -> None:
        """Waits for what is being written and forgets the cached keys."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        while self._turn is not None:
            await asyncio.wait((self._turn,))
        self.drop_cached()
        self._file.close()

    async def _watch(self) -> None:
        """Lets go of keys that another process destroyed, though nobody uses them here."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._file.revoked():
                try:
                    await self._take(Step("look", b""))
                except Unavailable:
                    pass  # asked again; nothing is sealed or opened before it went through

    async def _change(self, what: Literal["rotate", "destroy", "forget"], key: KeyReference) -> None:
        try:
            await self._take(Step(what, _slot_in(key)))
        finally:
            self.drop_cached(key)

    async def _look(self, slot: bytes) -> Slot | None:
        """What the file says of the slot now; no I/O but one stat unless another process wrote."""
        if self._file.changed():
            return await self._take(Step("look", slot))
        return self._file.slot(slot)

    async def _take(self, step: Step) -> Slot | None:
        """Carries out one step. Steps that wait at the same moment share one write, one fsync and one thread."""
        answer: asyncio.Future[Slot | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, answer))
        if self._turn is None:
            self._turn = asyncio.create_task(self._take_turns())
        return await answer

    async def _take_turns(self) -> None:
        batch: list[tuple[Step, asyncio.Future[Slot | None]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                results, touched, seen = await asyncio.to_thread(self._file.carry_out, [step for step, _ in batch])
                for slot in touched:  # what another process rotated or destroyed must not live on in the cache
                    self.drop_cached(_reference(slot))
                self._file.seen = seen
                for (_, answer), result in zip(batch, results, strict=True):
                    if answer.done():
                        continue  # its caller was cancelled
                    if isinstance(result, Failure):
                        answer.set_exception(result)
                    else:
                        answer.set_result(result)
        finally:
            self._turn = None
            waiting, self._waiting = self._waiting, []
            for _, answer in (*batch, *waiting):
                if (
                    not answer.done()
                ):  # only when this was cancelled, or after an error that is none of ours and that the task reports
                    answer.set_exception(Unavailable("encryption", "the key file is not being written"))


class Local:
    """Fills the slot `encryption` from a key file."""

    api = 1

    class Options(BaseModel, extra="forbid", hide_input_in_errors=True):
        master_key: SecretStr | None = None
        """Seals the key file: 32 bytes in base64 or hex, or a passphrase of at least 32 characters (stretched with scrypt).

        Left out, a random one is made once in `master.key` in the data folder: whoever has that folder has all keys.
        """
        path: Path = Option(default=Path("keys"))
        """The key file; relative to the data folder."""

        @field_validator("master_key")
        @classmethod
        def _is_a_master_key(cls, value: SecretStr | None) -> SecretStr | None:
            if value is not None:
                MasterKey.given(value.get_secret_value())
            return value

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._given = options.master_key
        self._path = surroundings.data_dir / options.path
        self._kept = surroundings.data_dir / "master.key"
        self._cipher: LocalCipher | None = None

    async def __aenter__(self) -> Self:
        self._cipher = LocalCipher(await asyncio.to_thread(self._open))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._cipher is not None:
            await self._cipher.close()

    @hookimpl
    async def provide_encryption(self) -> Cipher:
        return self._entered()

    def state(self) -> Mapping[str, int]:
        """For `/readyz`."""
        keys, destroyed = self._entered().counts()
        return {"keys": keys, "destroyed": destroyed}

    def findings(self) -> Sequence[Finding]:
        """For `doctor`."""
        found = []
        if self._given is None:
            found.append(
                Finding(
                    "master-key-beside",
                    "note",
                    f"the master key lies beside what it seals, in {self._kept}: whoever has a copy of the folder reads everything",
                    "before the first use set encryption.options.master_key to ${file:…} on another disk",
                )
            )
        return found

    def _entered(self) -> LocalCipher:
        if self._cipher is None:
            raise RuntimeError("encryption.local is used before it was entered")
        return self._cipher

    def _open(self) -> KeyFile:
        try:
            with durable.locked(KeyFile.lock_of(self._path)):
                if self._given is not None:
                    master = MasterKey.given(self._given.get_secret_value())
                else:
                    master = kept(self._kept, self._path)
                return KeyFile.at(self._path, master)
        except OSError as error:
            where = error.filename or self._path
            raise StartRefused("encryption", f"{where} cannot be used: {error.strerror}") from None


def _slot_of(user: UserHash, chat_id: ChatId) -> bytes:
    return hashlib.sha256(f"{user}\0{chat_id}".encode()).digest()


def _reference(slot: bytes) -> KeyReference:
    return KeyReference(f"local:{slot.hex()}")


def _slot_in(key: KeyReference) -> bytes:
    found = _REFERENCE.match(key)
    if found is None:
        raise Undecryptable("this reference is none of encryption.local's")
    return bytes.fromhex(found[1])
