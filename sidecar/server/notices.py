"""`POST /v1/hooks/{slot}`: a notice for the plugin of a slot, such as a signed word from a Flow of Directus (threats T42)."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time

import orjson
import structlog
from aiohttp import web

from sidecar.errors import Refused, Unauthenticated, Unavailable
from sidecar.server.context import Context
from sidecar.server.reports import hear_elsewhere, hear_ended
from sidecar.slots.authenticator import Ended
from sidecar.slots.store import Elsewhere

_REMEMBERED_SECONDS = 900.0
"""For longer than a plugin takes a notice for a fresh one."""
_ONCE = "notice:"
_READ_SECONDS = 10.0
"""Within which the body has to be here."""
_SAID_EVERY = 10.0
"""Seconds between two log lines about refused notices, which anybody can send."""

log = structlog.get_logger("sidecar.server")


class Hooks:
    """The route. What a plugin makes of a notice is done once, on one process, whoever sends it again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._refused = 0
        self._said = float("-inf")

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/hooks/{slot}", self.notice)]

    async def notice(self, request: web.Request) -> web.Response:
        """204 when it was taken in, 401 for a signature that does not fit, is old or was seen before, 400 for what says nothing."""
        slot = request.match_info["slot"]
        if not self._context.plugins.takes_notices(slot):
            return _answer(404, "no plugin of that slot takes notices")
        try:
            async with asyncio.timeout(_READ_SECONDS):
                body = await request.read()
            headers = {name.lower(): value for name, value in request.headers.items()}
            news = await self._context.plugins.notice(slot, headers, body)
            await self._once(slot, headers, body)
        except TimeoutError:
            return _answer(408, "the notice did not arrive in time")
        except web.HTTPRequestEntityTooLarge:
            return _answer(413, "a notice has at most 64 KiB: send the keys in several")
        except Unauthenticated as error:
            self._note_refused(slot)
            return _answer(401, str(error))
        except Refused as error:
            return _answer(400, error.reason)
        except Unavailable as error:
            return _answer(503, f"{error.part} is unavailable; send it again")
        for each in news:
            if isinstance(each, Elsewhere):
                await hear_elsewhere(self._context, each)
            elif isinstance(each, Ended):
                hear_ended(self._context, each)
        return web.Response(status=204)

    def _note_refused(self, slot: str) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._said >= _SAID_EVERY:
            log.warning("notice_refused", part=slot, repeated=self._refused)
            self._said, self._refused = now, 0

    async def _once(self, slot: str, headers: dict[str, str], body: bytes) -> None:
        """Raises `Unauthenticated` for a notice that any process has seen before.

        Which one it is, says its plugin: it knows what is signed. Of everything else who sends it again may make something new.
        """
        identity = await self._context.plugins.notice_id(slot, headers, body) or hashlib.sha256(body).hexdigest()
        name = f"{_ONCE}{slot}:{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}"
        lease = await self._context.parts.cache.leases.take(name, secrets.token_hex(8), _REMEMBERED_SECONDS)
        if lease is None:
            raise Unauthenticated("this notice was seen before")


def _answer(status: int, message: str) -> web.Response:
    return web.Response(status=status, body=orjson.dumps({"error": message}), content_type="application/json")
