"""`encryption.passthrough`: the client encrypts, and the sidecar carries what it cannot read."""

from __future__ import annotations

from pydantic import BaseModel

from sidecar import ChatId, Cipher, Field, KeyReference, Sealed, UserHash, hookimpl

_REFERENCE = KeyReference("passthrough")


class ClientSealed(Cipher):
    """Bytes go through as they are; there are no keys here.

    So nothing here tells whether a value was moved or damaged: that is the client's own encryption's part. `rotate`,
    `destroy` and `forget` have nothing to do: of a deleted chat only the cache's tombstone is left (90 days), and copies
    in backups stay as readable as the client made them.
    """

    end_to_end = True

    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        return _REFERENCE

    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        return Sealed(plaintext)

    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        return bytes(sealed)

    async def rotate(self, key: KeyReference) -> None:
        return

    async def destroy(self, key: KeyReference) -> None:
        return

    async def forget(self, key: KeyReference) -> None:
        return


class Passthrough:
    """Fills the slot `encryption` for clients that seal by themselves: `content` is a string, guards do not see it."""

    api = 1

    class Options(BaseModel, extra="forbid"):
        """There is nothing to set."""

    def __init__(self, options: Options) -> None:
        self._cipher = ClientSealed()

    @hookimpl
    async def provide_encryption(self) -> Cipher:
        return self._cipher

    def state(self) -> str:
        return "the client encrypts"
