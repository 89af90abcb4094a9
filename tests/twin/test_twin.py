"""The script is the twin of `decide`: the same 100,000 random changes through the memory cache and through a real Redis.

Every answer is compared, and so is everything that can be read: chats, logs, what waits in the outbox, what is parked. Another
and longer play: `TWIN_CHANGES=1000000 TWIN_SEED=7 .venv/bin/pytest -n 2 tests/twin`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.cache.redis_layout import COMMITS, Script, numbered, script
from plugins.cache.redis_link import Link
from sidecar.ids import hash_user
from tests.invariants import broken
from tests.services.redis_server import RedisServer
from tests.twin.pair import Pair, memory_cache, redis_cache
from tests.twin.player import Player

CHANGES = int(os.environ.get("TWIN_CHANGES", "100000"))
SEED = int(os.environ.get("TWIN_SEED", "0"))
TESTS = 4
PERSONS = 25
"""Who play at the same time, each on a cache of their own."""


@pytest.mark.timeout(0 if "TWIN_CHANGES" in os.environ else 300)
@pytest.mark.parametrize("number", range(TESTS))
async def test_the_script_decides_as_the_rule_does(number: int, redis_server: RedisServer, tmp_path: Path) -> None:
    """S10, S14, S16, S17, S23, S28, S30, S67–S71: whatever the rule promises holds for the script."""
    each = CHANGES // TESTS // PERSONS
    async with Link(redis_server.url, cluster=False, timeout=30, pool=2) as link, redis_server.client() as client:

        async def one(person: int) -> int:
            user = hash_user(f"person {person}")
            pair = await Pair.begin(user, await memory_cache(tmp_path), redis_cache(link, f"twin-{number}-{person}"))
            player = Player(pair, user, seed=((SEED * TESTS) + number) * 1000 + person)
            await player.play(each)
            assert await broken(client, f"twin-{number}-{person}", natural=False) == []
            return player.played

        played = await asyncio.gather(*(one(person) for person in range(PERSONS)))
    assert sum(played) >= each * PERSONS


MUTATIONS = {
    "a version that does not rise": ("A[@version] = B[@version] + 1", "A[@version] = B[@version]"),
    "any base will do": ("if W[@w_base] < B[@version] or", "if false and W[@w_base] < B[@version] or"),
    "a tombstone that nobody looks at": ("if V.tombstone then return conflict", "if false then return conflict"),
    "a token that always holds": (
        "return CH[@ch_token] and later.holds_token(CH[@ch_token], CH[@ch_chat])",
        "return true",
    ),
    "a message that is sent twice": (
        "if place then return messages[place] end",
        "if false then return messages[place] end",
    ),
    "a quota that is never reached": ("if growth > 0 and", "if false and"),
    "a draft that a message leaves": ("return A, true, replaced", "return A, false, replaced"),
    "a repeat that is carried out again": ("if D then return D end\n  D = first_time(V)", "D = first_time(V)"),
    "an eviction of more than one": ("if surplus > 0 then", "if surplus > -1 then"),
    "entries that outlive their chat": ("{ deleted = true })\n", "{ deleted = true, message = true })\n"),
}
"""What the play must notice. Places in packed arrays have their names, as in the parts of the scripts."""


def _mutated(wanted: tuple[str, str]) -> Callable[[str], Script]:
    old, new = (numbered(text) for text in wanted)

    def changed(name: str) -> Script:
        made = script(name)
        text = made.text.decode()
        if not name.startswith("commit_") or old not in text:
            return made
        text = text.replace(old, new)
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
        return Script(name, text.encode(), sha, made.many)

    return changed


@pytest.mark.parametrize("name", MUTATIONS)
async def test_the_play_notices(
    name: str, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A play that notices nothing would be worth nothing."""
    old = numbered(MUTATIONS[name][0])
    assert any(old in script(each).text.decode() for each in set(COMMITS.values())), old
    monkeypatch.setattr("plugins.cache.redis_link.script", _mutated(MUTATIONS[name]))
    async with Link(redis_server.url, cluster=False, timeout=30, pool=2) as link:

        async def one(person: int) -> None:
            user = hash_user(f"person {person}")
            pair = await Pair.begin(user, await memory_cache(tmp_path), redis_cache(link, f"mutation-{person}"))
            await Player(pair, user, seed=person).play(600)

        told = await asyncio.gather(*(one(person) for person in range(20)), return_exceptions=True)
    assert any(isinstance(each, AssertionError) for each in told), told
