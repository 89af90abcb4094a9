"""One socket from `ready` to its end: frames in, each with its answer (protocol).

Frames of one chat are answered one after the other; those of different chats do not wait for each other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import replace

import structlog
from aiohttp import WSMessage, WSMsgType, web

from sidecar.answers import Answer, encode, error_payload
from sidecar.connections import Connection
from sidecar.errors import Unauthenticated, WireError
from sidecar.feed import spawn
from sidecar.frames.client import Auth, AuthRefresh, Empty, SyncRequest
from sidecar.frames.envelope import ClientFrame
from sidecar.frames.errors import FrameError
from sidecar.frames.reading import read
from sidecar.ids import hash_user
from sidecar.records import rfc3339
from sidecar.server.context import Context
from sidecar.server.dispatch import answer, lane_of
from sidecar.server.faults import wire_error
from sidecar.server.limits import COSTS, Bucket
from sidecar.server.opening import RECHECK_SECONDS, credential, sign_in
from sidecar.server.turns import FRAME_SECONDS, Turn
from sidecar.sync import answer_sync

_IN_FLIGHT = 64
"""Frames of one socket at once; beyond that nothing is read from it."""
_DATA = (WSMsgType.TEXT, WSMsgType.BINARY)
_WITHOUT_LANE = frozenset({"ping", "auth", "sync_request"})
_WITHOUT_CURSOR = frozenset({"messages_request", "chats_request", "set_active_chat", "auth_refresh"})

log = structlog.get_logger("sidecar.server")


class Socket:
    """The frames of one connection."""

    __slots__ = (
        "_bucket",
        "_connection",
        "_context",
        "_in_flight",
        "_lanes",
        "_over",
        "_parked",
        "_peer",
        "_request",
        "_room",
        "_sync",
        "_sync_re",
        "_tasks",
        "_ws",
    )

    def __init__(
        self, context: Context, connection: Connection, ws: web.WebSocketResponse, request: web.Request, peer: str
    ) -> None:
        self._context = context
        self._connection = connection
        self._ws = ws
        self._request = request
        self._peer = peer
        limits = context.config.limits
        now = time.monotonic()
        self._bucket = Bucket(float(limits.frames_per_second), float(limits.burst), float(limits.burst), now)
        self._lanes: dict[str, deque[ClientFrame] | None] = {}
        """Those that are worked on, each with the frames that wait behind."""
        # Made when they are needed: most sockets are idle, and an empty set has 200 bytes.
        self._tasks: set[asyncio.Task[None]] | None = None
        self._in_flight = 0
        self._room: asyncio.Event | None = None
        self._over: asyncio.Future[None] | None = None
        """Made when another task reads on; done when nobody reads any more."""
        self._parked: asyncio.Future[bool] | None = None
        """A task that has read before and may do so again: True to read on, False at the socket's end."""
        self._sync: asyncio.Task[None] | None = None
        self._sync_re: str | None = None

    async def serve(self) -> None:
        """Returns when the socket is closed. What is under way is finished: an accepted change is not undone by a lost socket."""
        try:
            await self._read()
            if self._over is not None:
                await self._over
        finally:
            if self._sync is not None:
                self._sync.cancel()
            if self._tasks:
                await asyncio.wait(list(self._tasks), timeout=FRAME_SECONDS)

    async def _read(self) -> None:
        """Reads frames until the socket ends. When one has to wait for something another task reads on, and this one after it.

        A task for each frame would cost as much as sealing it does, whether it waits or not.
        """
        loop = asyncio.get_running_loop()
        turn: Turn | None = None
        try:
            while not self._connection.closed:
                message = await self._ws.receive()
                data = message.type in _DATA
                if not data and not await self._control(message):
                    break
                self._connection.last_heard = loop.time()
                frame = self._take(message) if data else None
                if frame is not None:
                    if turn is None:
                        turn = Turn(self._context.turns, self._read_on)
                    await self._lead(frame, turn)
                    if turn.over:
                        del message, frame
                        if not await self._rest():
                            return
                        turn = None
                        continue
                # Freed before the next wait: a parsed draft is ten times its text, and the next one gets warm memory.
                del message, frame
                if self._in_flight >= _IN_FLIGHT:
                    self._room = asyncio.Event()
                    await self._room.wait()
        except ConnectionError:
            pass  # the reader is gone, which is how most sockets end
        except BaseException:
            self._end()  # whichever task reads, `serve` must not wait for good
            raise
        self._end()

    async def _rest(self) -> bool:
        """Waits until this task is to read again; False if it is not needed any more."""
        if self._parked is not None or self._over is None or self._over.done():
            return False
        self._parked = asyncio.get_running_loop().create_future()
        return await self._parked

    def _unpark(self, *, read_on: bool) -> bool:
        """Whether there was a task to be told."""
        parked, self._parked = self._parked, None
        if parked is None or parked.done():
            return False
        parked.set_result(read_on)
        return True

    def _end(self) -> None:
        self._unpark(read_on=False)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _control(self, message: WSMessage) -> bool:
        """Answers a protocol ping, which costs as much as any frame; False at the socket's end."""
        if self._bucket.take(1.0, time.monotonic()) and self._bucket.flooded:
            self._connection.close(4429, "too many frames")
            return False
        if message.type is WSMsgType.PING:
            try:
                await self._ws.pong(message.data)
            except ConnectionError:
                return False
            return True
        return message.type is WSMsgType.PONG

    def _take(self, message: WSMessage) -> ClientFrame | None:
        """One data frame: refused here, answered here, or returned to be worked on in its lane."""
        try:
            if message.type is WSMsgType.BINARY:
                self._limit("")
                raise FrameError("bad_frame", "frames are text, not binary")
            try:
                frame = read(message.data, self._context.config.drafts.max_depth, self._context.digest_key)
            except FrameError:
                self._limit("")
                raise
            self._limit(frame.type, frame.id)
        except WireError as error:
            self._error(error, getattr(error, "re", None))
            return None
        self._context.parts.metrics.frames.labels(frame.type).inc()
        if frame.type not in _WITHOUT_LANE:
            return frame
        payload = frame.payload
        if isinstance(payload, Empty) and frame.type == "ping":
            self._connection.send(encode("pong", {"serverTime": rfc3339(self._context.parts.now())}, frame.id))
        elif isinstance(payload, Auth):
            self._error(WireError("bad_payload", "already signed in; for a fresh token send `auth_refresh`"), frame.id)
        elif isinstance(payload, SyncRequest):
            self._start_sync(frame, payload)
        return None

    def _limit(self, type_: str, re: str | None = None) -> None:
        seconds = self._bucket.take(COSTS.get(type_, 1.0), time.monotonic())
        if seconds:
            if self._bucket.flooded:
                self._connection.close(4429, "too many frames")
            error = FrameError("rate_limited", "too many frames; send it again later", re=re)
            error.retryable = True
            error.retry_after_ms = math.ceil(seconds * 1000)
            raise error

    # -- lanes ---------------------------------------------------------------------------------------------------------

    async def _lead(self, frame: ClientFrame, turn: Turn) -> None:
        """Works on the frame's lane, if nobody does. If that has to wait the turn is over, and another task reads."""
        lane = lane_of(frame)
        self._in_flight += 1
        if lane in self._lanes:
            waiting = self._lanes[lane]
            if waiting is None:
                waiting = self._lanes[lane] = deque()
            waiting.append(frame)
            return
        self._lanes[lane] = None
        self._context.turns.begin(turn)
        try:
            await self._work(lane, frame, turn)
        finally:
            turn.done = True  # when the process stops in between as well: nobody reads on then

    def _read_on(self) -> None:
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
        if not self._unpark(read_on=True):
            spawn(self._read(), self._kept())

    def _kept(self) -> set[asyncio.Task[None]]:
        if self._tasks is None:
            self._tasks = set()
        return self._tasks

    async def _work(self, lane: str, first: ClientFrame, turn: Turn) -> None:
        frame: ClientFrame | None = first
        try:
            while frame is not None:
                await self._answer(frame, turn)
                waiting = self._lanes[lane]
                frame = waiting.popleft() if waiting else None
                self._in_flight -= 1
                if self._room is not None and self._in_flight < _IN_FLIGHT:
                    self._room.set()
        finally:
            waiting = self._lanes.pop(lane)
            if frame is not None:  # cut off
                self._in_flight -= 1 + len(waiting or ())
                if self._room is not None:
                    self._room.set()

    async def _answer(self, frame: ClientFrame, turn: Turn) -> None:
        started = time.perf_counter()
        parts, connection = self._context.parts, self._connection
        turn.limit()
        try:
            if isinstance(frame.payload, AuthRefresh):
                result = await self._refresh(frame.payload)
            else:
                result = await answer(parts, connection, frame)
        except Exception as error:  # noqa: BLE001  # every failure becomes a frame
            self._error(wire_error(error, frame.type), frame.id)
            return
        except asyncio.CancelledError:
            if not turn.unlimit():
                raise
            self._error(wire_error(TimeoutError(), frame.type), frame.id)
            return
        finally:
            turn.unlimit()
        cursor, told = result.cursor, True
        if cursor is not None:
            result.payload["cursor"] = str(cursor)
            event = result.event
            told = event is not None and self._context.feeds.tell(cursor, connection.caller, result.type, event)
        elif frame.type not in _WITHOUT_CURSOR:
            result.payload["cursor"] = str(connection.position)
        if "conflict" in result.type:
            self._log_conflict(result)
        connection.answer(encode(result.type, result.payload, frame.id), cursor)
        if not told:
            # In this task: the answer waits for the feed to come to its place anyway.
            await self._context.feeds.pump(connection.user)
        parts.metrics.handled.observe(time.perf_counter() - started)

    def _log_conflict(self, result: Answer) -> None:
        payload = result.payload
        version = payload.get("version", payload.get("titleVersion"))
        log.info("refused", type=result.type, chat=payload["chatId"], version=version, reason=payload["reason"])

    def _error(self, error: WireError, re: str | None) -> None:
        self._context.parts.metrics.errors.labels(error.code).inc()
        self._connection.send(encode("error", error_payload(error), re))
        if error.close is not None:
            self._connection.close(error.close, error.message)

    async def _refresh(self, payload: AuthRefresh) -> Answer:
        """A fresh token for the same person; the socket lives on without a gap."""
        context, connection = self._context, self._connection
        open_session = context.sessions[connection.id]
        session = await sign_in(context, credential(self._request, self._peer, payload.token, from_cookie=False))
        if hash_user(session.user_id, context.config.pepper) != connection.user:
            raise Unauthenticated("the token is another person's")
        now = asyncio.get_running_loop().time()
        open_session.session, open_session.next_check, open_session.warned = session, now + RECHECK_SECONDS, False
        connection.caller = replace(connection.caller, name=session.name)
        expires = session.expires_at
        return Answer("auth_refreshed", {"sessionExpiresAt": rfc3339(expires) if expires is not None else None})

    # -- sync ----------------------------------------------------------------------------------------------------------

    def _start_sync(self, frame: ClientFrame, payload: SyncRequest) -> None:
        if self._sync is not None and not self._sync.done():
            # One at a time: the newer question is the one that the client still has.
            self._sync.cancel()
            superseded = WireError("unavailable", "a newer sync_request took its place", details={"part": "server"})
            self._error(superseded, self._sync_re)
        self._sync_re = frame.id
        self._sync = asyncio.create_task(self._run_sync(frame, payload, self._sync))
        tasks = self._kept()
        tasks.add(self._sync)
        self._sync.add_done_callback(tasks.discard)

    async def _run_sync(self, frame: ClientFrame, payload: SyncRequest, before: asyncio.Task[None] | None) -> None:
        connection = self._connection
        if before is not None:
            await asyncio.wait([before])
        # Held back from before the position is taken: what a client gets between that and `complete` it does not apply.
        connection.pause(connection.position)
        try:
            async for part in answer_sync(self._context.parts, connection.caller, payload):
                connection.pause(part.position)
                await connection.send_waiting(encode(part.answer.type, part.answer.payload, frame.id))
        except Exception as error:  # noqa: BLE001  # every failure becomes a frame
            self._error(wire_error(error, frame.type), frame.id)
        finally:
            connection.resume()
            self._context.feeds.poke(connection.user)
