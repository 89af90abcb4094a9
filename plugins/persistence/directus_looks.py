"""What others have changed in rows, read by pages in the order of (changed_at, id). Directus itself writes who was last, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from plugins.persistence.directus_link import Link
from plugins.persistence.directus_rows import read_time, written

OVERLAP = timedelta(seconds=10)
"""Read again before the time since which changes may be unheard: clocks differ, and transactions end late."""
_PAGE = 200


class Looks:
    """Looks that follow each other tell of a change once."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._told: dict[tuple[str, str], datetime] = {}
        """When what was told of was changed, by collection and key."""

    def now(self) -> datetime:
        """By Directus' clock, for what is read is compared with its times."""
        return datetime.now(UTC) - timedelta(seconds=self._link.client.clock_ahead)

    async def since(self, name: str, since: datetime) -> list[str]:
        """The keys of rows that others have changed since then, or a little earlier, but for what was told before."""
        start = since - OVERLAP
        keys: dict[str, None] = {}
        for key, changed in (await self._read(name, start)).items():
            if self._told.get((name, key)) != changed:
                keys[key] = None
                self._told.pop((name, key), None)
                self._told[name, key] = changed
        for place, changed in list(self._told.items()):
            if place[0] == name and changed < start:
                del self._told[place]
        return list(keys)

    async def _read(self, name: str, start: datetime) -> dict[str, datetime]:
        foreign = {"_or": [{"changed_by": {"_neq": self._link.user}}, {"changed_by": {"_null": True}}]}
        found: dict[str, datetime] = {}
        at, offset, most = written(start), 0, min(_PAGE, self._link.most_read)
        while True:
            page = await self._link.search(
                name,
                filter={"_and": [{"changed_at": {"_gte": at}}, foreign]},
                fields=["id", "changed_at"],
                sort=["changed_at", "id"],
                limit=most,
                offset=offset,
            )
            for row in page:
                found[str(row.get("id"))] = read_time(row.get("changed_at")) or start
            if len(page) < most:
                return found
            last = written(read_time(page[-1].get("changed_at")))
            offset = (
                offset + most
                if last == at
                else sum(row.get("changed_at") == page[-1].get("changed_at") for row in page)
            )
            at = last
