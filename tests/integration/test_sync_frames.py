"""What stands in the frames of a sync: sizes, damaged rows, chats that are partly cached: S46, S47."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from sidecar import ChatId, UserHash
from sidecar.testing.frames import check as check_frame
from tests.conftest import Serve, WipeCache
from tests.device import Device, Frame, doc
from tests.integration.world import (
    AT_ONCE,
    FAST,
    cached,
    chats_of,
    devices,
    many_messages,
    rows,
    say,
    settled,
)

pytestmark = pytest.mark.caches("memory", "redis")


async def test_s46_a_corrupt_row_is_flagged_and_the_others_sync(
    serve: Serve, tmp_path: Path, wipe_cache: WipeCache
) -> None:
    """S46: a version that is null, a title that does not open, a message that is damaged."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        for chat in ("good", "title", "version", "message"):
            await say(one, chat, "m1", doc(chat))
            await one.ask("title_update", {"chatId": chat, "title": f"title of {chat}", "basedOnVersion": 0})
            await one.ask("draft_update", {"chatId": chat, "content": doc(f"draft of {chat}"), "basedOnVersion": 0})
        await settled(server)
        full = one.full
    rows(tmp_path, "UPDATE chats SET title = X'00112233' WHERE id = ?", full("title"))
    rows(tmp_path, "UPDATE chats SET version = NULL WHERE id = ?", full("version"))
    rows(tmp_path, "UPDATE messages SET content = X'00' WHERE chat_id = ?", full("message"))
    await wipe_cache()
    async with serve(drafts=AT_ONCE) as server, Device(server.url) as one:
        frames = await one.sync()
        assert frames[-1]["complete"] is True
        chats = chats_of(frames)
        assert set(chats) == {full(chat) for chat in ("good", "title", "version", "message")}
        good = chats[full("good")]
        assert (good["draft"], good["title"], good["undecryptable"]) == (doc("draft of good"), "title of good", [])
        bad = {
            chat["id"]: frozenset(
                field
                for frame in frames
                for each in frame["chats"]
                if each["id"] == chat["id"]
                for field in each["undecryptable"]
            )
            for chat in chats.values()
        }
        message = chats[full("message")]["messages"][0]
        assert message["content"] is None
        assert bad == {
            full("good"): frozenset(),
            full("title"): {"title"},
            full("version"): {"draft"},
            full("message"): {message["id"]},
        }
        assert (chats[full("title")]["title"], chats[full("title")]["draft"]) == (None, doc("draft of title"))


async def test_s47_what_is_partly_gone_from_the_cache_syncs_as_from_the_store(serve: Serve) -> None:
    """S47: half of the chats were dropped: the same answer, and no null in the place of a text."""
    async with serve(limits=FAST, drafts=AT_ONCE, chats={"active": 50}) as server, devices(server, 1) as (one,):
        await many_messages(one, range(12))
        for number in range(12):
            await one.ask("draft_update", {"chatId": f"c{number}", "content": doc(f"d{number}"), "basedOnVersion": 0})
            await one.ask("title_update", {"chatId": f"c{number}", "title": f"t{number}", "basedOnVersion": 0})
        await settled(server)
        whole = chats_of(await one.sync())
        half = [ChatId(one.full(f"c{number}")) for number in range(0, 12, 2)]
        await server.context.parts.cache.chats.drop(UserHash(one.user), half)
        assert await cached(server, half[0]) is None
        assert await cached(server, one.full("c1")) is not None
        assert chats_of(await one.sync()) == whole
        assert all(chat["draft"] is not None and chat["title"] is not None for chat in whole.values())


async def test_no_frame_is_larger_than_the_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Semantics §6: with the largest drafts and messages; messages are cut to fit and say that there are more."""
    limit = 96 * 1024
    sizes: list[tuple[str, int]] = []

    def measuring(frame: Frame) -> None:
        sizes.append((frame["type"], len(orjson.dumps(frame))))
        check_frame(frame)

    monkeypatch.setattr("tests.device.check", measuring)
    large = {"drafts": {"max_bytes": "32KiB", **AT_ONCE}, "messages": {"max_bytes": "32KiB"}}
    async with serve(limits=FAST, sync={"max_frame": "96KiB", "recent": 4}, **large) as server:
        async with devices(server, 1) as (one,):
            cursor = (await one.sync())[-1]["cursor"]
            big = doc("ü" * 16_300)
            for chat in range(6):
                for message in range(4):
                    await say(one, f"c{chat}", f"m{message}", big)
                await one.ask("draft_update", {"chatId": f"c{chat}", "content": big, "basedOnVersion": 0})
                await one.ask("title_update", {"chatId": f"c{chat}", "title": '"' * 500, "basedOnVersion": 0})
            for message in range(240):
                await say(one, "small", f"{message:064d}", doc("x" * 150))
            await settled(server)
            sizes.clear()
            runs = [await one.sync(), await one.sync(lastOpenChatId="c0"), await one.sync(cursor=cursor)]
            runs.append(await one.sync(lastOpenChatId="small"))
            for frames in runs:
                assert frames[-1]["complete"] is True
                chats = chats_of(frames)
                assert len(chats) == 7
                assert all(chat["draft"] == big for chat_id, chat in chats.items() if not chat_id.endswith("small"))
            recent = chats_of(runs[0])[one.full("c5")]
            assert (len(recent["messages"]), recent["has_more_messages"]) == (2, True)
            assert [m["sequence"] for m in recent["messages"]] == [3, 4]
            open_one = chats_of(runs[3])[one.full("small")]
            assert len(open_one["messages"]) < 240
            assert open_one["has_more_messages"] is True
            page = (await one.ask("messages_request", {"chatId": "c0", "limit": 10}))["payload"]
            assert ([m["sequence"] for m in page["messages"]], page["hasMore"]) == ([3, 4], True)
            page = (await one.ask("messages_request", {"chatId": "small", "limit": 200}))["payload"]
            assert page["hasMore"] is True
            many = (await one.ask("chats_request", {"ids": [f"c{chat}" for chat in range(6)]}))["payload"]
            assert (len(many["chats"]), many["hasMore"]) == (2, True)
        largest = max(size for _, size in sizes)
        assert largest <= limit, sorted(sizes, key=lambda each: each[1])[-3:]
        assert largest > limit * 2 // 3  # and the room is used
