from __future__ import annotations

from sidecar.server.running import Server
from tests.device import Device, doc


async def test_two_devices(server: Server) -> None:
    async with Device(server.url) as one, Device(server.url) as two:
        print(await one.sync())
        await two.sync()
        a = await one.ask("draft_update", {"tempChatId": "c1", "content": doc("hi"), "basedOnVersion": 0})
        print(a)
        assert a["type"] == "chat_initiated"
        print(await two.event("chat_added"))
        a = await one.ask("draft_update", {"chatId": "c1", "content": doc("hi 2"), "basedOnVersion": 1})
        assert a["type"] == "draft_updated"
        print(await two.event("draft_updated"))
        a = await two.ask("draft_update", {"chatId": "c1", "content": doc("no"), "basedOnVersion": 1})
        assert a["type"] == "draft_conflict"
        a = await two.ask(
            "message_send", {"chatId": "c1", "clientMessageId": "m1", "content": doc("hi 2"), "draftVersion": 2}
        )
        print(a)
        print(await one.event("draft_updated"), await one.event("message_new"), await one.event("message_update"))
        print(await two.event("message_update"))
        print(await one.sync())
