"""The entries of a KV v2 engine: one for each chat, made once, never overwritten by chance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import structlog
from hvac.api.secrets_engines import KvV2
from hvac.exceptions import InvalidPath, InvalidRequest

from plugins.encryption import vault_entry
from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_entry import Damaged, Entry, Mark
from plugins.encryption.vault_link import Denied, Link
from plugins.encryption.vault_policy import capabilities
from sidecar import Unavailable, milliseconds

log = structlog.get_logger("plugins.encryption.vault")

_TRIES = 16
_TOLD = 1000
_TOLD_AGAIN_SECONDS = 60.0
_DENIED_SECONDS = 2.0


class Entries:
    """Every write names the version that it follows (`cas`). Errors: `Unavailable`, `Damaged`."""

    def __init__(self, link: Link, mount: str, path: str) -> None:
        self._link = link
        self._mount = mount
        self._path = path
        self._denied: dict[str, float] = {}
        """Until when slots are not asked for, which the policy denies one by one."""
        self._told: dict[str, float] = {}
        """Of which slots the log says that they cannot be used, and when it last did."""

    def _at(self, slot: str) -> str:
        return f"{self._path}/{slot}"

    def _data(self, slot: str) -> str:
        return f"{self._mount}/data/{self._at(slot)}"

    async def look(self, slot: str) -> Entry | Mark | None:
        """What is there now; None: nothing ever was, or it was forgotten. A destruction that was interrupted is finished."""
        found = await self._look(slot)
        if isinstance(found, Mark) and not found.finished:
            await self._finish(slot, found)
        return found

    async def _look(self, slot: str) -> Entry | Mark | None:
        if monotonic() < self._denied.get(slot, 0):
            raise self._denial(slot)  # not asked for again at once, however often somebody tries

        def ask(adapter: WireAdapter) -> Mapping[str, Any]:
            told: Mapping[str, Any] = KvV2(adapter).read_secret_version(
                self._at(slot), raise_on_deleted_version=True, mount_point=self._mount
            )
            return {"data": told["data"]["data"], "metadata": dict(told["data"]["metadata"])}

        try:
            told = await self._link.ask(ask, self._data(slot))
        except Denied:
            if not await self._may_read():
                raise
            self._tell("vault_entry_denied", slot, "the policy denies this one")
            self._denied[slot] = monotonic() + _DENIED_SECONDS
            if len(self._denied) > _TOLD:
                del self._denied[next(iter(self._denied))]
            raise self._denial(slot) from None
        except InvalidRequest as error:
            raise self._refused(error) from None
        except InvalidPath as error:
            absent = error.json if isinstance(error.json, dict) else {}
            if absent.get("errors"):
                raise self._no_mount() from None
            if not isinstance(absent.get("data"), dict):
                return None
            told = absent["data"]
        return await self._read(slot, told)

    def _denial(self, slot: str) -> Damaged:
        where = self._data(slot)
        return Damaged(f"Vault's policy denies {where}, and not its neighbours; see config/vault/policy.hcl")

    async def _may_read(self) -> bool:
        """Whether our policy lets us read entries at all: then one that is denied stands for itself, and for no other chat."""
        path = self._data(f"00/{'0' * 64}")
        return "read" in (await capabilities(self._link, [path])).get(path, ())

    async def _read(self, slot: str, told: Mapping[str, Any]) -> Entry | Mark:
        try:
            metadata = told["metadata"]
            if told["data"] is None and not (metadata.get("custom_metadata") or {}).get(vault_entry.DESTROYED_AT):
                return await self._without_data(slot, metadata)
            return vault_entry.read(slot, told["data"], metadata)
        except (KeyError, TypeError, AttributeError):
            raise Unavailable("encryption", "the answer of Vault is not understood") from None
        except Damaged as error:
            self._tell("vault_entry_unusable", slot, str(error))
            raise Damaged(
                f"the entry {self._data(slot)} in Vault cannot be used: {error}. Put a good version back: "
                f"vault kv rollback -mount={self._mount} -version=N {self._at(slot)}"
            ) from None

    def _tell(self, event: str, slot: str, reason: str) -> None:
        """Logs it, and not again at each of the many looks that follow."""
        now = monotonic()
        if now - self._told.get(slot, float("-inf")) >= _TOLD_AGAIN_SECONDS:
            self._told.pop(slot, None)
            self._told[slot] = now
            if len(self._told) > _TOLD:
                del self._told[next(iter(self._told))]
            log.error(event, path=self._data(slot), reason=reason)

    async def _without_data(self, slot: str, metadata: Mapping[str, Any]) -> Mark:
        """A newest version without data that is not marked: deleted or destroyed by somebody's hand."""
        number = int(metadata["version"])
        if not metadata.get("destroyed"):
            raise Damaged(f"version {number} was deleted; it comes back with vault kv undelete -versions={number}")
        told = await self._metadata(slot)
        if not all(each.get("destroyed") for each in told["versions"].values()):
            raise Damaged(f"version {number} was destroyed, and older ones were not")
        return Mark(_time_of(told["updated_time"]), number, finished=True)  # nothing is left that could come back

    async def _metadata(self, slot: str) -> Mapping[str, Any]:
        def ask(adapter: WireAdapter) -> Mapping[str, Any]:
            told: Mapping[str, Any] = KvV2(adapter).read_secret_metadata(self._at(slot), mount_point=self._mount)
            return dict(told["data"])

        try:
            return await self._link.ask(ask, f"{self._mount}/metadata/{self._at(slot)}")
        except (InvalidPath, InvalidRequest):
            raise Unavailable("encryption", "an entry in Vault changed in this very moment", 0.2) from None

    async def create(self, entry: Entry) -> bool:
        """Makes the entry, if nothing is or ever was there and was not forgotten; False: another did, or it is destroyed."""
        return await self._write(entry.slot, entry.data(), 0)

    async def replace(self, entry: Entry, number: int) -> bool:
        """Follows the version of this number; False: that is not the newest any more."""
        return await self._write(entry.slot, entry.data(), number)

    async def _write(self, slot: str, data: Mapping[str, Any], number: int) -> bool:
        def ask(adapter: WireAdapter) -> Mapping[str, Any]:
            told: Mapping[str, Any] = KvV2(adapter).create_or_update_secret(
                self._at(slot), dict(data), cas=number, mount_point=self._mount
            )
            return told.get("data") or {}

        try:
            told = await self._link.ask(ask, self._data(slot))
        except InvalidRequest as error:
            if "check-and-set" in " ".join(error.errors or ()):
                return False
            raise self._refused(error) from None
        except InvalidPath:
            raise self._no_mount() from None
        if told.get("version") != number + 1:
            # KV v1 takes the call, keeps what it likes and confirms nothing.
            raise Unavailable(
                "encryption", f"{self._mount} did not confirm the entry: it is no KV v2 engine; see mount", 5.0
            )
        if told.get("deletion_time"):
            raise Unavailable(
                "encryption", f"{self._mount} deletes entries by itself: set delete_version_after to 0", 5.0
            )
        return True

    async def destroy(self, slot: str) -> None:
        """Leaves a mark and no version. Again is fine; where nothing is, it leaves the mark alone."""
        for _ in range(_TRIES):
            try:
                found = await self._look(slot)
                number = found.number if found is not None else 0
            except Damaged:
                found, number = None, int((await self._metadata(slot))["current_version"])
            if isinstance(found, Mark):
                if not found.finished:
                    await self._finish(slot, found)
                return
            at = milliseconds(datetime.now(UTC))
            if await self._write(slot, vault_entry.tombstone(at), number):
                await self._finish(slot, Mark(at, number + 1, finished=False))
                return
        raise Unavailable("encryption", "an entry in Vault changed too often meanwhile", 0.2)

    async def _finish(self, slot: str, mark: Mark) -> None:
        def ask(adapter: WireAdapter) -> None:
            # The mark first: without it nothing tells a destruction from an accident.
            engine = KvV2(adapter)
            metadata = vault_entry.mark_metadata(mark.at)
            engine.update_metadata(self._at(slot), custom_metadata=metadata, mount_point=self._mount)
            versions = list(range(1, mark.number + 1))
            engine.destroy_secret_versions(self._at(slot), versions, mount_point=self._mount)

        try:
            await self._link.ask(ask, f"{self._mount}/metadata and {self._mount}/destroy of {self._at(slot)}")
        except InvalidRequest as error:
            raise self._refused(error) from None
        except InvalidPath:
            raise self._no_mount() from None

    async def forget(self, slot: str) -> None:
        """Removes everything, the mark too. Again is fine."""
        try:
            await self._link.ask(
                lambda adapter: KvV2(adapter).delete_metadata_and_all_versions(self._at(slot), mount_point=self._mount),
                f"{self._mount}/metadata/{self._at(slot)}",
            )
        except InvalidRequest as error:
            raise self._refused(error) from None
        except InvalidPath:
            raise self._no_mount() from None

    async def names(self, folder: str = "") -> list[str]:
        """What is in the folder of all keys, or of one shard."""
        at = self._at(folder) if folder else self._path
        try:
            told = await self._link.ask(
                lambda adapter: KvV2(adapter).list_secrets(at, mount_point=self._mount)["data"]["keys"],
                f"{self._mount}/metadata/{at}",
            )
        except InvalidRequest as error:
            raise self._refused(error) from None
        except InvalidPath as error:
            if error.errors:
                raise self._no_mount() from None
            return []
        return [str(name) for name in told]

    def _no_mount(self) -> Unavailable:
        return Unavailable("encryption", f"there is no engine at {self._mount} in Vault; see mount", 5.0)

    def _refused(self, error: InvalidRequest) -> Unavailable:
        if "pgrading" in " ".join(error.errors or ()):
            return Unavailable("encryption", f"{self._mount} is being upgraded to KV v2", 1.0)
        return Unavailable("encryption", f"Vault refuses a call on {self._mount} as malformed; is it KV v2?", 5.0)


def _time_of(text: str) -> datetime:
    """A time as Vault writes it, with nanoseconds."""
    whole = str(text).partition(".")[0].rstrip("Z")
    return datetime.fromisoformat(whole).replace(tzinfo=UTC)
