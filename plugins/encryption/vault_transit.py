"""Keys wrapped by a key that never leaves Vault. Calls that wait at the same moment leave together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hvac.api.secrets_engines import Transit as TransitApi
from hvac.exceptions import InvalidPath, InvalidRequest

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_entry import WRAPPED, Damaged, decoded, encoded
from plugins.encryption.vault_link import Link
from sidecar import Batcher, Unavailable

_TOGETHER = 100


@dataclass(frozen=True, slots=True)
class _Question:
    slot: str
    value: str = field(repr=False)


class Transit:
    """Wraps keys by one transit key, each for its slot alone where that key is derived. Errors: `Unavailable`, `Damaged`."""

    def __init__(self, link: Link, mount: str, key: str) -> None:
        self._link = link
        self._mount = mount
        self._key = key
        self._wrap: Batcher[_Question, str] = Batcher(self._send_wrap, most=_TOGETHER)
        self._unwrap: Batcher[_Question, str] = Batcher(self._send_unwrap, most=_TOGETHER)
        self._rewrap: Batcher[_Question, str] = Batcher(self._send_rewrap, most=_TOGETHER)

    async def wrap(self, slot: str, secret: bytes) -> str:
        return _wrapped(await self._wrap(_Question(slot, encoded(secret))))

    async def unwrap(self, slot: str, wrapped: str) -> bytes:
        """Raises `Damaged` for what this key has not wrapped for this slot."""
        return decoded(await self._unwrap(_Question(slot, wrapped)))

    async def rewrap(self, slot: str, wrapped: str) -> str:
        """The same key, wrapped by the newest version of the transit key."""
        return _wrapped(await self._rewrap(_Question(slot, wrapped)))

    async def _send_wrap(self, questions: Sequence[_Question]) -> Sequence[str | Exception]:
        return await self._send("encrypt", "plaintext", "ciphertext", questions)

    async def _send_unwrap(self, questions: Sequence[_Question]) -> Sequence[str | Exception]:
        return await self._send("decrypt", "ciphertext", "plaintext", questions)

    async def _send_rewrap(self, questions: Sequence[_Question]) -> Sequence[str | Exception]:
        return await self._send("rewrap", "ciphertext", "ciphertext", questions)

    async def _send(
        self, what: Literal["encrypt", "decrypt", "rewrap"], given: str, wanted: str, questions: Sequence[_Question]
    ) -> Sequence[str | Exception]:
        batch = [{given: each.value, "context": encoded(each.slot.encode())} for each in questions]

        def ask(adapter: WireAdapter) -> list[dict[str, Any]]:
            engine = TransitApi(adapter)
            call = {"encrypt": engine.encrypt_data, "decrypt": engine.decrypt_data, "rewrap": engine.rewrap_data}[what]
            try:
                told = call(self._key, "", batch_input=batch, mount_point=self._mount)
            except InvalidRequest as error:
                # Some of them failed, and Vault says so of the whole.
                told = error.json
                if not isinstance(told, dict) or "batch_results" not in (told.get("data") or {}):
                    raise
            return list(told["data"]["batch_results"])

        where = f"{self._mount}/{what}/{self._key}"
        try:
            results = await self._link.ask(ask, where)
        except InvalidPath:
            raise Unavailable(
                "encryption", f"there is no engine at {self._mount} in Vault; see transit.mount", 5.0
            ) from None
        except InvalidRequest as error:
            said = ", ".join(error.errors or ())[:100] or "no reason given"
            raise Unavailable("encryption", f"Vault refuses {where} ({said}); run: sidecar bootstrap", 5.0) from None
        if len(results) != len(questions):
            raise Unavailable("encryption", "the answer of Vault is not understood")
        return [_result(each, wanted) for each in results]


def _result(told: Any, wanted: str) -> str | Exception:
    value = told.get(wanted) if isinstance(told, dict) else None
    if isinstance(value, str) and value:
        return value
    return Damaged(
        "transit does not unwrap its key: it was edited, moved, or its transit key is another or lost a version"
    )


def _wrapped(text: str) -> str:
    if not WRAPPED.fullmatch(text):
        raise Unavailable("encryption", "the answer of Vault is not understood")
    return text
