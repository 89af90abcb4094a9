"""What has to be looked at from time to time for every open connection: life signs, sessions, leases. One task, not one each."""

from __future__ import annotations

import asyncio

import structlog

from sidecar.answers import encode
from sidecar.connections import Connection
from sidecar.errors import Unauthenticated, Unavailable
from sidecar.records import rfc3339
from sidecar.server.context import Context
from sidecar.server.opening import LEASE_SECONDS, RECHECK_SECONDS
from sidecar.slots.keyed_cipher import KeyedCipher

_TICK_SECONDS = 1.0
_WARN_SECONDS = 30.0
"""Before its end a session is announced (`session_expiring`)."""
_AT_ONCE = 100
_SILENT_PINGS = 2.3
"""Ping intervals without any sign of life after which a socket is dead."""

log = structlog.get_logger("sidecar.server")


async def keep_house(context: Context) -> None:
    """Runs for good."""
    loop = asyncio.get_running_loop()
    renewed = loop.time()
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        now = loop.time()
        for number, connection in enumerate(context.registry):
            try:
                _look_at(context, connection, now)
            except Exception as error:
                # One connection's trouble is not another's: without this task no session would ever end.
                log.exception("housekeeping_failed", connection=connection.id, exc_info=error)
            if number % 500 == 499:
                await asyncio.sleep(0)
        try:
            if now - renewed >= LEASE_SECONDS / 3:
                renewed = now
                await _renew(context)
            _gauges(context)
        except Exception as error:
            log.exception("housekeeping_failed", exc_info=error)


def _look_at(context: Context, connection: Connection, now: float) -> None:
    silent = now - connection.last_heard
    interval = context.config.server.ping_interval
    if silent > interval * _SILENT_PINGS:
        connection.close(1001, "no sign of life")
        return
    if silent > interval:
        connection.ping()
    held = context.sessions.get(connection.id)
    if held is None:
        return
    expires = held.session.expires_at
    if expires is not None:
        left = (expires - context.parts.now()).total_seconds()
        if left <= 0:
            end(context, connection, "the session has expired")
            return
        if left <= _WARN_SECONDS and not held.warned:
            held.warned = True
            connection.send(encode("session_expiring", {"expiresAt": rfc3339(expires)}))
    if now >= held.next_check:
        held.next_check = now + RECHECK_SECONDS
        context.keep(asyncio.create_task(_recheck(context, connection)))


async def _recheck(context: Context, connection: Connection) -> None:
    held = context.sessions.get(connection.id)
    if held is None:
        return
    session = held.session
    try:
        async with asyncio.timeout(10.0):
            await context.parts.auth.recheck(session)
    except Unauthenticated:
        if held.session is session:  # else a fresh token came meanwhile: it was the former session that is over
            end(context, connection, "the session is over")
    except Exception as error:  # noqa: BLE001  # the plugin's own trouble says nothing of the session
        log.warning("recheck_failed", connection=connection.id, error=type(error).__name__)  # asked again in a minute


def end(context: Context, connection: Connection, reason: str) -> None:
    """Closes a connection whose session is over; the client may come back with a fresh token."""
    context.parts.metrics.errors.labels("unauthenticated").inc()
    payload = {"code": "unauthenticated", "message": f"{reason}; sign in again", "retryable": False}
    connection.send(encode("error", payload))
    connection.close(4401, reason)


async def _renew(context: Context) -> None:
    """A hundred at a time, which share a round trip to a shared cache."""
    connections = [connection for connection in context.registry if not connection.closed]
    try:
        for at in range(0, len(connections), _AT_ONCE):
            await asyncio.gather(*(_renew_place(context, each) for each in connections[at : at + _AT_ONCE]))
    except Unavailable:
        return  # with the next round, or the places end by themselves


async def _renew_place(context: Context, connection: Connection) -> None:
    leases = context.parts.cache.leases
    most = context.config.limits.connections_per_user
    lease = await leases.take(f"connections:{connection.user}", connection.id, LEASE_SECONDS, most, context.process)
    if lease is not None and connection.closed:
        await leases.leave(lease)  # it went meanwhile: its place must not wait for the lease's end


def _gauges(context: Context) -> None:
    metrics = context.parts.metrics
    metrics.blocked.set(context.watchdog.loop_blocked_for())
    for (plugin, hook), count in context.plugins.counts().items():
        metrics.hooks.labels(plugin, hook, "calls").set(count.calls)
        metrics.hooks.labels(plugin, hook, "failures").set(count.failures)
        metrics.hooks.labels(plugin, hook, "timeouts").set(count.timeouts)
    cipher = context.parts.cipher
    if isinstance(cipher, KeyedCipher):
        metrics.keys.labels("hits").set(cipher.hits)
        metrics.keys.labels("misses").set(cipher.misses)
        metrics.keys_held.set(cipher.in_memory)
