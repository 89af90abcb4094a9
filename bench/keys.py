"""(j) Keys in Vault: chats begun beside what the same Vault gives at most, edits beside `encryption.local`, a cold sync."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cores import Cores, cpu_meter, on_core
from bench.crowd import Crowd, Rounds
from bench.drafts import Drafts
from bench.editing import BenchFailed
from bench.figures import percentile, ratios, spread
from bench.first_sync import PERSON, Syncs, sync
from bench.link import Link
from bench.missing import Missing
from bench.pair import signed_in, type_and_code
from bench.plan import Plan
from bench.raw_vault import RawVault
from bench.seeding import seed
from bench.served import Served, ours
from bench.service import Service
from bench.table import Row
from bench.throughput import who
from plugins.encryption.vault import Vault
from tests.services.programs import Missing as NoProgram
from tests.services.vault.vault_server import VaultServer

Meter = Callable[[], float]
"""Seconds of CPU time used so far."""

_BEGUN = b'{"type":"chat_initiated"'
_OTHERWISE = (b'{"type":"error"', b'{"type":"draft_conflict"')
_LIMITS = {
    "frames_per_second": 100_000,
    "burst": 1_000_000,
    "connections_per_address": 100_000,
    "bytes_per_user": "1024MiB",
    "draft_chats_per_user": 100_000,
}


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (j)."""
    home = folder / "j"
    home.mkdir()
    async with AsyncExitStack() as stack:
        try:
            vault = await stack.enter_async_context(_started(home / "vault", cores))
        except NoProgram as missing:
            return [Row.left_out("j", "keys in Vault", Missing(str(missing)))]
        rows = []
        for people in plan.people:
            rows += await _begin(plan, home / f"first-{people}", cores, vault, people)
        rows += await _edit(plan, home, cores, vault)
        return rows + await _sync(plan, home, cores, vault)


@asynccontextmanager
async def _started(folder: Path, cores: Cores) -> AsyncIterator[VaultServer]:
    """A Vault that keeps its data on disk; not on the server's core, for it is to be the same Vault for both."""
    with on_core(cores.redis if cores.redis != cores.server else cores.generator):
        async with VaultServer(folder) as vault:
            yield vault


def _options(vault: VaultServer) -> dict[str, Any]:
    return {"url": vault.url, "mount": vault.mount, "auth": {"token": {"value": vault.root_token}}}


def _with_vault(folder: Path, cores: Cores, vault: VaultServer) -> Served:
    return ours(folder, cores.server, encryption={"use": "vault", "options": _options(vault)}, limits=_LIMITS)


# -- first drafts ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Firsts:
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    """Seconds of the sidecar's CPU time for each chat."""
    vault: list[float] = field(default_factory=list)
    """Seconds of Vault's for each key."""


class _Beginner:
    """A person who begins one chat after the other: a key for each draft."""

    def __init__(self, link: Link, drafts: Drafts) -> None:
        self._link = link
        self._drafts = drafts
        self._name = secrets.token_hex(6)
        self._count = 0

    async def begin(self, until: float, took: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            self._count += 1
            chat = b"%b-%d" % (self._name.encode(), self._count)
            self._link.send(self._drafts.update(b"op-" + chat, chat, self._count, 0, b"", new=True))
            answer = await self._link.next_frame(_BEGUN, *_OTHERWISE)
            if not answer.startswith(_BEGUN):
                raise BenchFailed(f"no chat began: {type_and_code(answer)}")
            took.append(time.perf_counter() - began)


async def _begin(plan: Plan, folder: Path, cores: Cores, vault: VaultServer, people: int) -> list[Row]:
    found, raw, drafts = _Firsts(), _Firsts(), Drafts()
    meter = cpu_meter(vault.pid)
    with _with_vault(folder, cores, vault) as served:
        links = [await signed_in(served.url, f"beginner-{number}") for number in range(people)]
        beginners = [_Beginner(link, drafts) for link in links]
        limit = await RawVault.open(vault.url, vault.root_token, vault.mount, people)
        try:

            async def ours_(seconds: float, into: _Firsts) -> None:
                await _firsts(beginners, seconds, into, served.cpu, meter)

            async def bare_(seconds: float, into: _Firsts) -> None:
                await _entries(limit, seconds, into, meter)

            for measured in (ours_, bare_):
                await measured(plan.seconds / 4, _Firsts())
            for number in range(plan.rounds):
                for measured, into in ((ours_, found), (bare_, raw))[:: 1 if number % 2 == 0 else -1]:
                    await measured(plan.seconds, into)
        finally:
            limit.close()
            await asyncio.gather(*(link.close() for link in links))
    goal = plan.goals.over_raw_vault if people == plan.goals.over_raw_vault_at else None
    times = [f"{spread([each * 1e3 for each in values]):.2f}" for values in (found.p50, found.p99)]
    return [
        Row.compared(
            "j",
            f"{who(people)}: chats begun per second, a key for each, beside entries made in the same Vault by a bare loop",
            found.rate,
            raw.rate,
            goal,
        ),
        Row("j", f"{who(people)}: p50 / p99 of beginning a chat, ms", " / ".join(times)),
        Row(
            "j",
            f"{who(people)}: CPU per chat begun, sidecar + Vault, beside Vault's per entry, µs",
            " + ".join(
                f"{spread([each * 1e6 for each in values]).middle:.0f}" for values in (found.server, found.vault)
            ),
            f"{spread([each * 1e6 for each in raw.vault]).middle:.0f}",
        ),
    ]


async def _firsts(beginners: Sequence[_Beginner], seconds: float, found: _Firsts, server: Meter, vault: Meter) -> None:
    used, kept = server(), vault()
    began, took = time.perf_counter(), list[float]()
    await asyncio.gather(*(each.begin(began + seconds, took) for each in beginners))
    found.rate.append(len(took) / (time.perf_counter() - began))
    found.server.append((server() - used) / len(took))
    found.vault.append((vault() - kept) / len(took))
    found.p50.append(percentile(took, 0.5))
    found.p99.append(percentile(took, 0.99))


async def _entries(limit: RawVault, seconds: float, found: _Firsts, vault: Meter) -> None:
    kept, began = vault(), time.perf_counter()
    rate = await limit.make(seconds)
    found.rate.append(rate)
    found.vault.append((vault() - kept) / (rate * (time.perf_counter() - began)))


# -- edits with the key in memory --------------------------------------------------------------------------------------


async def _edit(plan: Plan, home: Path, cores: Cores, vault: VaultServer) -> list[Row]:
    people, drafts = min(plan.goals.over_raw_vault_at, max(plan.people)), Drafts()
    found: dict[str, Rounds] = {"vault": Rounds(), "local": Rounds()}
    with (
        _with_vault(home / "edit-vault", cores, vault) as with_vault,
        ours(home / "edit-local", cores.server, limits=_LIMITS) as with_local,
    ):
        running = {"vault": with_vault, "local": with_local}
        async with AsyncExitStack() as stack:
            crowds = {
                kind: await stack.enter_async_context(Crowd.gathered(Service([served]), people, drafts))
                for kind, served in running.items()
            }
            for crowd in crowds.values():
                await crowd.edit(plan.seconds / 4, None)
            for number in range(plan.rounds):
                for kind in found if number % 2 == 0 else reversed(found):
                    await crowds[kind].edit(plan.seconds, found[kind])
    one, other = found["vault"], found["local"]
    return [
        Row.compared(
            "j",
            f"{who(people)}: drafts per second with the key in memory, beside encryption.local",
            one.rate,
            other.rate,
            plan.goals.over_local,
        ),
        Row.compared(
            "j",
            f"{who(people)}: server CPU per draft, µs, beside encryption.local",
            [each * 1e6 for each in one.cost],
            [each * 1e6 for each in other.cost],
        ),
    ]


# -- a cold sync -------------------------------------------------------------------------------------------------------


async def _sync(plan: Plan, home: Path, cores: Cores, vault: VaultServer) -> list[Row]:
    kinds = {"vault": home / "sync-vault", "local": home / "sync-local"}
    patient = Vault.Options.model_validate({**_options(vault), "timeout": "30s"})  # all are made at once
    async with Vault(patient) as keys:
        await seed(kinds["vault"] / "data", PERSON, plan.sync_chats, plan.sync_messages, drafts=True, keys=keys)
    await seed(kinds["local"] / "data", PERSON, plan.sync_chats, plan.sync_messages, drafts=True)
    found = {"vault": Syncs(), "local": Syncs()}
    for number in range(plan.syncs):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            starts = _with_vault(kinds[kind], cores, vault) if kind == "vault" else ours(kinds[kind], cores.server)
            with starts as served:
                await sync(served.url, plan.sync_chats, found[kind])
    what = f"cold sync of {plan.sync_chats} chats of {plan.sync_messages} messages"
    rows = []
    for name, values in (("first frame", "first"), ("total", "total")):
        one, other = getattr(found["vault"], values), getattr(found["local"], values)
        rows.append(
            Row(
                "j",
                f"{what}: {name}, ms, beside encryption.local",
                f"{spread([each * 1e3 for each in one]):.0f}",
                f"{spread([each * 1e3 for each in other]):.0f}",
                f"{ratios(one, other):.2f}",
            )
        )
    shares = [1 - local / vaults for vaults, local in zip(found["vault"].total, found["local"].total, strict=True)]
    rows.append(Row("j", f"{what}: share of the total that is Vault", f"{spread(shares):.0%}"))
    return rows
