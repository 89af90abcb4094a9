"""What the fault tests of Vault share: a sidecar whose keys are there, with the policy that is shipped, and what holds afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.device import Device, doc
from tests.faults.hosts import Host, Hosts
from tests.faults.people import Writer, alive
from tests.faults.test_killed import stored, told
from tests.integration.world import AT_ONCE, chats_of, until
from tests.services.vault.vault import AppRole, Vault

ROOT = Path(__file__).parent.parent.parent
POLICY = (ROOT / "config" / "vault" / "policy.hcl").read_text()


async def role(vault: Vault, **options: Any) -> AppRole:
    """A way in with the policy that is shipped; `options` as of `Vault.approle`."""
    return await vault.approle(await vault.policy(POLICY, "sidecar"), **options)


def keys_in(vault: Vault, way: AppRole, *, url: str | None = None, **options: Any) -> dict[str, Any]:
    """The section `encryption`; `url`: of a proxy before the Vault."""
    approle = {"role_id": way.role_id, "secret_id": way.secret_id, "mount": way.mount}
    return {
        "use": "vault",
        "options": {"url": url or vault.url, "mount": vault.mount, "auth": {"approle": approle}, **options},
    }


async def made_once(vault: Vault, at_least: int) -> None:
    """Every key was made once, and there are as many as chats: one more only where an answer was lost on its way."""
    found = await vault.entries("sidecar/")
    assert len(found) >= at_least
    for path in found:
        told = await vault.read(f"{vault.mount}/metadata/{path}")
        assert told is not None
        assert told["data"]["current_version"] == 1, f"{path} was written again"


async def opens_everywhere(hosts: Hosts, writers: Sequence[Writer], **sections: Any) -> None:
    """A sidecar that has no key in memory opens all that was accepted: each value is sealed under a key that Vault has."""
    async with hosts(1, **sections) as (fresh,):
        for writer in writers:
            writer.urls = [fresh.url]
        await until(hosts.delivered, 30)
        await told(writers)
        assert await fresh.metric("sidecar_undecryptable_total") == 0
        fresh.spotless()


@asynccontextmanager
async def under_load(
    hosts: Hosts, vault: Vault, encryption: dict[str, Any], *, per_chat: Sequence[int] = (1,), **options: Any
) -> AsyncIterator[tuple[list[Host], list[Writer]]]:
    """Two sidecars, and six people who write while it is entered. Afterwards nothing accepted is lost, no key was made twice, and
    Vault has all of them.

    `per_chat`: after how many messages they begin a new chat, by turns; `options` as of `Writer`.
    """
    sections: dict[str, Any] = {"encryption": encryption, "drafts": AT_ONCE}
    async with hosts(2, **sections) as both:
        urls = [host.url for host in both]
        writers = [Writer(urls, f"w{n}", per_chat=per_chat[n % len(per_chat)], pause=0.1, **options) for n in range(6)]
        async with alive(writers):
            yield both, writers
        await stored(hosts, writers)
        for host in both:
            host.spotless()
    await made_once(vault, sum(len({chat for chat, _ in writer.accepted}) for writer in writers))
    await opens_everywhere(hosts, writers, **sections)


async def edited(device: Device, chat: str, text: str, base: int) -> dict[str, Any]:
    """The answer to an edit."""
    return await device.ask("draft_update", {"chatId": chat, "content": doc(text), "basedOnVersion": base})


def refused_for_now(answer: dict[str, Any]) -> bool:
    """Whether it says to try again: nothing was changed."""
    return bool(
        answer["type"] == "error"
        and answer["payload"]["code"] == "unavailable"
        and answer["payload"]["retryable"]
        and answer["payload"].get("retryAfterMs", 1) > 0
    )


async def drafts(device: Device) -> dict[str, Any]:
    """What a new device is told of each chat's draft."""
    return {chat_id: chat.get("draft") for chat_id, chat in chats_of(await device.sync()).items()}


async def goes_on(writers: Sequence[Writer], seconds: float = 30, more: int = 3) -> None:
    """Returns when each of them had so many more accepted."""
    marks = [len(writer.accepted) for writer in writers]
    await until(lambda: all(len(w.accepted) >= mark + more for w, mark in zip(writers, marks, strict=True)), seconds)


async def kept_waiting(writers: Sequence[Writer], seconds: float = 20) -> None:
    """Returns when each of them was told to send something again, and did: the fault happened."""
    marks = [writer.repeated for writer in writers]
    await until(lambda: all(w.repeated > mark for w, mark in zip(writers, marks, strict=True)), seconds)
