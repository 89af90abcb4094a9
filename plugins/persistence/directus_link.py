"""The open way to one Directus, looked at before it is used: whether it is one, its version, its schema, what it allows."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import structlog

from plugins.directus.blame import blamed, no_directus
from plugins.directus.client import AnswerTooLarge, DirectusClient, NoDirectus
from plugins.directus.options import DirectusOptions
from plugins.directus.refusals import DirectusFailed, DirectusRefused
from plugins.directus.schema import ACTIONS, Names, collections
from plugins.persistence.directus_salvage import salvaged
from sidecar import StartRefused, Unavailable

T = TypeVar("T")

PART = "persistence"
MOST_ROWS = 100
"""In one write: ten times as many rows a second as one by one, and hardly more beyond."""
_MOST_READ = 250
_OLDEST = 11
_AGAIN_SECONDS = 1.0
_LOOK_SECONDS = 30.0

log = structlog.get_logger("plugins.persistence.directus")


class Link:
    """An async context manager. Entering it looks at Directus: `StartRefused` when it answers and cannot be used.

    One that does not answer is waited for: until it was looked at, every call says `Unavailable`, since a field that is missing
    would swallow what is written without a word.
    """

    def __init__(self, options: DirectusOptions) -> None:
        self.names: Names = options.collections
        self.client = DirectusClient(options, PART)
        self._times = {
            each.name: frozenset(field.name for field in each.fields if field.type == "timestamp")
            for each in collections(self.names)
        }
        self.user = ""
        """The service user's id."""
        self.most_rows = MOST_ROWS
        """In one write; less where Directus was found to refuse so many."""
        self.most_read = _MOST_READ
        """In one read."""
        self.limited = False
        """Whether a read, or a deletion by query, may stop in the middle (`QUERY_LIMIT_MAX`)."""
        self.websockets = True
        """Whether Directus has any."""
        self.graphql: str | None = None
        """The path of its GraphQL WebSocket; None where there is none that can be used."""
        self.look_seconds = _LOOK_SECONDS
        """Between two looks at what can be used."""
        self._barred: str | None = "Directus was not reached yet"
        self._looking: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        try:
            try:
                await self._look()
            except (NoDirectus, AnswerTooLarge) as error:
                raise StartRefused(PART, error.reason) from None
            except Unavailable as error:
                self._barred = error.reason
                log.warning("directus_waited_for", reason=error.reason)
            self._looking = asyncio.create_task(self._keep_looking())
        except BaseException:
            await self.client.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self.client.__aexit__()

    @property
    def fault(self) -> str | None:
        """Why nothing can be read or written; None when it can."""
        return self._barred or self.client.fault

    async def prove(self) -> None:
        """Raises `Unavailable` while Directus cannot be used. Asks it only where the last call did not go through."""
        if self.fault is not None:
            await self.search(self.names.devices, fields=["id"], limit=1)

    async def ready(self) -> None:
        """Returns when Directus was looked at and can be used."""
        await self._looked.wait()

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def call(self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None) -> Any:
        """As the client's. A refused token is nobody's row's fault: `Unavailable`."""
        if self._barred is not None:
            raise Unavailable(PART, self._barred, retry_after=_AGAIN_SECONDS)
        try:
            return await self.client.call(method, path, body, query=query)
        except DirectusRefused as error:
            if error.credentials:
                raise Unavailable(
                    PART,
                    "Directus refuses the service user's token; put the present one where the configuration has it",
                ) from None
            raise

    async def search(self, collection: str, **query: Any) -> Sequence[Mapping[str, Any]]:
        """Rows by `SEARCH`, which no cache of Directus answers. `Unavailable` also where it refuses: that is no row's doing."""
        try:
            rows = await self.call("SEARCH", f"/items/{collection}", {"query": query})
        except DirectusFailed as error:

            async def read(query: Mapping[str, Any]) -> object:
                return await self.call("SEARCH", f"/items/{collection}", {"query": query})

            rows = await salvaged(read, self._times.get(collection, frozenset()), query)
            if rows is None:
                raise Unavailable(PART, f"Directus fails at reading ({error.code}); look at its log") from None
        except DirectusRefused as error:
            raise Unavailable(
                PART, f"Directus does not let {collection} be read ({error.code}); run `sidecar doctor`"
            ) from None
        # Something else than rows is no empty list: whoever is told that there is nothing acts on it.
        keyed = "id" in query.get("fields", ())
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and (not keyed or isinstance(row.get("id"), str)) for row in rows
        ):
            raise Unavailable(
                PART, "Directus answers a read with something else than rows; look at persistence.options.url"
            )
        return rows

    async def every(self, collection: str, **query: Any) -> Sequence[Mapping[str, Any]]:
        """All rows that the query finds, however many Directus gives at once."""
        if not self.limited:
            return await self.search(collection, **query, limit=-1)
        rows: list[Mapping[str, Any]] = []
        while True:
            page = await self.search(collection, **query, limit=self.most_read, offset=len(rows))
            rows.extend(page)
            if len(page) < self.most_read:
                return rows

    async def among(
        self, collection: str, keys: Iterable[str], *, by: str = "id", **query: Any
    ) -> Sequence[Mapping[str, Any]]:
        """The row of each of these keys (or, grouped, one for each), by as many calls as Directus gives rows at once."""
        wanted = list(dict.fromkeys(keys))
        rows: list[Mapping[str, Any]] = []
        for at in range(0, len(wanted), self.most_read):
            part = wanted[at : at + self.most_read]
            rows += await self.search(collection, filter={by: {"_in": part}}, limit=len(part), **query)
        return rows

    async def count(self, collection: str, condition: Mapping[str, Any]) -> int:
        """How many rows meet the condition."""
        rows = await self.search(collection, filter=condition, aggregate={"count": "*"})
        return _count(rows[0]) if rows else 0

    # -- the first look ------------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        """Until it can be used, and now and then afterwards: a field that is taken away would swallow what is written from then on."""
        while True:
            await asyncio.sleep(_AGAIN_SECONDS if self._barred is not None else self.look_seconds)
            try:
                await self._look()
            except Unavailable as error:
                if self._barred is not None:
                    self._barred = error.reason  # otherwise the calls say it themselves
            except StartRefused as error:
                # It came up behind us, or was changed under us. Whoever mends it need not restart the sidecar too.
                reason = str(error).partition(": ")[2]
                if reason != self._barred:
                    log.error("directus_refuses", reason=reason)
                self._barred = reason

    async def _look(self) -> None:
        """Raises `StartRefused` naming what to mend; `Unavailable` where it does not answer."""
        if (lacking := self.client.token.lacking(PART)) is not None:
            raise StartRefused(PART, lacking)
        try:
            await self._look_at_server()
            await self._look_at_rights()
            for collection in collections(self.names):
                await self._look_at_fields(
                    collection.name, [field.name for field in collection.fields if field.type != "alias"]
                )
        except DirectusRefused as error:
            raise blamed(error, PART, self.client.url) from None
        self._barred = None
        self._looked.set()

    async def _look_at_server(self) -> None:
        told = await self.client.call("GET", "/server/info")
        if not isinstance(told, dict):
            raise no_directus(PART, self.client.url, "GET /server/info says nothing")
        version = str(told.get("version", ""))
        number = re.match(r"(\d+)\.", version)
        if number is not None and int(number[1]) < _OLDEST:
            raise StartRefused(PART, f"Directus {version} is too old; upgrade it to {_OLDEST} or newer")
        limits = told.get("queryLimit")
        most = limits.get("max") if isinstance(limits, dict) else None
        self.limited = isinstance(most, int) and most > 0
        self.most_read = min(_MOST_READ, most) if isinstance(most, int) and most > 0 else _MOST_READ
        sockets = told.get("websocket")
        self.websockets = bool(sockets)
        self.graphql = _graphql_of(sockets)
        me = await self.client.call("GET", "/users/me", query={"fields": "id"})
        if not isinstance(me, dict) or not isinstance(me.get("id"), str):
            raise StartRefused(
                PART,
                "the service user's token is no user's; put the static token of a user into persistence.options.token or"
                " token_file, or run `sidecar bootstrap`",
            )
        self.user = me["id"]

    async def _look_at_rights(self) -> None:
        rights = await self.client.call("GET", "/permissions/me")
        rights = rights if isinstance(rights, dict) else {}
        for name in (self.names.chats, self.names.messages, self.names.devices):
            allowed = rights.get(name)
            for action in ACTIONS:
                right = allowed.get(action) if isinstance(allowed, dict) else None
                if (
                    not isinstance(right, dict)
                    or right.get("access") != "full"
                    or "*" not in (right.get("fields") or ())
                ):
                    raise StartRefused(
                        PART, f"the service user may not {action} every field of {name}; run `sidecar bootstrap`"
                    )

    async def _look_at_fields(self, collection: str, fields: Sequence[str]) -> None:
        async def lacks(asked: Sequence[str]) -> bool:
            try:
                query = {"query": {"fields": list(asked), "limit": 1}}
                await self.client.call("SEARCH", f"/items/{collection}", query)
            except DirectusRefused as error:
                if error.credentials or isinstance(error, DirectusFailed):
                    raise
                return True
            return False

        if not await lacks(fields):
            return
        if await lacks(["id"]):
            raise StartRefused(PART, f"Directus has no collection {collection}; run `sidecar bootstrap`")
        missing = [field for field in fields if await lacks([field])]
        raise StartRefused(
            PART,
            f"{collection} lacks {', '.join(missing) or 'some field'}; run `sidecar bootstrap`, which adds what is missing",
        )


async def in_time(deadline: float, answer: Awaitable[T]) -> T:
    """The answer to a write, its wait included, within so many seconds: below a hook's own timeout, which would count as a try."""
    try:
        async with asyncio.timeout(deadline):
            return await answer
    except TimeoutError:
        raise Unavailable(PART, "Directus is too slow for what waits to be written") from None


def _graphql_of(sockets: object) -> str | None:
    graphql = sockets.get("graphql") if isinstance(sockets, dict) else None
    if not isinstance(graphql, dict) or graphql.get("authentication") == "strict":
        return None
    path = graphql.get("path")
    return path if isinstance(path, str) and path.startswith("/") else None


def _count(row: Mapping[str, Any]) -> int:
    with contextlib.suppress(TypeError, ValueError):
        count = int(row.get("count", ""))  # a string on some databases
        if count >= 0:
            return count
    raise Unavailable(PART, "Directus does not count as it should; look at its version")


def count_of(row: Mapping[str, Any]) -> int:
    """The number in a row of an aggregate."""
    return _count(row)
