"""For operators: `/livez`, `/readyz`, `/metrics`, `/version`, `/asyncapi.json` (protocol *HTTP beside it*)."""

from __future__ import annotations

import asyncio
import html
import platform
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sidecar.errors import SidecarError
from sidecar.frames import asyncapi
from sidecar.ids import UserHash
from sidecar.server.context import Context
from sidecar.server.door import refused
from sidecar.server.handshake import Refusal, split_host
from sidecar.server.peers import is_forwarded, is_loopback
from sidecar.server.siblings import Siblings
from sidecar.slots.cache import Cache
from sidecar.version import __version__

_ASKED_AGAIN = 1.0
"""Seconds for which an answer is good: whoever asks more often asks no part (threats T51)."""
_PATIENCE = 2.0
_BLOCKED = 5.0
_SLOTS = ("auth", "encryption", "cache", "persistence")
_NOBODY = UserHash("0" * 64)
_NOBODY_ELSE = tuple(UserHash(f"{number:064x}") for number in range(1, 17))
"""Whose shards lie on every node of a cluster, as good as certainly."""
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>directus-sync-sidecar</title>
<style>body{{font:16px/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color:#1c1b22}}
code{{background:#f0f0f4;padding:.1em .35em;border-radius:4px}}a{{color:#4b3fd1}}li{{margin:.3rem 0}}</style>
<h1>directus-sync-sidecar {version}</h1>
<p>It runs. Clients connect to <code>{url}</code>; in the embedded configuration the token <code>dev:alice</code> signs in as alice.</p>
<ul><li><a href="/readyz">/readyz</a>: each part and its state</li>
<li><a href="/livez">/livez</a>, <a href="/version">/version</a>, <a href="/metrics">/metrics</a></li>
<li><a href="/asyncapi.json">/asyncapi.json</a>: the wire protocol (AsyncAPI 3)</li></ul>
<p>To see two devices at work: <code>python examples/two_devices.py</code></p></html>
"""


class Health:
    """The routes, and the last answer of the parts."""

    def __init__(self, context: Context, siblings: Siblings | None = None) -> None:
        """`siblings`: the other workers of this host, where there are any."""
        self._context = context
        self._siblings = siblings
        self._who = {"worker": siblings.number} if siblings is not None else {}
        self._asked = float("-inf")
        self._answer: tuple[bool, dict[str, Any]] = (False, {})
        self._asking = asyncio.Lock()
        self._asyncapi = orjson.dumps(asyncapi.document())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.page),
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/version", self.version),
            web.get("/asyncapi.json", self.asyncapi),
        ]

    async def page(self, request: web.Request) -> web.Response:
        refusal = self._context.door.check_host(request.headers.getall("Host", []))
        if refusal is not None:
            return refused(self._context, refusal)
        scheme = "wss" if request.secure else "ws"
        text = _PAGE.format(version=__version__, url=html.escape(f"{scheme}://{request.host}/ws"))
        return web.Response(text=text, content_type="text/html", headers=_PAGE_HEADERS)

    async def livez(self, _: web.Request) -> web.Response:
        """200 while the loop answers; a loop that was blocked for long says so when it comes back."""
        blocked = self._context.watchdog.loop_blocked_for()
        status = "ok" if blocked < _BLOCKED else "blocked"
        body = {"status": status, "loop_blocked_seconds": round(blocked, 3), **self._who}
        return _json(body, 200 if blocked < _BLOCKED else 503)

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when every part can serve, else 503; the body names each part and its state."""
        async with self._asking:
            if time.monotonic() - self._asked >= _ASKED_AGAIN:
                self._answer = await self._ask()
                self._asked = time.monotonic()
        ready, parts = self._answer
        stopping = self._context.stopping
        status = "stopping" if stopping else "ready" if ready else "not ready"
        return _json({"status": status, "parts": parts, **self._who}, 200 if ready and not stopping else 503)

    async def _ask(self) -> tuple[bool, dict[str, Any]]:
        slots = self._context.parts
        states, *answers = await asyncio.gather(
            self._context.plugins.state(),
            _cache_answers(slots.cache),
            _answers(slots.store.known(_NOBODY, [])),
        )
        parts: dict[str, Any] = {}
        ready = True
        for name, state in states.items():
            trouble = _trouble(state)
            if trouble is not None:
                # Without one of its slots the sidecar cannot serve; a plugin beside them fails alone.
                ready = ready and name not in _SLOTS
                parts[name] = {"state": "failed", "reason": trouble}
            else:
                parts[name] = {"state": "ok", **({"detail": state} if state not in (None, "ok") else {})}
        for name, trouble in zip(("cache", "persistence"), answers, strict=True):
            if trouble is not None:
                ready = False
                parts[name] = {"state": "unavailable", "reason": trouble}
        return ready, parts

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text. On the sockets' own port for loopback callers only, unless `server.metrics_port` is set."""
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        own = peer[0] if isinstance(peer, tuple) else ""
        separate = self._context.config.server.metrics_port is not None
        name, _ = split_host(request.headers.get("Host", ""))
        # By a name of this machine too: a page whose name was bound to 127.0.0.1 sends its own (threats T4).
        if separate or not is_loopback(own) or not is_loopback(name or "") or is_forwarded(request.headers):
            return refused(
                self._context, Refusal(403, "metrics", "set server.metrics_port to read metrics from elsewhere")
            )
        return await self.metrics_response()

    async def metrics_response(self) -> web.Response:
        if self._siblings is not None:
            body = await self._siblings.metrics()
        else:
            body = generate_latest(self._context.parts.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def version(self, _: web.Request) -> web.Response:
        return _json({"name": "directus-sync-sidecar", "version": __version__, "python": platform.python_version()})

    async def asyncapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._asyncapi, content_type="application/json")


def _trouble(state: object) -> str | None:
    """What a plugin's `state()` says is wrong: `{"ok": False, "reason": …}`, which is also said of one that did not answer."""
    if isinstance(state, SidecarError):
        return type(state).__name__
    if isinstance(state, Mapping) and state.get("ok") is False:
        return str(state.get("reason", "it says so"))
    return None


async def _answers(question: Awaitable[object]) -> str | None:
    """None when the part answers in time, else the kind of its trouble."""
    try:
        async with asyncio.timeout(_PATIENCE):
            await question
    except Exception as error:  # noqa: BLE001  # whatever a part raises, the others are still told of
        return type(error).__name__
    return None


async def _cache_answers(cache: Cache) -> str | None:
    """As above. Of a shared cache a part may be away, which its own state tells of: others are asked for before it is called away."""
    trouble = await _answers(cache.chats.events(_NOBODY, None, 0))
    if trouble is None or not cache.shared:
        return trouble
    others = await asyncio.gather(*(_answers(cache.chats.events(each, None, 0)) for each in _NOBODY_ELSE))
    return None if None in others else trouble


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS, default=str),
        status=status,
        content_type="application/json",
    )
