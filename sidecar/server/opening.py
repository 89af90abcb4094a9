"""From the upgrade to `ready`: hello, `auth` in time, the session, a place for the connection, its device (protocol *Opening*)."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Any

from aiohttp import WSMsgType, web

from sidecar.answers import encode, error_payload
from sidecar.connections import Connection
from sidecar.devices import Recognised, recognise
from sidecar.errors import Unauthenticated, Unavailable, WireError
from sidecar.frames.client import Auth, Empty
from sidecar.frames.errors import FrameError
from sidecar.frames.reading import read
from sidecar.ids import ConnectionId, UserHash, hash_user
from sidecar.metrics import close_label
from sidecar.outbox import PROCESSES
from sidecar.parts import Caller
from sidecar.records import rfc3339
from sidecar.server.context import Context, OpenSession
from sidecar.server.cut_off import turned_away
from sidecar.server.faults import wire_error
from sidecar.server.peers import is_forwarded
from sidecar.server.wire import WebSocketWire
from sidecar.slots.authenticator import Credential, Session
from sidecar.slots.cache import Lease
from sidecar.version import __version__

PROTOCOL = 1
LEASE_SECONDS = 90.0
"""A connection's place is free again so long after a process was killed (threats T23), or sooner, when it is known to be dead."""
RECHECK_SECONDS = 60.0
_FIRST_RECHECK = (0.1, 1.0)
"""Of that time, by chance: thousands who came at once after a restart are looked at one after the other from then on."""
_SIGN_IN_SECONDS = 10.0
_OPENING_SECONDS = 20.0
"""From the `auth` frame to `ready`, whatever hangs: authenticator, cache or store."""
_FRAMES_BEFORE_READY = 20


class Closed(Exception):  # not an error: the socket is closed, there is nothing left to do
    """The socket was closed before it was ready."""


def credential(request: web.Request, peer: str, token: str, *, from_cookie: bool) -> Credential:
    """What the client shows; `peer` is its address behind trusted proxies."""
    return Credential(
        token=token,
        from_cookie=from_cookie,
        peer=peer,
        host=request.host.lower(),
        forwarded=is_forwarded(request.headers),
        user_agent=request.headers.get("User-Agent", "")[:512],
    )


async def sign_in(context: Context, shown: Credential) -> Session:
    """The session of this credential. Raises `Unauthenticated`, `Unavailable`."""
    try:
        async with asyncio.timeout(_SIGN_IN_SECONDS):
            session = await context.parts.auth.sign_in(shown)
    except TimeoutError:
        raise Unavailable("auth", "it did not answer in time") from None
    # Checked here, where it enters: everybody without an id would be one person, and a naive time is nobody's.
    if not isinstance(session, Session) or not isinstance(session.user_id, str) or not session.user_id:
        raise TypeError("sign_in must return a Session with a user_id, a text that is not empty")
    if session.expires_at is not None and session.expires_at.tzinfo is None:
        raise TypeError("the expires_at of a Session must have a time zone")
    if session.expires_at is not None and session.expires_at <= context.parts.now():
        raise Unauthenticated("the session has expired")
    return session


class Opening:
    """One socket before `ready`. `Closed` ends it."""

    def __init__(
        self, context: Context, ws: web.WebSocketResponse, wire: WebSocketWire, request: web.Request, peer: str
    ) -> None:
        self._context = context
        self._ws = ws
        self._wire = wire
        self._request = request
        self._peer = peer
        self.answer_to: str | None = None
        """The id of the `auth` frame."""

    def _say(self, type_: str, payload: dict[str, Any], re: str | None = None) -> None:
        self._wire.write(encode(type_, payload, re))

    def _refuse(self, error: WireError, re: str | None) -> None:
        self._context.parts.metrics.errors.labels(error.code).inc()
        self._say("error", error_payload(error), re)
        if error.close is not None:
            self._close(error.close, error.message)

    def _close(self, code: int, reason: str) -> None:
        self._wire.close(code, reason)
        self._context.parts.metrics.closed.labels(close_label(code)).inc()
        raise Closed

    async def ready(self) -> tuple[Connection, Lease]:
        """The connection, once the client has signed in; `ready` has been said."""
        config = self._context.config
        self._say(
            "hello",
            {
                "protocol": {"min": PROTOCOL, "max": PROTOCOL},
                "server": {"name": "directus-sync-sidecar", "version": __version__},
                "authTimeoutMs": round(config.server.auth_timeout * 1000),
                "limits": {
                    "maxFrameBytes": config.limits.max_frame,
                    "maxDraftBytes": config.drafts.max_bytes,
                    "maxTitleLength": config.titles.max_length,
                    "framesPerSecond": config.limits.frames_per_second,
                },
            },
        )
        if self._context.cut_off:
            self._refuse(turned_away(), None)
        try:
            async with asyncio.timeout(config.server.auth_timeout):
                re, auth = await self._auth_frame()
        except TimeoutError:
            self._close(4408, "no auth frame in time")
        except (ConnectionError, RuntimeError):
            raise Closed from None  # gone, or closed by the server as it stops, while it was being heard
        self.answer_to = re
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                return await self._sign_in(re, auth)
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001  # every failure becomes a frame
            refusal = wire_error(error, "auth")
            if refusal.close is None:
                refusal.close = 1013  # not signed in, and not the client's fault: it comes back later
            self._refuse(refusal, re)
            raise Closed from None

    async def _auth_frame(self) -> tuple[str, Auth]:
        for _ in range(_FRAMES_BEFORE_READY):
            message = await self._ws.receive()
            if message.type is WSMsgType.BINARY:
                self._refuse(FrameError("bad_frame", "frames are text, not binary"), None)
                continue
            if message.type in (WSMsgType.PING, WSMsgType.PONG):
                if message.type is WSMsgType.PING:
                    await self._ws.pong(message.data)
                continue
            if message.type is not WSMsgType.TEXT:
                raise Closed
            try:
                frame = read(message.data, self._context.config.drafts.max_depth)
            except FrameError as error:
                self._refuse(error, error.re)
                continue
            if isinstance(frame.payload, Auth) and frame.id is not None:
                return frame.id, frame.payload
            if isinstance(frame.payload, Empty) and frame.type == "ping":
                self._say("pong", {"serverTime": rfc3339(self._context.parts.now())}, frame.id)
                continue
            self._refuse(WireError("not_ready", "send `auth` first"), frame.id)
        self._close(4429, "too many frames before auth")
        raise Closed

    async def _sign_in(self, re: str, auth: Auth) -> tuple[Connection, Lease]:
        context = self._context
        if auth.protocol != PROTOCOL:
            raise WireError("unsupported_protocol", f"this server speaks protocol {PROTOCOL}", close=4400)
        started = asyncio.get_running_loop().time()
        session = await self._session(auth)
        async with context.places:
            return await self._connect(re, auth, session, started)

    async def _connect(self, re: str, auth: Auth, session: Session, started: float) -> tuple[Connection, Lease]:
        context = self._context
        user = hash_user(session.user_id, context.config.pepper)
        connection_id = ConnectionId(secrets.token_hex(12))
        lease = await self._place(user, connection_id)
        try:
            if context.stopping:
                raise WireError("unavailable", "the server restarts; reconnect", retryable=True, close=1012)
            known = await recognise(
                context.parts, user, auth.device, auth.signals, self._request.headers.get("User-Agent", "")[:512]
            )
            position = await context.feeds.join(user)
            if context.ended_since(started, user, session):
                raise Unauthenticated("the session was ended")
            caller = Caller(user, known.device.id, connection_id, session.name)
            connection = Connection(caller, self._wire, context.config.limits.send_queue, position)
            now = asyncio.get_running_loop().time()
            connection.last_heard = now
            first_check = now + RECHECK_SECONDS * random.uniform(*_FIRST_RECHECK)  # noqa: S311  # no secret
            context.sessions[connection_id] = OpenSession(session, first_check)
            context.registry.add(connection)
            self._ready(re, connection, session, known)
        except BaseException:
            try:
                await context.parts.cache.leases.leave(lease)
            except Unavailable:
                pass  # the place ends by itself
            raise
        return connection, lease

    async def _session(self, auth: Auth) -> Session:
        config = self._context.config
        cookie = self._request.cookies.get(config.server.cookie) if config.server.cookie else None
        token = auth.token if auth.token is not None else cookie
        if token is None:
            raise Unauthenticated("no token was sent")
        return await sign_in(
            self._context, credential(self._request, self._peer, token, from_cookie=auth.token is None)
        )

    async def _place(self, user: UserHash, connection: ConnectionId) -> Lease:
        most = self._context.config.limits.connections_per_user
        leases, name, process = self._context.parts.cache.leases, f"connections:{user}", self._context.process
        lease = await leases.take(name, connection, LEASE_SECONDS, most, process)
        if lease is None and (ghosts := await self._ghosts(name)):
            lease = await leases.take(name, connection, LEASE_SECONDS, most + ghosts, process)
        if lease is None:
            raise WireError(
                "quota_exceeded",
                f"this person has {most} connections open, which is the limit; close one",
                details={"limit": most},
                close=1013,
            )
        return lease

    async def _ghosts(self, name: str) -> int:
        """How many places belong to connections of processes that died: their clients are those who come back now."""
        cache = self._context.parts.cache
        if not cache.shared:
            return 0
        places = await cache.leases.held(name)
        living = {holder.encode() for holder in await cache.leases.held(PROCESSES)}
        return sum(process != b"" and process not in living for process in places.values())

    def _ready(self, re: str, connection: Connection, session: Session, known: Recognised) -> None:
        device: dict[str, Any] = {"id": known.device.id, "name": known.device.name, "isNew": known.is_new}
        if known.secret is not None:
            device["secret"] = known.secret
        expires = session.expires_at
        self._say(
            "ready",
            {
                "hashedUserId": connection.user,
                "connectionId": connection.id,
                "device": device,
                "sessionExpiresAt": rfc3339(expires) if expires is not None else None,
                "epoch": connection.position.epoch,
                "pingIntervalMs": round(self._context.config.server.ping_interval * 1000),
                "serverTime": rfc3339(self._context.parts.now()),
            },
            re,
        )
