"""Calls of scripts that take several at once: which are one command, and whose answer is whose."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.exceptions import MovedError

from plugins.cache.redis_calls import NIL, Call, Redirected
from plugins.cache.redis_lane import Lane
from plugins.cache.redis_layout import Script
from tests.services.fake_wire import Server, ask, call, lane, parsed, refused, server
from tests.services.redis_proxy import ERRORS

__all__ = ["lane", "server"]

MANY = Script("many", b"return {}", b"m" * 40, many=True)


async def test_calls_of_a_script_for_many_are_one_command_each_with_its_answer(server: Server) -> None:
    """In their order, the common argument once; an error is that call's alone. In a cluster only those of one slot."""
    lane = Lane(server.connect, 1.0, apart=True)

    def one(text: bytes, *, shard: int = 0, common: bytes = b"s", asking: bool = False) -> Call:
        deadline = asyncio.get_running_loop().time() + 1.0
        return Call(MANY, (b"{%d}%b" % (shard, text), b"l"), (common, b"user", text), deadline, asking)

    full = parsed(ERRORS["OOM"])
    server.special = {
        b"c": [b"a's", full, None],  # told by the last argument
        b"d": [b"d's"],
        b"e": [b"e's"],
        b"f": [b"f's"],
        b"g": [b"g's"],
        b"h": [b"h's"],
        b"ASKING": b"OK",
    }
    calls = [one(b"a"), one(b"b"), one(b"c"), one(b"d", shard=1), one(b"e", common=b"t"), call(b"x")]
    calls += [one(b"f"), one(b"g", asking=True), one(b"h")]
    answers = await asyncio.gather(*(lane(each) for each in calls), return_exceptions=True)
    assert "maxmemory" in refused(answers.pop(1))
    assert answers == [b"a's", NIL, b"d's", b"e's", b"x", b"f's", b"g's", b"h's"]
    keys = [b"{0}a", b"l", b"{0}b", b"l", b"{0}c", b"l"]
    rest = [b"user", b"a", b"user", b"b", b"user", b"c"]
    assert server.commands[0] == [b"EVALSHA", MANY.sha, b"6", *keys, b"s", *rest]
    assert server.commands[1] == [b"EVALSHA", MANY.sha, b"2", b"{1}d", b"l", b"s", b"user", b"d"]
    assert [len(command) for command in server.commands[2:]] == [8, 5, 8, 1, 8, 8]


async def test_one_command_has_no_more_calls_than_redis_does_in_a_moment(server: Server, lane: Lane) -> None:
    deadline = asyncio.get_running_loop().time() + 1.0
    server.special[b"last"] = [b"%d" % number for number in range(32)]
    calls = [Call(MANY, (b"k",), (b"s", b"last"), deadline) for _ in range(64)]
    answers = await asyncio.gather(*(lane(each) for each in calls))
    assert answers == server.special[b"last"] * 2
    assert len(server.commands) == 2


async def test_a_script_for_many_that_is_refused_as_a_whole_refuses_each(server: Server, lane: Lane) -> None:
    deadline = asyncio.get_running_loop().time() + 1.0
    server.special[b"b"] = MovedError("1 127.0.0.1:7000")
    calls = [Call(MANY, (b"k",), (b"s", text), deadline) for text in (b"a", b"b")]
    first, second = await asyncio.gather(*(lane(each) for each in calls))
    assert isinstance(first, Redirected)
    assert isinstance(second, Redirected)


async def test_a_server_that_has_slots_after_all_gets_the_calls_of_each_by_themselves(
    server: Server, lane: Lane
) -> None:
    """As a proxy before a cluster does: it refuses what lies in several slots, and nobody notices."""
    deadline = asyncio.get_running_loop().time() + 1.0
    server.once[b"2"] = parsed("CROSSSLOT Keys in request don't hash to the same slot")
    server.special |= {b"1": [b"0's", b"1's"], b"2": [b"2's"], b"3": [b"3's"]}

    def calls() -> list[Call]:
        shards = {b"0": 7, b"1": 7, b"2": 8}
        return [Call(MANY, (b"{%d}k" % shard,), (b"s", text), deadline) for text, shard in shards.items()]

    assert await asyncio.gather(*(lane(each) for each in calls())) == [b"0's", b"1's", b"2's"]
    assert [len(command) for command in server.commands] == [10, 8, 6]
    assert await asyncio.gather(*(lane(each) for each in calls())) == [b"0's", b"1's", b"2's"]
    assert len(server.commands) == 5, "it is known by now"
    assert len(server.connections) == 1


async def test_what_cannot_be_sent_is_its_callers_error_and_the_lane_goes_on(server: Server, lane: Lane) -> None:
    await ask(lane, b"warm")
    bad = call(b"bad")
    bad.arguments = (cast("bytes", object()),)
    with pytest.raises(TypeError):
        await lane(bad)
    assert await ask(lane, b"a") == [b"a"]


@pytest.mark.parametrize("answer", [None, b"no array", 7, [b"one"], [b"one", b"two", b"three"]])
async def test_an_answer_for_another_number_of_calls_is_nobodys(server: Server, lane: Lane, answer: object) -> None:
    """It is asked for once more on another connection, and refused then."""
    await ask(lane, b"warm")
    deadline = asyncio.get_running_loop().time() + 1.0

    async def two() -> list[Any]:
        calls = [Call(MANY, (b"k",), (b"s", text), deadline) for text in (b"a", b"b")]
        return list(await asyncio.gather(*(lane(each) for each in calls), return_exceptions=True))

    server.once[b"b"] = answer
    server.special[b"b"] = [b"a's", b"b's"]
    assert await two() == [b"a's", b"b's"]
    server.special[b"b"] = answer
    assert all("not answered one by one" in refused(each) for each in await two())
