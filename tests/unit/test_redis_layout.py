"""The scripts of the Redis cache: all compile, use what the docs say and no more, and touch no key that is not declared."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr
from redis.exceptions import NoPermissionError

from plugins.cache.redis import Redis
from plugins.cache.redis_layout import _PARTS, COMMITS, Keys, script
from plugins.cache.redis_sweep import sweep_once
from sidecar import Surroundings, UserHash
from sidecar.ids import hash_user
from sidecar.slots.cache import Cache
from sidecar.testing.cache_writer import Writer, settle_all, worker
from tests.integration.world import until
from tests.services.fixtures import StartRedis
from tests.services.redis_server import RedisServer
from tests.twin.pair import Pair, memory_cache
from tests.twin.player import Player

ROOT = Path(__file__).parents[2]
LUA = ROOT / "plugins" / "cache" / "lua"
_CALLED = re.compile(r"\b(?:call|pcall|keep_reading)\(\s*(\S+?)[,)]")
"""The first argument of whatever runs a command."""


def commands() -> set[str]:
    """The commands that the scripts run."""
    found = {argument for path in LUA.glob("*.lua") for argument in _CALLED.findall(path.read_text())}
    found -= {"...", "commit"}  # of `keep_reading` itself; a change, whose error is its own
    assert all(re.fullmatch(r"'[A-Z]+'", argument) for argument in found), found
    return {argument.strip("'") for argument in found}


def test_the_docs_list_the_commands_that_are_used() -> None:
    docs = (ROOT / "docs" / "redis.md").read_text()
    section = docs.split("### Commands that are used\n", 1)[1].split("\n#", 1)[0]
    listed = re.search(r"Within the scripts: (.*?);", section, re.DOTALL)
    assert listed is not None
    assert sorted(re.findall(r"`([A-Z]+)`", listed[1])) == sorted(commands())


def test_the_docs_name_every_key() -> None:
    docs = (ROOT / "docs" / "redis.md").read_text()
    section = docs.split("\n## Keys\n", 1)[1].split("\n## ", 1)[0]
    keys = Keys("sidecar", 1)
    every = (*keys.person_and_outbox("nobody"), *keys.outbox(0), keys.lease("caps")[1][0])
    names = {key.decode().removeprefix("sidecar:{0}:").partition(":")[0] for key in every}
    assert sorted(set(re.findall(r"(?:\{n\}|…):([a-z]+)", section))) == sorted(names)


def test_what_is_a_persons_lies_with_the_person() -> None:
    """Leases too: who lies on one node of a cluster needs no other."""
    keys, user = Keys("sidecar", 64), hash_user("alice")
    shard = keys.shard_of(user)
    for lease in (f"connections:{user}", f"device:{user}:one", f"device:{user}:another"):
        assert keys.lease(lease)[0] == shard
        assert all(f"{{{shard}}}".encode() in key for key in keys.lease(lease)[1])
    assert keys.lease("outbox:7")[0] == 7
    assert {keys.lease(f"device:{number}")[0] for number in range(500)} == set(range(64))


async def test_nothing_newer_than_redis_7_0_is_used(redis_server: RedisServer) -> None:
    """And none of what a Cluster, Dragonfly or Valkey has not got, or has otherwise."""
    used = commands()
    assert used.isdisjoint({"WATCH", "FCALL", "FUNCTION", "KEYS", "SCAN", "HEXPIRE", "HPEXPIRE", "OBJECT", "CONFIG"})
    async with redis_server.client(decode_responses=True) as redis:
        docs = cast("dict[str, Any]", await redis.execute_command("COMMAND DOCS", *sorted(used)))  # type: ignore[no-untyped-call]
    assert {name.upper() for name in docs} == used
    for name, told in docs.items():
        assert tuple(map(int, told["since"].split("."))) < (7, 0, 1), name


async def test_every_script_compiles(redis_server: RedisServer) -> None:
    """By the name that EVALSHA has for it; with a number for every name of a place."""
    async with redis_server.client() as redis:
        for name in _PARTS:
            made = script(name)
            assert await redis.script_load(made.text.decode()) == made.sha.decode(), name
            assert b"@" not in re.sub(rb"--.*|'[^']*'", b"", made.text), name
    assert set(COMMITS.values()) <= set(_PARTS)


async def test_the_user_that_the_docs_name_may_do_all_that_is_needed(start_redis: StartRedis, tmp_path: Path) -> None:
    """And not what the sidecar has no business with."""
    server = await start_redis()
    docs = (ROOT / "docs" / "redis.md").read_text()
    rights = re.search(r"`ACL SETUSER sidecar on >password (.*?)`", docs, re.DOTALL)
    assert rights is not None
    await server.cli("ACL", "SETUSER", "sidecar", "on", ">password", *rights[1].split())
    url = f"redis://sidecar:password@{server.host}:{server.port}"
    plugin = Redis(Redis.Options(url=SecretStr(url), shards=1), Surroundings(tmp_path, "127.0.0.1"))
    async with plugin:
        cache = await plugin.provide_cache()
        pair = await Pair.begin(hash_user("player"), await memory_cache(tmp_path), cache)
        await _everything(cache, plugin, pair)
        assert not [finding for finding in await plugin.findings() if finding.severity == "error"]
        await until(lambda: plugin._notices.subscribed)
        log = await server.cli("ACL", "LOG")
        assert log == []
        client = server.client(username="sidecar", password="password")
        async with client:
            for forbidden in (("FLUSHALL",), ("SET", "other:key", "1"), ("CONFIG", "SET", "save", "")):
                with pytest.raises(NoPermissionError):
                    await client.execute_command(*forbidden)  # type: ignore[no-untyped-call]


# -- the keys ----------------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """What MONITOR told of one run of a script."""

    name: str
    declared: set[str]
    touched: set[str] = field(default_factory=set)


_WORDS = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _runs(lines: list[str], names: dict[str, str]) -> Iterator[Watched]:
    run: Watched | None = None
    for line in lines:
        words = _WORDS.findall(line)
        if " lua]" in line:
            assert run is not None
            run.touched |= set(_keys_of(words))
        elif words and words[0].upper() in ("EVALSHA", "EVAL"):
            if run is not None:
                yield run
            # The text of a script is not taken apart: it comes once, and by its hash from then on.
            run = Watched(names.get(words[1], ""), set(words[3 : 3 + int(words[2])]))
    if run is not None:
        yield run


def _keys_of(words: list[str]) -> list[str]:
    match words[0].upper():
        case "TIME" | "PUBLISH":
            return []
        case "DEL" | "UNLINK" | "EXISTS":
            return words[1:]
        case "ZUNIONSTORE":
            return [words[1], *words[3 : 3 + int(words[2])]]
        case _:
            return [words[1]]


async def _everything(cache: Cache, plugin: Redis, pair: Pair) -> None:
    """Every script, through each of its ways as far as a play of 600 changes goes."""
    await Player(pair, pair.user, seed=1).play(600)
    alice = Writer(cache)
    await cache.outbox.join(["persistence"])
    cache.chats.follow(alice.user)
    await alice.draft("a", chat="draft")
    await alice.send("m1")
    await alice.title("t")
    shard = await worker(cache, "twin")
    await cache.outbox.hurry(alice.user)
    await cache.outbox.hurry()
    entries = await cache.outbox.pending(shard, "persistence", 100)
    await cache.outbox.settle(shard, "persistence", [], [entries[0].id], [])
    await cache.outbox.settle(shard, "persistence", [], [], [entries[0].id])
    parked = await cache.outbox.parked("persistence")
    await cache.outbox.parked(
        "persistence", replay=[each.id for each in parked[:1]], drop=[each.id for each in parked[1:]]
    )
    await settle_all(cache, shard, "persistence")
    await alice.stored()
    await alice.delete("draft")
    await cache.outbox.positions()
    await cache.outbox.forget("persistence")
    await cache.leases.held("caps")
    await cache.leases.leave(shard)
    await plugin._chats.here(alice.user, None, 10)
    plugin._settings.skew += 40 * 86_400
    await sweep_once(plugin._link, plugin._settings, plugin._chats)
    await alice.draft("b", chat="another")
    plugin._settings.skew += 90 * 86_400
    await sweep_once(plugin._link, plugin._settings, plugin._chats)
    await cache.chats.drop(alice.user, None)
    await plugin._notices._look_at(plugin._tails.followed)
    cache.chats.unfollow(alice.user)
    await plugin._notices._absent([UserHash(alice.user)])


async def test_no_script_touches_a_key_that_is_not_declared(redis_server: RedisServer, tmp_path: Path) -> None:
    """What runs on one server would fail on a Cluster, which sends a script to where its keys are. MONITOR tells what is run."""
    names = {script(name).sha.decode(): name for name in _PARTS}
    options = Redis.Options(url=SecretStr(redis_server.url), shards=1, pool=2)
    plugin = Redis(options, Surroundings(tmp_path, "127.0.0.1"))
    lines: list[str] = []
    async with redis_server.client() as redis:
        for name in _PARTS:  # so that they come by their hash
            await redis.script_load(script(name).text.decode())
        reader, writer = await asyncio.open_connection(redis_server.host, redis_server.port, limit=1 << 24)
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        async with plugin:
            cache = await plugin.provide_cache()
            pair = await Pair.begin(hash_user("player"), await memory_cache(tmp_path), cache)
            await _everything(cache, plugin, pair)
        await redis.set("the end", "")
        while b'"the end"' not in (line := await reader.readline()):
            lines.append(line.decode("latin-1"))
        writer.close()
        await writer.wait_closed()
    runs = list(_runs(lines, names))
    assert {run.name for run in runs} == set(_PARTS)
    for run in runs:
        assert run.touched <= run.declared, (run.name, run.touched - run.declared)
    [slot] = {re.sub(r"^.*\{(.*)\}.*$", r"\1", key) for run in runs for key in run.declared if "{" in key}
    assert slot == "0"
