"""What must hold of the keys of `cache.redis`, whatever befell it: counted anew, and compared with what is kept.

`assert await broken(client, "sidecar") == []`. Every line says which person or shard, and what of it does not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redis.asyncio import Redis

from tests.invariants.outbox import check_outbox, outbox_of
from tests.invariants.person import Person
from tests.invariants.reading import everything, text

_OF_A_PERSON = frozenset({"person", "log", "outcomes", "tokens", "lru", "ends"})


async def broken(client: Redis, prefix: str = "sidecar", *, natural: bool = True) -> list[str]:
    """What does not fit together on this server; nobody may write meanwhile. Empty: all is well.

    `natural=False` asks only what must hold after changes that no sidecar would make.
    """
    found = await everything(client, prefix)
    shards: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        shard, _, rest = name.partition("}:")
        if rest:
            shards.setdefault(shard.partition("{")[2], {})[rest] = value
    return [f"{shard}: {line}" for shard, keys in sorted(shards.items()) for line in _shard(keys, natural)]


def _shard(keys: Mapping[str, Any], natural: bool) -> Iterator[str]:
    outbox = outbox_of(keys)
    yield from check_outbox(keys.get("outbox", {}), outbox)
    persons = {name.partition(":")[2]: value for name, value in keys.items() if name.startswith("person:")}
    for name in keys:
        kind, _, user = name.partition(":")
        if kind in _OF_A_PERSON and user not in persons:
            yield f"{name} without a person"
    chats: set[str] = set()
    for user, fields in persons.items():
        person = Person(user, fields, keys, outbox)
        yield from (f"{user[:8]}: {line}" for line in person.check(natural))
        chats.update(f"{user}:{chat}" for chat in person.chats)
    for member in keys.get("due", {}):
        if text(member) not in chats:
            yield f"due, and not here: {text(member)}"
