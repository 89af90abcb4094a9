"""The end of rows: of chats that were deleted, of persons who are erased."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugins.directus.refusals import DirectusFailed, DirectusRefused
from plugins.persistence.directus_ahead import Ahead
from plugins.persistence.directus_changes import Changes
from plugins.persistence.directus_link import PART, Link, in_time
from plugins.persistence.directus_rows import chat_key, device_key
from sidecar import Batcher, Deleted, DeviceId, Unavailable, Unstorable, UserHash


class Removals:
    """Deletions over an open link; those that wait at the same moment leave together. Errors: `Unavailable`, `Unstorable`."""

    def __init__(self, link: Link, changes: Changes, ahead: Ahead, deadline: float) -> None:
        """`deadline`: in seconds for one deletion, the wait for those before it included."""
        self._link = link
        self._changes = changes
        self._ahead = ahead
        self._deadline = deadline
        self._chats: Batcher[str, None] = Batcher(self._delete)
        self._most_deleted = -1
        """By one call; all of them, unless Directus was found to refuse so many."""

    async def delete(self, chat: Deleted) -> None:
        """Removes chat and messages."""
        await in_time(self._deadline, self._chats(chat_key(chat.user, chat.chat_id)))

    async def _delete(self, keys: Sequence[str]) -> Sequence[None]:
        self._changes.note_deletion(keys)
        self._ahead.forget(keys)
        names, chosen = self._link.names, {"_in": list(dict.fromkeys(keys))}
        # The messages first: where the relation was made without its cascade, a chat with messages could not go.
        await self._all(names.messages, {"chat_id": chosen})
        await self._all(names.chats, {"id": chosen})
        return [None] * len(keys)

    async def erase(self, user: UserHash) -> None:
        """Removes every row of this person, those too in which a hand has changed the owner."""
        self._changes.note_deletion((), user)
        self._ahead.forget((), user)
        names = self._link.names
        for name in (names.messages, names.chats, names.devices):
            await self._all(name, {"_or": [{"hashed_user_id": {"_eq": user}}, {"id": {"_starts_with": f"{user}_"}}]})

    async def _all(self, name: str, condition: Mapping[str, Any]) -> None:
        while True:
            most = self._most_deleted
            try:
                await self._link.call("DELETE", f"/items/{name}", {"query": {"filter": condition, "limit": most}})
            except DirectusFailed as error:
                raise Unavailable(PART, f"Directus fails at deleting ({error.code}): look at its log") from None
            except DirectusRefused as error:
                if error.code != "INVALID_PAYLOAD" or most == 1:
                    raise Unstorable(f"Directus does not let rows of {name} be deleted ({error.code})") from None
                self._most_deleted = self._link.most_rows if most == -1 else most // 2  # `MAX_BATCH_MUTATION`
                continue
            if (most == -1 and not self._link.limited) or not await self._link.search(
                name, filter=condition, fields=["id"], limit=1
            ):
                return

    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        """Removes a device; nothing if it is not there."""
        await in_time(self._deadline, self._all(self._link.names.devices, {"id": {"_eq": device_key(user, device)}}))
