"""Looks at the ends of logs, while notices come as well (S55; semantics §6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.device import doc
from tests.fleet.fleet import Fleet, notices_of
from tests.fleet.test_fan_out import alice_on
from tests.integration.world import NEVER, begin

CHANGES = 3


async def test_s55_a_notice_that_overtakes_the_answer_to_a_look_is_told_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S55: the look saw the log before the change, and its answer comes after the notice: nobody waits for the next look."""
    monkeypatch.setattr("plugins.cache.redis_notices.LOOK_SECONDS", 0.1)
    async with fleet.serving(2, drafts=NEVER) as (one, other), alice_on(one, other) as (here, there):
        notices = notices_of(other)
        link, tell = notices._link, notices._told
        run = link.run
        answered: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        """Looks that Redis has answered, and that are not told yet."""

        async def held(name: str, *arguments: Any, **more: Any) -> Any:
            answer = await run(name, *arguments, **more)
            if name == "look":
                under_way: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                answered.put_nowait(under_way)
                await under_way
            return answer

        await begin(here, "c1", doc("1"))
        await there.event("chat_added")
        monkeypatch.setattr(link, "run", held)
        for version in range(CHANGES):
            look = await answered.get()

            def overtaking(data: bytes, look: asyncio.Future[None] = look) -> None:
                # In the same round of the loop: the look goes on before anybody has heard of the notice.
                look.set_result(None)
                tell(data)

            monkeypatch.setattr(notices, "_told", overtaking)
            titled = {"chatId": "c1", "title": f"{version}", "basedOnVersion": version}
            assert (await here.ask("title_update", titled))["type"] == "title_updated"
            # Whatever look comes next is held: only the notice can bring this.
            told = await there.event("title_updated", lambda event: event["titleVersion"] == version + 1)  # noqa: B023
            assert told["title"] == f"{version}"
            assert look.done(), "it was the notice that told it"
