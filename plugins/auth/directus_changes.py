"""Sessions that end in Directus, as its WebSocket reports changes of users."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing

import structlog

from plugins.auth.directus_people import ACTIVE, People
from plugins.auth.directus_sessions import OpenSessions
from plugins.auth.directus_tokens import Token
from plugins.auth.directus_vouchers import Vouchers
from plugins.directus.client import DirectusClient
from plugins.directus.subscriptions import Heard, Wanted, follow
from sidecar import Ended, Unauthenticated, Unavailable

log = structlog.get_logger("plugins.auth.directus")

_LOOKS = 12
_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
"""Between two tries to hear Directus."""
# Deletions last: what is reported while a later subscription is being made is lost, and no look afterwards would find it.
_WANTED = (Wanted("directus_users", "update", ("id", "status", "role")), Wanted("directus_users", "delete"))


class Changes:
    """Forgets what was known of whoever is changed, and reports whose sessions are over by that."""

    def __init__(
        self,
        client: DirectusClient,
        people: People,
        vouchers: Vouchers,
        sessions: OpenSessions,
        still: Callable[[str, Token], Awaitable[None]],
    ) -> None:
        """`still` raises `Unauthenticated` where the session of this person and token is over, as Directus says now."""
        self._client = client
        self._people = people
        self._vouchers = vouchers
        self._open = sessions
        self._still = still
        self.heard = False
        """Whether Directus reports changes at the moment."""
        self.unheard_because = "not connected yet"

    async def ended(self) -> AsyncGenerator[Ended, None]:
        """Runs for good; after a gap everybody who is connected here is looked at."""
        reports: asyncio.Queue[Ended | Exception] = asyncio.Queue()
        listening = asyncio.create_task(self._listen(reports))
        try:
            while True:
                report = await reports.get()
                if isinstance(report, Exception):
                    raise report
                yield report
        finally:
            self.heard = False
            await _end(listening)

    async def _listen(self, reports: asyncio.Queue[Ended | Exception]) -> None:
        """Runs for good, connecting again whenever the connection ends."""
        pause = _PAUSE
        looks: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    async with aclosing(follow(self._client, _WANTED)) as stream:
                        async for heard in stream:
                            pause = _PAUSE
                            if users := self._take(heard, reports):
                                # Beside the stream: what Directus reports next does not wait for what it is asked.
                                look = asyncio.create_task(self._look_at(users, reports))
                                looks.add(look)
                                look.add_done_callback(looks.discard)
                    reason = "it ended"
                except Unavailable as error:
                    reason = error.reason
                if self.heard or self.unheard_because != reason:
                    log.warning("directus_not_heard", reason=reason, retry_after=pause)
                self.heard, self.unheard_because = False, reason
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
                pause = min(pause * 2, _LONGEST_PAUSE)
        except Exception as error:  # noqa: BLE001  # whoever reads the reports is told, and begins anew
            reports.put_nowait(error)
        finally:
            for look in list(looks):
                await _end(look)

    def _take(self, heard: Heard | None, reports: asyncio.Queue[Ended | Exception]) -> Collection[str]:
        """Reports what follows from this alone. Returns whom to look at: who may have been changed otherwise, by a new password or in a gap."""
        self._vouchers.drop_static()
        if heard is None:
            self._people.drop()
            self.heard = True
            return self._open.users()
        if heard.action == "delete":
            self._people.drop(heard.keys)
            for user_id in heard.keys:
                reports.put_nowait(Ended(user_id, erased=True))
            return ()
        rows = [row for row in heard.rows if isinstance(row.get("id"), str)]
        self._people.drop([row["id"] for row in rows])
        for row in rows:
            if row.get("status") != ACTIVE:
                reports.put_nowait(Ended(row["id"]))
        mine = set(self._open.users())
        return [row["id"] for row in rows if row.get("status") == ACTIVE and row["id"] in mine]

    async def _look_at(self, user_ids: Collection[str], reports: asyncio.Queue[Ended | Exception]) -> None:
        """Reports the sessions of these that are over by now."""

        async def look(user_id: str, token: Token) -> None:
            # A Directus that is heard again may still be spared by its own calls; after a minute the core looks by itself.
            for _ in range(_LOOKS):
                try:
                    await self._still(user_id, token)
                    return
                except Unauthenticated:
                    self._open.ended(user_id, token)
                    reports.put_nowait(Ended(user_id, token.session_id))
                    return
                except Unavailable as error:
                    await asyncio.sleep(min(error.retry_after or 1.0, _LONGEST_PAUSE))

        await asyncio.gather(*(look(user_id, token) for user_id in user_ids for token in self._open.tokens(user_id)))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
