"""Notices from a real Flow of Directus, signed by the script that ships (T42, F33)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.device import Device, doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.integration.world import settled

_SECRET = "a secret of the Flow and the sidecar, with an ü in it"
_SCRIPT = Path(__file__).parents[2] / "config" / "directus_flow.js"


async def make_flow(directus: Prepared, url: str, collections: Sequence[str]) -> None:
    """As docs/directus.md says."""
    ask = directus.server.ask
    options: dict[str, Any] = {
        "type": "action",
        "scope": ["items.update", "items.delete"],
        "collections": list(collections),
    }
    flow = await ask("POST", "/flows", {"name": "sidecar", "status": "active", "trigger": "event", "options": options})
    headers = [
        {"header": "X-Sidecar-Time", "value": "{{sign.time}}"},
        {"header": "X-Sidecar-Signature", "value": "{{sign.signature}}"},
    ]
    told = {"url": f"{url}/v1/hooks/persistence", "method": "POST", "headers": headers, "body": "{{sign.body}}"}
    place = {"flow": flow["id"], "position_y": 1}
    send = await ask(
        "POST", "/operations", {**place, "key": "send", "type": "request", "options": told, "position_x": 40}
    )
    code = {"code": _SCRIPT.read_text(encoding="utf-8")}
    sign = await ask(
        "POST",
        "/operations",
        {**place, "key": "sign", "type": "exec", "options": code, "position_x": 20, "resolve": send["id"]},
    )
    await ask("PATCH", f"/flows/{flow['id']}", {"operation": sign["id"]})


@pytest.mark.timeout(180)
async def test_t42_f33_a_flow_tells_of_edits_and_deletions_and_not_of_our_own_writes(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    own = await start_prepared(
        FLOWS_ENV_ALLOW_LIST="SIDECAR_NOTICE_SECRET,SIDECAR_SERVICE_USER",
        SIDECAR_NOTICE_SECRET=_SECRET,
        IMPORT_IP_DENY_LIST="169.254.169.254",  # its default forbids this machine's own addresses too
    )
    me = await own.server.ask("GET", "/users/me", token=own.token)
    await own.server.restart(SIDECAR_SERVICE_USER=me["id"])
    person = somebody()
    options = {"changes": "notices", "notice_secret": _SECRET}
    async with serve_on(own, options=options) as server, Device(server.url, person, wait=20) as device:
        await make_flow(own, server.url, [own.names.chats, own.names.messages])
        await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("one")})
        await device.ask("title_update", {"chatId": "one", "title": "A title", "basedOnVersion": 0})
        await settled(server)
        await asyncio.sleep(1.0)
        assert [event for event in device.events if event["type"] == "chat_restored"] == []
        assert plugin_of(server).state()["notices"] == 0
        await own.edit("chats", key_of(person, "one"), title=None)
        assert (await device.event("chat_restored"))["chat"]["title_version"] == 2
        await settled(server)
        await own.delete("chats", key_of(person, "one"))
        assert (await device.event("chat_deleted"))["chatId"] == device.full("one")
        assert plugin_of(server).state()["notices"] == 2
