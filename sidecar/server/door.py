"""`GET /ws`: the checks before the upgrade, then the socket's whole life."""

from __future__ import annotations

import structlog
from aiohttp import web

from sidecar.connections import Connection
from sidecar.errors import Unavailable
from sidecar.ids import UserHash
from sidecar.metrics import close_label
from sidecar.server.context import Context
from sidecar.server.handshake import Refusal
from sidecar.server.listening import incoming_of
from sidecar.server.opening import Closed, Opening
from sidecar.server.peers import client_address, limiter_key
from sidecar.server.socket import Socket
from sidecar.server.wire import WebSocketWire
from sidecar.slots.cache import Lease

log = structlog.get_logger("sidecar.server")


def refused(context: Context, refusal: Refusal) -> web.Response:
    """The answer to a request that does not come in; the connection ends with it (threats T26)."""
    context.parts.metrics.refused.labels(refusal.reason).inc()
    headers = {"Connection": "close"}
    if refusal.status == 503:
        headers["Retry-After"] = "5"
    response = web.Response(status=refusal.status, text=refusal.message + "\n", headers=headers)
    response.force_close()
    return response


def peer_of(context: Context, request: web.Request) -> tuple[str, str]:
    """The client's address, and what limits count it by."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    own = peer[0] if isinstance(peer, tuple) else ""
    address = client_address(own, request.headers.getall("X-Forwarded-For", []), context.config.server.trusted_proxies)
    return str(address) if address is not None else own, limiter_key(address)


def look(context: Context, request: web.Request) -> Refusal | None:
    """What is wrong with the request, if anything: Host, Origin, query, body, method of the upgrade."""
    door = context.door
    cookie = context.config.server.cookie
    return (
        door.check_host(request.headers.getall("Host", []))
        or door.check_query(request.query)
        or door.check_origin(
            request.headers.getall("Origin", []), request.host, cookie is not None and cookie in request.cookies
        )
        or (Refusal(400, "body", "an upgrade has no body") if _has_body(request) else None)
        or (
            Refusal(426, "upgrade", "this is a WebSocket (RFC 6455): connect with ws:// or wss://")
            if request.headers.get("Upgrade", "").strip().lower() != "websocket"
            else None
        )
    )


def _has_body(request: web.Request) -> bool:
    # By its headers: what aiohttp calls the body of an upgrade are the frames (RFC 9112 §6).
    return "Transfer-Encoding" in request.headers or request.headers.get("Content-Length", "0").strip() != "0"


async def serve_socket(context: Context, request: web.Request) -> web.StreamResponse:
    """Accepts, opens and serves one socket.

    One coroutine from the request to the socket's end: every further one below would be kept for each idle socket.
    """
    refusal = look(context, request)
    if refusal is None and context.stopping:
        refusal = Refusal(503, "stopping", "the server is stopping; try again")
    if refusal is not None:
        return refused(context, refusal)
    peer, key = peer_of(context, request)
    if context.addresses[key] >= context.config.limits.connections_per_address:
        return refused(context, Refusal(429, "address", "too many connections from this address"))
    context.addresses[key] += 1
    try:
        ws = web.WebSocketResponse(
            compress=False, autoping=False, max_msg_size=context.config.limits.max_frame, decode_text=False, timeout=5.0
        )
        try:
            await ws.prepare(request)
        except (web.HTTPException, ConnectionError):
            return refused(context, Refusal(400, "handshake", "this is no WebSocket handshake (RFC 6455)"))
        incoming = incoming_of(request)
        if incoming is None:
            return ws  # gone already
        incoming.upgraded()
        wire = WebSocketWire(ws, incoming, context.keep)
        context.opening.add(wire)
        try:
            connection, lease = await Opening(context, ws, wire, request, peer).ready()
        except Closed:
            await wire.end()
            return ws
        finally:
            context.opening.discard(wire)
        context.parts.metrics.opened.inc()
        context.parts.metrics.connections.inc()
        try:
            await Socket(context, connection, ws, request, peer).serve()
        except ConnectionError:
            pass  # the reader is gone, which is how most sockets end
        finally:
            last = _forget(context, connection, wire.code or ws.close_code)
            await _leave(context, connection.user, lease, last=last)
        await wire.end()
        return ws
    finally:
        context.addresses[key] -= 1
        if context.addresses[key] <= 0:
            del context.addresses[key]


def _forget(context: Context, connection: Connection, code: int | None) -> bool:
    """The connection is over; True if it was this process' last of the person."""
    metrics = context.parts.metrics
    connection.lost()
    metrics.connections.dec()
    metrics.closed.labels(close_label(code)).inc()
    context.sessions.pop(connection.id, None)
    last = context.registry.remove(connection)
    if last:
        # In the same step: a connection that joins after it makes a feed of its own, and would lose that one (S54).
        context.feeds.leave(connection.user)
    return last


async def _leave(context: Context, user: UserHash, lease: Lease, *, last: bool) -> None:
    try:
        await context.parts.cache.leases.leave(lease)
        if last:
            # A person who leaves the last device here may go on at another: what is due later is due now.
            await context.parts.cache.outbox.hurry(user)
            context.worker.wake()
    except Unavailable:
        pass  # leases end by themselves, and drafts become due by themselves
