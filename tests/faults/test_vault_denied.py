"""F20, F21: a token that ends, is revoked or cannot be renewed; a policy that is changed while people edit."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import hvac
import pytest

from tests.conftest import Serve
from tests.device import Device, doc
from tests.faults.hosts import Hosts, hosts
from tests.faults.people import Writer, alive
from tests.faults.test_killed import stored
from tests.faults.vault_world import (
    POLICY,
    drafts,
    edited,
    goes_on,
    kept_waiting,
    keys_in,
    made_once,
    opens_everywhere,
    refused_for_now,
    role,
    under_load,
)
from tests.faults.world import get, ready
from tests.integration.world import AT_ONCE, begin, until
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault_server import VaultServer

__all__ = ["hosts"]


def _logins(vault: VaultServer) -> int:
    return sum(
        line["type"] == "response" and line["request"]["path"].endswith("/login") and not line.get("error")
        for line in vault.audited()
    )


async def _until_logins(vault: VaultServer, count: int) -> None:
    await until(lambda: _logins(vault) >= count, 20)


async def _revoke_all(vault: VaultServer, mount: str) -> int:
    """Every token that came of this way in; how many."""
    accessors = await vault.names("auth/token/accessors")
    gone = 0
    for accessor in accessors:
        try:
            told = await vault.write("auth/token/lookup-accessor", accessor=accessor)
        except (hvac.exceptions.InvalidPath, hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
            continue  # it has just ended
        if told["data"]["path"] == f"auth/{mount}/login":
            await vault.write("auth/token/revoke-accessor", accessor=accessor)
            gone += 1
    return gone


async def test_f20_revoked_under_load(hosts: Hosts, start_vault: StartVault) -> None:
    """F20: each process signs in once more and nobody is refused for it; no accepted text is lost."""
    vault = await start_vault()
    await vault.audit()
    way = await role(vault)
    sections: dict[str, Any] = {"encryption": keys_in(vault, way), "drafts": AT_ONCE}
    async with hosts(2, **sections) as both:
        writers = [Writer([host.url for host in both], f"w{n}", per_chat=1, pause=0.1) for n in range(6)]
        async with alive(writers):
            await goes_on(writers)
            assert _logins(vault) == 2
            for times in range(2, 5):
                assert await _revoke_all(vault, way.mount) == 2
                await _until_logins(vault, 2 * times)
                await goes_on(writers)
                assert _logins(vault) == 2 * times, "one new sign-in of each process"
        assert sum(writer.repeated for writer in writers) == 0, "nobody noticed"
        await stored(hosts, writers)
    await made_once(vault, sum(len(writer.accepted) for writer in writers))
    await opens_everywhere(hosts, writers, **sections)


@pytest.mark.parametrize("renewable", [True, False])
async def test_f20_a_token_that_lives_for_seconds(hosts: Hosts, start_vault: StartVault, renewable: bool) -> None:
    """F20 (row: 10 s life, 10 minutes; here 2 s, for 9): renewed at two thirds, replaced before its end where it cannot be."""
    vault = await start_vault()
    await vault.audit()
    # A batch token cannot be renewed.
    options = {"token_ttl": "2s", "token_max_ttl": "6s", "token_type": "service" if renewable else "batch"}
    sections: dict[str, Any] = {"encryption": keys_in(vault, await role(vault, **options)), "drafts": AT_ONCE}
    async with hosts(1, **sections) as (host,):
        writers = [Writer([host.url], f"w{n}", per_chat=1, rest=0.02) for n in range(4)]
        async with alive(writers):
            await asyncio.sleep(9)
        assert sum(writer.repeated for writer in writers) == 0, "0 failed acks"
        renewals = sum(
            line["type"] == "response" and line["request"]["path"] == "auth/token/renew-self"
            for line in vault.audited()
        )
        assert (renewals >= 3) == renewable
        assert 2 <= _logins(vault) <= (4 if renewable else 9)
        await stored(hosts, writers)
        host.spotless()


async def test_f20_a_given_token_that_was_revoked_is_said_and_keys_in_memory_serve(
    serve: Serve, start_vault: StartVault
) -> None:
    """F20: no way in is left: not ready, with the reason; known chats go on; no storm of sign-ins; a new token in the file helps."""
    vault = await start_vault()
    await vault.audit()
    policy = await vault.policy(POLICY, "sidecar")
    file = vault.folder / "token"
    file.write_text(first := await vault.token(policy, ttl="1h"))
    section = {
        "use": "vault",
        "options": {"url": vault.url, "mount": vault.mount, "auth": {"token": {"file": str(file)}}},
    }
    async with serve(encryption=section, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        await device.sync()
        await begin(device, "c1", doc("0"))
        await vault.revoke(first)
        asked = len(vault.audited())
        new = {"tempChatId": "c2", "content": doc("x"), "basedOnVersion": 0}
        for version in range(1, 40):
            assert (await edited(device, "c1", f"text {version}", version))["type"] == "draft_updated"
            assert refused_for_now(await device.ask("draft_update", new))
        status, body = await get(sidecar, "/readyz")
        assert status == 503
        assert "token" in body["parts"]["encryption"]["reason"]
        assert len(vault.audited()) - asked < 40, "40 tries are not 40 sign-ins"
        file.write_text(await vault.token(policy, ttl="1h"))

        async def begun() -> bool:
            return bool((await device.ask("draft_update", new))["type"] == "chat_initiated")

        await until(begun, 30)
        await until(lambda: ready(sidecar), 10)


async def test_f21_a_path_that_is_denied_is_denied_to_that_chat_alone(serve: Serve, start_vault: StartVault) -> None:
    """F21: the others go on, nothing is asked again and again, no key is made in its place, and it works when it is allowed."""
    vault = await start_vault()
    await vault.audit()
    way = await role(vault)
    encryption = keys_in(vault, way)
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        await device.sync()
        for chat in ("c1", "c2"):
            await begin(device, chat, doc(f"of {chat}"))
    entries = await vault.entries("sidecar/")
    one = await _entry_of(vault, device.full("c1"), entries)
    denied = f'\npath "{vault.mount}/data/{one}" {{ capabilities = ["deny"] }}\n'
    await vault.policy(POLICY + denied, "sidecar")
    async with serve(encryption=encryption, drafts=AT_ONCE) as sidecar, Device(sidecar.url) as device:
        before = len(vault.audited())
        for _ in range(20):
            assert refused_for_now(await edited(device, "c1", "another", 1))
        asked = Counter(line["request"]["path"] for line in vault.audited()[before:] if line["type"] == "request")
        assert sum(asked.values()) <= 45, f"no storm: {asked}"
        assert (await edited(device, "c2", "another", 1))["type"] == "draft_updated"
        assert (await begin(device, "c3", doc("new")))["version"] == 1
        assert await ready(sidecar), "one path is not all of Vault"
        await vault.policy(POLICY, "sidecar")

        async def allowed() -> bool:
            return bool((await edited(device, "c1", "another", 1))["type"] == "draft_updated")

        await until(allowed)  # a denied path is not asked for again at once
        assert await drafts(device) == {
            device.full("c1"): doc("another"),
            device.full("c2"): doc("another"),
            device.full("c3"): doc("new"),
        }
    await made_once(vault, 3)


async def _entry_of(vault: VaultServer, chat_id: str, entries: list[str]) -> str:
    for path in entries:
        told = await vault.read(f"{vault.mount}/data/{path}")
        assert told is not None
        if chat_id in str(told["data"]["data"]):
            return path
    raise AssertionError(f"no entry names {chat_id}")


async def test_f21_a_policy_that_takes_everything_away_under_load(hosts: Hosts, start_vault: StartVault) -> None:
    """F21: changed live and back: nothing accepted is lost, everybody goes on."""
    vault = await start_vault()
    async with under_load(hosts, vault, keys_in(vault, await role(vault))) as (_, writers):
        for policy in ('path "sys/x" { capabilities = ["read"] }', POLICY.replace('"create", "read"', '"read"', 1)):
            await goes_on(writers)
            await vault.policy(policy, "sidecar")
            await kept_waiting(writers)
            await vault.policy(POLICY, "sidecar")
            await goes_on(writers, 30)
