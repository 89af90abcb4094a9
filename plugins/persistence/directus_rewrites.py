"""Rows that are written as they are: devices, and new bytes for the same revisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugins.directus.refusals import DirectusRefused
from plugins.persistence.directus_link import Link, in_time
from plugins.persistence.directus_rows import chat_key, device_row, message_key, sealed
from sidecar import Batcher, ChatInDB, DeviceInDB, MessageInDB, Unstorable

_TRIES = 4
"""Of a write that lost a race against somebody else's."""
_ID = {"fields": "id"}


class Devices:
    """Devices of everybody who signs in at the same moment are written together."""

    def __init__(self, link: Link, deadline: float) -> None:
        """`deadline`: in seconds for one write, the wait for those before it included."""
        self._link = link
        self._deadline = deadline
        self._together: Batcher[DeviceInDB, None] = Batcher(self._put_devices)

    async def put(self, device: DeviceInDB) -> None:
        """Makes or replaces a device."""
        await in_time(self._deadline, self._together(device))

    async def _put_devices(self, devices: Sequence[DeviceInDB]) -> Sequence[None]:
        name = self._link.names.devices
        rows = {str(row["id"]): row for row in map(device_row, devices)}
        for _ in range(_TRIES):
            found = await self._link.among(name, rows, fields=["id"])
            there = {str(row.get("id")) for row in found}
            try:
                if new := [row for key, row in rows.items() if key not in there]:
                    await self._link.call("POST", f"/items/{name}", new, query=_ID)
                await patch(self._link, name, [row for key, row in rows.items() if key in there])
            except DirectusRefused as error:
                if error.code not in ("RECORD_NOT_UNIQUE", "FORBIDDEN"):
                    raise Unstorable(f"a device cannot be written: {error}") from None
                continue  # made or dropped by others meanwhile
            return [None] * len(devices)
        raise Unstorable("a device cannot be written: Directus forbids it: run sidecar doctor")


async def reseal(link: Link, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
    """New bytes for the same revisions. A null never replaces a value, and no row is made."""
    for message in messages:
        if (message.hashed_user_id, message.chat_id) != (chat.hashed_user_id, chat.id):
            raise Unstorable(f"message {message.id} does not belong to chat {chat.id}")
    names, key = link.names, chat_key(chat.hashed_user_id, chat.id)
    revision = ("version", "draft_op", "title_version", "title_op")
    rows = await link.search(
        names.chats, filter={"id": {"_eq": key}}, fields=["id", "title", "draft", *revision], limit=1
    )
    if not rows or any(rows[0].get(name) != getattr(chat, name) for name in revision):
        changes = {}
    else:
        new = {"title": sealed(chat.title), "draft": sealed(chat.draft)}
        changes = {name: value for name, value in new.items() if value is not None and rows[0].get(name) is not None}
    contents = {message_key(each.hashed_user_id, each.chat_id, each.id): each.content for each in messages}
    there = await link.every(names.messages, filter={"id": {"_in": list(contents)}}, fields=["id"]) if contents else []
    if changes:
        await patch(link, names.chats, [{"id": key, **changes}])
    asked = [each for row in there if (each := str(row["id"])) in contents]
    await patch(link, names.messages, [{"id": each, "content": sealed(contents[each])} for each in asked])


async def patch(link: Link, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Changes rows of these ids, as many by one call as Directus takes."""
    for at in range(0, len(rows), link.most_rows):
        await link.call("PATCH", f"/items/{name}", rows[at : at + link.most_rows], query=_ID)
