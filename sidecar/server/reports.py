"""What plugins report of their own accord: sessions that ended elsewhere, rows that others changed (semantics §7, §9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import structlog

from sidecar.elsewhere import take_in
from sidecar.errors import SidecarError, Unavailable
from sidecar.holding import holding
from sidecar.ids import hash_user
from sidecar.operations.arguments import Arguments
from sidecar.operations.erasing import erase
from sidecar.operations.work import Live, Work
from sidecar.server.context import Context
from sidecar.server.housekeeping import end
from sidecar.slots.authenticator import Ended
from sidecar.slots.store import Elsewhere

_LEASE_SECONDS = 6.0
_AGAIN_SECONDS = 1.0
_TRIES = 30
"""Of one report, a second apart, while a part is away; then it is given up, and said so."""

log = structlog.get_logger("sidecar.server")


async def follow_ended(context: Context) -> None:
    """Closes the sockets of sessions that ended elsewhere, and erases whom the source deleted. Runs for good.

    Every process listens, since each has sockets of its own.
    """
    while True:
        try:
            async for ended in context.parts.auth.ended():
                hear_ended(context, ended)
            return  # this authenticator reports none
        except Exception as error:  # noqa: BLE001  # whatever a plugin raises, its reports are asked for again
            log.warning("ended_sessions_stopped", error=type(error).__name__)
            await asyncio.sleep(_AGAIN_SECONDS)


def hear_ended(context: Context, ended: Ended) -> None:
    """Ends the sockets at once; an erasure takes its time behind that."""
    user = hash_user(ended.user_id, context.config.pepper)
    context.ends.append((asyncio.get_running_loop().time(), user, None if ended.erased else ended.session_id))
    for connection in context.registry.of(user):
        held = context.sessions.get(connection.id)
        if held is not None and (ended.erased or ended.session_id in (None, held.session.session_id)):
            end(context, connection, "the session was ended")
    if ended.erased:
        context.keep(asyncio.create_task(_erase(context, ended)))


async def _erase(context: Context, ended: Ended) -> None:
    """Everything of a person whom the source of sign-ins has deleted goes. One process does it; done again it finds nothing."""
    user = hash_user(ended.user_id, context.config.pepper)
    leases = context.parts.cache.leases
    work = Work(context.config, context.plugins, context.parts, Live(context.registry, context.worker))
    for _ in range(_TRIES):
        try:
            lease = await leases.take(f"erasing:{user}", context.worker.holder, 60.0)
            if lease is None:
                return  # another process heard of it too
            try:
                async with aclosing(erase(work, Arguments(user=user))) as lines:
                    async for _line in lines:
                        pass
            finally:
                await leases.leave(lease)
            log.info("person_erased")
            return
        except Unavailable as error:
            log.warning("erasure_waits", part=error.part)
            await asyncio.sleep(_AGAIN_SECONDS)
        except Exception as error:
            log.exception("erasure_failed", exc_info=error)
            return
    log.error("erasure_given_up", remedy="run sidecar users erase once all parts are back")


async def follow_store(context: Context) -> None:
    """Takes in what others change in the store. Runs for good.

    Of the processes that share a cache one listens at a time: what it learns reaches the others through the cache.
    """
    while True:
        try:
            async with _alone(context) as mine:
                if mine:
                    await _follow(context, context.parts.store.changed())
                    return  # this store reports none
        except _Lost:
            log.warning("store_changes_left_to_others")
        except Exception as error:  # noqa: BLE001  # whatever a plugin raises, its reports are asked for again
            log.warning("store_changes_stopped", error=type(error).__name__)
        await asyncio.sleep(_AGAIN_SECONDS)


async def follow_met(context: Context) -> None:
    """Takes in what this process met as it wrote. Runs for good."""
    while True:
        try:
            await _follow(context, context.parts.store.met())
            return
        except Exception as error:  # noqa: BLE001  # as above
            log.warning("store_changes_stopped", error=type(error).__name__)
            await asyncio.sleep(_AGAIN_SECONDS)


class _Lost(Exception):
    """Another process may listen by now."""


@asynccontextmanager
async def _alone(context: Context) -> AsyncIterator[bool]:
    """Whether this process is the one; within it, it stays so, or `_Lost` ends it."""
    leases, name, holder = context.parts.cache.leases, "store_changes", context.worker.holder
    try:
        lease = await leases.take(name, holder, _LEASE_SECONDS)
    except Unavailable:
        lease = None
    if lease is None:
        yield False
        return
    task = asyncio.current_task()
    lost = False

    def give_up() -> None:
        nonlocal lost
        if task is not None:
            lost = True
            task.cancel()

    async with holding(leases, lease, _LEASE_SECONDS, give_up):
        try:
            yield True
        except asyncio.CancelledError:
            if lost and task is not None and task.uncancel() == 0:
                raise _Lost from None
            raise


async def _follow(context: Context, reports: AsyncIterator[Elsewhere]) -> None:
    async with aclosing(reports) as changes:  # type: ignore[type-var]  # a generator, as it is written
        async for change in changes:
            await hear_elsewhere(context, change)


async def hear_elsewhere(context: Context, change: Elsewhere) -> None:
    """Takes one report in, however long a part is away within reason. One that cannot be taken in holds up no other."""
    for _ in range(_TRIES):
        try:
            await take_in(context.parts, change)
            context.feeds.poke(change.user)
            context.worker.wake(change.user)
            return
        except Unavailable as error:
            log.warning("store_change_waits", part=error.part)
            await asyncio.sleep(_AGAIN_SECONDS)
        except SidecarError as error:
            log.error("store_change_failed", error=type(error).__name__)
            return
        except Exception as error:
            log.exception("store_change_failed", exc_info=error)
            return
    log.error("store_change_given_up")
