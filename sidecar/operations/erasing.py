"""Everything of one person goes: `users-erase` (semantics §8).

The order matters. First the keys: from then on nothing of the person opens, here or in any backup, and nothing more is
accepted. Then the sockets, then the cache with what waits in the outbox, and only then the word to the plugins, so that
nothing of the person is written behind it. The marks of the keys go last. All of it can be done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from sidecar.changes import Accepted, Notify
from sidecar.chats import own_change
from sidecar.delivery import PERSISTENCE
from sidecar.devices import _lease as device_lease
from sidecar.errors import KeyGone, Undecryptable
from sidecar.feed import ENDINGS, SIGN_IN_AGAIN
from sidecar.ids import ChatId, DeviceId, KeyReference, UserHash
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, progress, result
from sidecar.operations.persons import connections_of, gone
from sidecar.operations.scope import Scope, Target, keys_in
from sidecar.operations.work import Work

_QUIET_SECONDS = 2.0
"""For deliveries that are under way."""
_STORE_SECONDS = 10.0
_LOOK_SECONDS = 0.05


async def erase(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Erases the person. Result: `chats`, `devices`, `sockets` closed here, `sockets_left` elsewhere, `done` (the store has nothing
    of the person any more; False: the outbox goes on with it), `waiting` (by plugin, what is still to be told).
    """
    erasure = _Erasure(work, arguments.person)
    devices = [device.id for device in await work.parts.store.devices(erasure.user)]
    await erasure.find()
    total = len(erasure.targets)
    yield progress(0, total)
    async for done in erasure.destroy():
        yield progress(done, total)
    sockets, sockets_left = await erasure.close_sockets()
    await erasure.find()  # what began before the last socket was closed
    async for _ in erasure.destroy():
        pass
    await work.deliveries([PERSISTENCE], _QUIET_SECONDS)
    await work.parts.cache.chats.drop(erasure.user, None)
    await erasure.notify()
    done = await erasure.wait_for_store()
    await erasure.forget(devices)
    positions = await work.parts.cache.outbox.positions()
    listening = {listener.name for listener in work.plugins.listeners}
    yield result(
        chats=len(erasure.targets),
        devices=len(devices),
        sockets=sockets,
        sockets_left=sockets_left,
        done=done,
        waiting={name: each.pending for name, each in positions.items() if each.pending and name in listening},
    )


class _Erasure:
    def __init__(self, work: Work, user: UserHash) -> None:
        self.user = user
        self.targets: dict[KeyReference, Target] = {}
        self._destroyed: set[KeyReference] = set()
        self._work = work
        self._parts = work.parts

    async def find(self) -> None:
        """Every chat of the person that has a key. Raises `Unavailable` while cache, store or keys cannot be asked: then nothing was done."""
        async for target in keys_in(self._parts, Scope(self.user, None)):
            self.targets[target.key] = target

    async def destroy(self) -> AsyncGenerator[int, None]:
        """Destroys what was found; how many are, one by one."""
        for target in list(self.targets.values()):
            if target.key in self._destroyed:
                continue
            try:
                await self._parts.cipher.destroy(target.key)
            except (KeyGone, Undecryptable):
                pass  # destroyed before, or a row that names a key which is not there
            self._destroyed.add(target.key)
            self._parts.references.drop(target.user, target.chat_id)
            yield len(self._destroyed)

    async def close_sockets(self) -> tuple[int, int]:
        """Closes the person's sockets, here at once and on other processes by their logs; how many, and how many were left."""
        live = self._work.live
        mine = live.registry.of(self.user) if live is not None else []
        await self.notify()
        for connection in mine:
            connection.close(SIGN_IN_AGAIN, ENDINGS["erased"])
        return len(mine), len(await gone(self._work, self.user))

    async def notify(self) -> None:
        """Tells the connections by the log, and every plugin by the outbox (`on_user_erased`)."""
        change = own_change(self._parts, self.user, ChatId(""), Notify("erased"))
        outcome = await self._parts.cache.chats.commit(change)
        if not isinstance(outcome, Accepted):
            raise AssertionError("a notice is always accepted")
        self._work.wake()

    async def wait_for_store(self) -> bool:
        """Whether the store has nothing of the person any more, as soon as it has not, or after a while."""
        end = asyncio.get_running_loop().time() + _STORE_SECONDS
        while True:
            waiting = await self._work.deliveries([PERSISTENCE], 0)
            empty = not await self._stored()
            if (empty and not waiting) or self._work.live is None or asyncio.get_running_loop().time() >= end:
                return empty
            await asyncio.sleep(_LOOK_SECONDS)

    async def _stored(self) -> bool:
        page = (await self._parts.plugins.sync(self.user, None, 1)).pages.get(PERSISTENCE)
        return (page is not None and bool(page.items)) or bool(await self._parts.store.devices(self.user))

    async def forget(self, devices: Iterable[DeviceId]) -> None:
        """The marks of the keys, the cached devices, and the log that told of the erasure."""
        for target in self.targets.values():
            try:
                await self._parts.cipher.forget(target.key)
            except Undecryptable:
                pass  # a row named a key that is none of this cipher's
        leases = self._parts.cache.leases
        for device in devices:
            lease = await leases.take(device_lease(self.user, device), device, 1.0)
            if lease is not None:
                await leases.leave(lease)
        if not await leases.held(connections_of(self.user)):
            # Somebody who signed in meanwhile begins anew, and keeps that.
            await self._parts.cache.chats.drop(self.user, None)
