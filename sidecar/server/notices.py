"""`POST /v1/hooks/{slot}`: a notice for the plugin of a slot, such as a signed word from a Flow of Directus (threats T42)."""

from __future__ import annotations

import hashlib
import secrets

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

log = structlog.get_logger("sidecar.server")


class Hooks:
    """The route. What a plugin makes of a notice is done once, on one process, whoever sends it again."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/hooks/{slot}", self.notice)]

    async def notice(self, request: web.Request) -> web.Response:
        """204 when it was taken in, 401 for a signature that does not fit, is old or was seen before, 400 for what says nothing."""
        slot = request.match_info["slot"]
        if not self._context.plugins.takes_notices(slot):
            return _answer(404, "no plugin of that slot takes notices")
        try:
            body = await request.read()
            headers = {name.lower(): value for name, value in request.headers.items()}
            news = await self._context.plugins.notice(slot, headers, body)
            await self._once(headers, body)
        except web.HTTPRequestEntityTooLarge:
            return _answer(413, "a notice has at most 64 KiB: send the keys in several")
        except Unauthenticated as error:
            log.warning("notice_refused", part=slot)
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

    async def _once(self, headers: dict[str, str], body: bytes) -> None:
        """Raises `Unauthenticated` for a notice that any process has seen before."""
        digest = hashlib.sha256(body)
        for name in sorted(headers):
            if name.startswith("x-"):
                digest.update(f"\n{name}:{headers[name]}".encode("utf-8", "surrogateescape"))
        name = f"{_ONCE}{digest.hexdigest()}"
        lease = await self._context.parts.cache.leases.take(name, secrets.token_hex(8), _REMEMBERED_SECONDS)
        if lease is None:
            raise Unauthenticated("this notice was seen before")


def _answer(status: int, message: str) -> web.Response:
    return web.Response(status=status, body=orjson.dumps({"error": message}), content_type="application/json")
