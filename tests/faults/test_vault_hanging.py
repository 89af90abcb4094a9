"""F19: a Vault that hangs, or is slow: whoever has the key in memory notices nothing, the others are told in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import Serve
from tests.device import Device, doc
from tests.faults.hosts import Hosts, hosts
from tests.faults.vault_world import (
    edited,
    goes_on,
    kept_waiting,
    keys_in,
    made_once,
    refused_for_now,
    role,
    under_load,
)
from tests.faults.world import measured
from tests.integration.world import AT_ONCE, begin, until
from tests.services.proxy import FaultProxy
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault_server import VaultServer

__all__ = ["hosts"]

Hang = Callable[[VaultServer], Awaitable[Callable[[], None]]]


async def stopped(vault: VaultServer) -> Callable[[], None]:
    """SIGSTOP."""
    vault.pause()
    return vault.resume


async def blocked_audit(vault: VaultServer) -> Callable[[], None]:
    """An audit device that nobody empties: Vault answers nothing before it has written."""
    pipe = await vault.audit_to_pipe()
    pipe.block()
    return pipe.unblock


@asynccontextmanager
async def edits(device: Device, chat: str) -> AsyncIterator[list[float]]:
    """Edits of a known chat, one after the other, and how long each took; all of them must be accepted."""
    took: list[float] = []
    over = asyncio.Event()

    async def edit() -> None:
        version = 1
        while not over.is_set():
            began = time.monotonic()
            answer = await edited(device, chat, f"text {version}", version)
            took.append(time.monotonic() - began)
            assert answer["type"] == "draft_updated", answer
            version = answer["payload"]["version"]
            await asyncio.sleep(0.01)

    editing = asyncio.create_task(edit())
    try:
        yield took
    finally:
        over.set()
        await editing


@pytest.mark.parametrize("hang", [stopped, blocked_audit])
async def test_f19_a_vault_that_hangs_delays_nobody_whose_key_is_in_memory(
    serve: Serve, start_vault: StartVault, hang: Hang
) -> None:
    """F19: 40 people wait for a key and are told after the deadline (2 s), while another edits as if nothing were."""
    vault = await start_vault()
    async with serve(encryption=keys_in(vault, await role(vault)), drafts=AT_ONCE) as sidecar:
        known = await Device(sidecar.url, "known").open()
        await known.sync()
        await begin(known, "c1", doc("0"))
        others = [await Device(sidecar.url, f"p{number}").open() for number in range(40)]
        async with measured() as lag, edits(known, "c1") as took:
            await until(lambda: len(took) > 10)
            go_on = await hang(vault)
            began, before = time.monotonic(), len(took)
            new = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
            answers = await asyncio.gather(*(each.ask("draft_update", new) for each in others))
            assert all(refused_for_now(answer) for answer in answers)
            assert time.monotonic() - began < 4, "a deadline for each call, not one call after the other"
            # Known to hang, it is asked now and then, and everybody else is told at once.
            began = time.monotonic()
            answers = await asyncio.gather(*(each.ask("draft_update", new) for each in others))
            assert all(refused_for_now(answer) for answer in answers)
            while_hanging = took[before:]
            assert len(while_hanging) > 20, "the edits went on meanwhile"
            assert max(while_hanging) < 1.0, "none of them waited for Vault's deadline"
            go_on()

            async def begun() -> bool:
                said = await asyncio.gather(
                    *(each.ask("draft_update", new, f"again-{each.user[:16]}") for each in others)
                )
                return all(answer["type"] == "chat_initiated" for answer in said)

            await until(begun, 15)
        assert lag.longest < 1.0, "the loop was never held up by a call to Vault"
        for device in [known, *others]:
            await device.close()
    await made_once(vault, 41)


async def test_f19_who_waits_for_one_key_asks_for_it_once(serve: Serve, start_vault: StartVault) -> None:
    """F19: single flight: a hundred readers and writers of one chat whose key is in nobody's memory, one call."""
    vault = await start_vault()
    way = await role(vault)
    async with serve(encryption=keys_in(vault, way), drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        await begin(device, "c1", doc("0"))
    await vault.audit()
    async with serve(encryption=keys_in(vault, way), drafts=AT_ONCE) as sidecar:
        devices = [await Device(sidecar.url).open() for _ in range(20)]
        before = len(_reads(vault))
        vault.pause()
        asked = [
            asyncio.ensure_future(edited(device, "c1", f"{n}.{m}", 1))
            for n, device in enumerate(devices)
            for m in range(5)
        ]
        await asyncio.sleep(0.5)
        vault.resume()
        answers = await asyncio.gather(*asked)
        assert sum(answer["type"] == "draft_updated" for answer in answers) == 1
        assert sum(answer["type"] == "draft_conflict" for answer in answers) == 99
        assert len(_reads(vault)) == before + 1
        for device in devices:
            await device.close()


def _reads(vault: VaultServer) -> list[Any]:
    return [
        line
        for line in vault.audited()
        if line["type"] == "request"
        and line["request"]["operation"] == "read"
        and line["request"]["path"].startswith(f"{vault.mount}/data/")
    ]


async def test_f19_stopped_and_continued_under_load(hosts: Hosts, start_vault: StartVault) -> None:
    """F19: requests that were carried out though their askers had long been told to try again: no key is made twice."""
    vault = await start_vault()
    encryption = keys_in(vault, await role(vault), timeout="300ms")
    async with under_load(hosts, vault, encryption, rest=0) as (_, writers):
        await goes_on(writers)
        for _ in range(6):
            vault.pause()
            await kept_waiting(writers)
            vault.resume()
            await goes_on(writers, 20, 2)


@pytest.mark.parametrize("how", ["slow", "answers lost", "cut", "reset", "flapping"])
async def test_f19_a_bad_way_to_vault_under_load(hosts: Hosts, start_vault: StartVault, how: str) -> None:
    """F19: slow by proxy; and answers that are lost after Vault carried out the call, above all the making of a key."""
    vault = await start_vault()
    async with FaultProxy(vault.address, seed=19) as proxy:
        url = f"http://{proxy.host}:{proxy.port}"
        encryption = keys_in(vault, await role(vault), url=url, timeout="500ms")
        async with under_load(hosts, vault, encryption, rest=0) as (_, writers):
            await goes_on(writers)
            match how:
                case "slow":
                    proxy.slow(0.05, jitter=0.1)
                    await goes_on(writers)
                    assert proxy.seen.delayed > 20
                case "answers lost":
                    lost = proxy.swallow(20, skip=3)
                    await lost.over()
                    await goes_on(writers)
                case "cut":
                    proxy.cut(0.1)
                    await goes_on(writers, 40, 5)
                    assert proxy.seen.cut > 5
                case "reset":
                    for _ in range(20):
                        proxy.reset()
                        await asyncio.sleep(0.05)
                    await goes_on(writers)
                    assert proxy.seen.cut > 5
                case "flapping":
                    async with proxy.flapping(0.3):
                        await goes_on(writers, 40, 3)
                    assert proxy.seen.flaps >= 1
            proxy.clear()
            await goes_on(writers, 20, 2)
