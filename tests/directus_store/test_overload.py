"""Directus slow, overloaded, limited, forgetful: it is left alone, and nothing is written twice (F26–F28)."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from sidecar.ids import ChatId, hash_user, message_id_of
from tests.device import doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.crowd import FULL, LOOK, all_stored, crowd, in_order, nothing_parked, say, talking, tells
from tests.directus_store.world import Prepared, key_of, somebody
from tests.integration.world import settled, until
from tests.services.directus.front import DirectusFront

_SECONDS = 120 if FULL else 10
"""Under pressure."""
_LOST = 1000 if FULL else 40
"""Answers."""


@pytest.mark.timeout(180)
async def test_f26_a_slow_directus_holds_up_no_draft_and_parks_nothing(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F26: calls end at their deadline, no more than sixteen wait, and what was carried out all the same is not done twice."""
    people = [somebody() for _ in range(8)]
    async with serve_on(directus, front.url, LOOK) as server, talking(server, people) as devices:
        slow = front.delay(5.0)
        await asyncio.gather(*(say(device, "one", *range(1, 6)) for device in devices))
        for version in range(20):
            base = {"chatId": "one", "content": doc(f"{version}"), "basedOnVersion": version}
            async with asyncio.timeout(4):
                assert (await devices[0].ask("draft_update", base))["type"] == "draft_updated"
        await until(lambda: slow.happened >= 4, 60)
        front.clear()
        await settled(server, 60)
        assert front.most_at_once <= 16
        assert await in_order(directus, people) == 48
        await nothing_parked(server)


@pytest.mark.timeout(300)
async def test_f27_under_pressure_directus_is_left_alone(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """F27: it says 503 without a word of when to come again; calls are no more than there is to be written, and all is stored afterwards."""
    people = [somebody() for _ in range(6)]
    async with serve_on(directus, front.url, LOOK) as server, talking(server, people) as devices:
        busy = front.refuse(503, "SERVICE_UNAVAILABLE", 10**6, reason="Under pressure")
        for number in range(1, _SECONDS + 1):
            await asyncio.gather(*(say(device, "one", number) for device in devices))
            await asyncio.sleep(1)
        sent = 6 * _SECONDS
        assert 3 <= busy.happened <= 1.1 * sent, "and a look every second, too"
        print(f"{busy.happened} calls in {_SECONDS} s, while {sent} messages came")
        await nothing_parked(server)
        front.clear()
        await all_stored(server, directus, people, sent + 6)


@pytest.mark.timeout(240)
async def test_f27_a_rate_limit_is_kept_to(start_prepared: StartPrepared, serve_on: ServeOn) -> None:
    """F27: the limit counts the sidecar's address, all people together; its `Retry-After` is 0, its `reset` is right."""
    own = await start_prepared()
    await own.server.restart(RATE_LIMITER_ENABLED="true", RATE_LIMITER_POINTS="15", RATE_LIMITER_DURATION="3")
    await asyncio.sleep(3)
    people = [somebody() for _ in range(4)]
    async with DirectusFront(own.server.url) as front, serve_on(own, front.url, LOOK) as server:
        async with crowd(server, people[:1]) as devices:
            await say(devices[0], "one", *range(40))
            await settled(server, 120)
        assert front.answered[429] > 0
        assert front.answered[429] < front.answered[200], "what is limited waits, and does not ask again at once"
        await asyncio.sleep(4)
        assert await in_order(own, people) == 40
        await nothing_parked(server)


@pytest.mark.timeout(3600 if FULL else 180)
async def test_f28_answers_lost_after_the_write_make_no_row_twice(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F28: each message's first write is carried out and its answer lost; one row each afterwards, and one of each chat of ten."""
    monkeypatch.setattr("random.uniform", lambda _low, high: high / 1000)  # the pauses, which grow with each
    people = [somebody() for _ in range(2)]
    writes = 0

    def every_other(method: str, path: str) -> bool:
        nonlocal writes
        write = method == "POST" and directus.names.messages in path
        writes += write
        return write and writes % 2 == 1

    async with serve_on(directus, front.url, LOOK) as server, crowd(server, people) as devices:
        lost = front.swallow(_LOST, of=every_other)
        number = 0
        while lost.happened < _LOST:
            device = devices[number % 2]
            chat, place = divmod(number // 2, 10)
            [sent] = await say(device, f"c{chat}", place)
            assert (await device.event("message_update"))["messageId"] == sent
            number += 1
        print(f"{lost.happened} answers lost of {writes} writes of {number} messages")
        assert number >= 0.9 * _LOST
        await all_stored(server, directus, people, number)


@pytest.mark.parametrize("whose", ["another chat's", "another person's"])
async def test_f28_a_row_of_somebody_else_under_our_id_is_not_taken_for_ours(
    directus: Prepared, serve_on: ServeOn, whose: str
) -> None:
    """F28: the message is parked and its text kept, the row stays as it is, and what others write is stored."""
    person, other = somebody(), somebody()
    async with serve_on(directus, options=LOOK) as server, crowd(server, [person, other]) as [device, bystander]:
        await say(device, "one", 0)
        await say(bystander, "one", 0)
        await settled(server)
        [theirs] = await directus.rows("messages", other)
        key, full = key_of(person, "one"), ChatId(device.full("one"))
        taken = message_id_of(full, "one-1")
        made = {**theirs, "message_id": taken, "id": f"{key}_{taken}"}
        if whose == "another chat's":
            made["id"] = f"{theirs['chat_id']}_{taken}"
        await directus.server.ask("POST", f"/items/{directus.names.messages}", made)
        [mine] = await say(device, "one", 1)
        assert mine == taken
        assert (await device.event("message_update", partial(tells, mine, "error")))["status"] == "error"
        await say(bystander, "one", 2)
        await bystander.event("message_update", lambda each: bool(each["status"] == "delivered"))
        assert len(await server.context.parts.cache.outbox.parked("persistence")) == 1
        [row] = await directus.rows("messages", filter={"id": {"_eq": made["id"]}})
        assert (row["content"], row["hashed_user_id"]) == (theirs["content"], hash_user(other)), (
            "nothing is overwritten"
        )
        frames = await device.sync()
        [messages] = [chat["messages"] for frame in frames for chat in frame["chats"] if chat.get("messages")][:1]
        assert messages[-1]["content"] == doc("hello 1"), "the text is kept"
