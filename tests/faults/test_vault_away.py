"""F16-F18: a Vault that is down, sealed, not initialised, killed: what was accepted stays, what is new waits, no key is made twice."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.conftest import Serve
from tests.device import Device, doc
from tests.faults.hosts import Hosts, hosts
from tests.faults.vault_world import (
    drafts,
    edited,
    goes_on,
    kept_waiting,
    keys_in,
    made_once,
    refused_for_now,
    role,
    under_load,
)
from tests.faults.world import get, ready
from tests.integration.world import AT_ONCE, begin, chats_of, held, say, until
from tests.services.proxy import FaultProxy
from tests.services.vault.fixtures import StartVault

__all__ = ["hosts"]


async def test_f16_a_vault_that_is_down_at_the_start_is_waited_for(serve: Serve, start_vault: StartVault) -> None:
    """F16: up, alive, not ready; nothing is shown as empty or missing; and at work without a restart once Vault is there."""
    vault = await start_vault()
    encryption = keys_in(vault, await role(vault))
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        await device.sync()
        await begin(device, "c1", doc("a draft"))
        await say(device, "c1", "m1", doc("a message"))
        await device.event("message_update", lambda event: event["status"] == "delivered")
        holds = [held(chats_of(await device.sync())[device.full("c1")])]
    await vault.stop()
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        assert (await get(sidecar, "/livez"))[0] == 200
        status, body = await get(sidecar, "/readyz")
        assert status == 503
        assert body["parts"]["encryption"]["state"] == "failed"
        assert "Vault" in body["parts"]["encryption"]["reason"]
        frames = await device.sync(chats=holds)
        assert any("failed" in frame or frame["·type"] == "error" for frame in frames), "it does not pretend to know"
        assert not [frame for frame in frames if frame.get("missing") or frame.get("deleted")]
        assert refused_for_now(await edited(device, "c1", "another", 1))
        new = {"tempChatId": "c2", "content": doc("a new one"), "basedOnVersion": 0}
        assert refused_for_now(await device.ask("draft_update", new, "the-same-operation"))

        await vault.start()
        await until(lambda: ready(sidecar), 10)
        assert await drafts(device) == {device.full("c1"): doc("a draft")}
        assert (await device.ask("draft_update", new, "the-same-operation"))["type"] == "chat_initiated"
        assert (await edited(device, "c1", "another", 1))["type"] == "draft_updated"
    await made_once(vault, 2)


async def test_f17_keys_in_memory_work_until_their_life_ends(serve: Serve, start_vault: StartVault) -> None:
    """F17: edits of known chats are accepted (row: for 300 s, here 2 s) and then wait; a new chat waits at once."""
    vault = await start_vault()
    encryption = keys_in(vault, await role(vault))
    async with (
        serve(encryption=encryption, drafts=AT_ONCE, chats={"key_ttl": "2s"}) as sidecar,
        Device(sidecar.url) as device,
    ):
        await device.sync()
        await begin(device, "c1", doc("1"))
        vault.kill()
        version = 1
        while (answer := await edited(device, "c1", str(version + 1), version))["type"] == "draft_updated":
            version = answer["payload"]["version"]
            new = await device.ask("draft_update", {"tempChatId": "c2", "content": doc("x"), "basedOnVersion": 0})
            assert refused_for_now(new)
            await asyncio.sleep(0.05)
        assert version > 5, "accepted with the key in memory"
        assert refused_for_now(answer)
        await vault.start()

        async def again() -> bool:
            answer = await edited(device, "c1", "afterwards", version)
            return bool(answer["type"] == "draft_updated")

        await until(again, 10)
        assert (await drafts(device))[device.full("c1")] == doc("afterwards")
    await made_once(vault, 1)


async def test_f18_sealed_and_unsealed_under_load(hosts: Hosts, start_vault: StartVault) -> None:
    """F18: two processes, people who begin a chat with each message: nothing accepted is lost, all go on within seconds."""
    vault = await start_vault()
    encryption = keys_in(vault, await role(vault))
    async with under_load(hosts, vault, encryption, per_chat=(1, 2)) as (both, writers):
        await goes_on(writers)
        for _ in range(3):
            await vault.seal()
            await kept_waiting(writers)
            for host in both:
                status, body = await host.ask("/readyz")
                assert (status, body["parts"]["encryption"]["reason"]) == (503, "Vault is sealed: unseal it")
            await vault.unseal()
            await goes_on(writers, 10)


@pytest.mark.parametrize("mode", ["kv", "transit"])
async def test_f18_killed_again_and_again_under_load(hosts: Hosts, start_vault: StartVault, mode: str) -> None:
    """F18, F17: kill -9 and a restart with kept storage, at any moment, while people begin chats."""
    vault = await start_vault()
    await vault.mount_transit("transit")
    await vault.write("transit/keys/sidecar", derived=True)
    chance = random.Random(18)
    async with under_load(hosts, vault, keys_in(vault, await role(vault), mode=mode), rest=0) as (_, writers):
        await goes_on(writers)
        for _ in range(5):
            vault.kill()
            await asyncio.sleep(chance.uniform(0, 0.5))
            await vault.start()
            await goes_on(writers, 20, 2)
    assert sum(writer.repeated for writer in writers) > 0, "somebody was kept waiting"


async def test_f18_a_vault_that_is_not_initialised_is_waited_for(serve: Serve, start_vault: StartVault) -> None:
    """F18 (501): nobody who comes is given a key that Vault does not have."""
    vault = await start_vault(kept=False)
    encryption = keys_in(vault, await role(vault))
    await vault.stop()
    await vault.start(unseal=False)
    async with serve(encryption=encryption) as sidecar, Device(sidecar.url) as device:
        status, body = await get(sidecar, "/readyz")
        assert status == 503
        assert "sealed" in body["parts"]["encryption"]["reason"], "so Vault itself calls it"
        new = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
        assert refused_for_now(await device.ask("draft_update", new))


async def test_f18_a_standby_is_not_followed_and_serves_once_it_is_the_active_one(
    serve: Serve, start_vault: StartVault
) -> None:
    """F18, T40: it answers by sending on (307), with which the token would go to whoever says so: it is named instead."""
    vault = await start_vault(standby=True)
    await vault.audit()
    standby = "http://{}:{}".format(*vault.standby)
    encryption = keys_in(vault, await role(vault), url=standby)
    asked = len(vault.audited())
    async with serve(encryption=encryption) as sidecar, Device(sidecar.url) as device:
        new = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
        assert refused_for_now(await device.ask("draft_update", new, "the-same-operation"))
        status, body = await get(sidecar, "/readyz")
        assert status == 503
        assert f"sends on to {vault.url}" in body["parts"]["encryption"]["reason"]
        assert len(vault.audited()) == asked, "nothing was asked of the active one"
        await vault.failover()
        assert vault.url == standby

        async def begun() -> bool:
            return bool((await device.ask("draft_update", new, "the-same-operation"))["type"] == "chat_initiated")

        await until(begun, 15)
        await until(lambda: ready(sidecar), 10)
    await made_once(vault, 1)


async def test_f18_a_standby_takes_over_under_load(hosts: Hosts, start_vault: StartVault) -> None:
    """F18: behind a balancer that is late: the sealed one answers, then as a standby, then the new active one."""
    vault = await start_vault(standby=True)
    async with FaultProxy(vault.address) as balancer:
        encryption = keys_in(vault, await role(vault), url=f"http://{balancer.host}:{balancer.port}")
        async with under_load(hosts, vault, encryption) as (_, writers):
            for _ in range(3):
                await goes_on(writers)
                await vault.failover()
                await kept_waiting(writers)
                balancer.target = vault.address
                balancer.reset()
                await goes_on(writers)
