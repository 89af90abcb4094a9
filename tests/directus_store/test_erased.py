"""A person whom somebody deletes in Directus is erased here: sign-in and store on the same Directus (T47)."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.ids import hash_user
from tests.device import Device, doc
from tests.directus_store.conftest import ServeOn
from tests.directus_store.world import Prepared, plugin_of, somebody
from tests.integration.world import key_count, settled, until


@pytest.mark.timeout(120)
async def test_t47_deleting_a_user_in_directus_erases_everything_of_that_person(
    directus: Prepared, serve_on: ServeOn
) -> None:
    name = somebody()
    email, password = f"{name}@example.com", "a long enough password"
    user = await directus.server.ask("POST", "/users", {"email": email, "password": password, "status": "active"})
    auth = {"use": "directus", "options": {"url": directus.server.url, "token": directus.token}}
    async with serve_on(directus, auth=auth) as server:
        await until(lambda: bool(plugin_of(server).state()["listening"]))
        token = (await directus.server.log_in(email, password))["access_token"]
        async with Device(server.url, token=token, wait=20) as device:
            assert device.user == hash_user(user["id"])
            for chat in ("one", "two"):
                await device.ask("message_send", {"tempChatId": chat, "clientMessageId": "m", "content": doc(chat)})
                await device.ask("draft_update", {"chatId": chat, "content": doc("draft"), "basedOnVersion": 0})
            await device.ask("draft_update", {"tempChatId": "three", "content": doc("only here"), "basedOnVersion": 0})
            await settled(server)
            keys = key_count(server)
            assert len(await directus.rows("chats", user["id"])) == 2
            await directus.server.ask("DELETE", f"/users/{user['id']}")
            assert await device.closed() == 4401
        for kind in ("chats", "messages", "devices"):

            async def gone(kind: str = kind) -> bool:
                return await directus.rows(kind, user["id"]) == []

            await until(gone)
        await until(lambda: key_count(server) == keys - 3)
        answer = await Device(server.url, token=token).connect()
        refused = await answer.sign_in()
        assert refused["payload"]["code"] == "unauthenticated", "the token is good until it expires; its person is not"
        await answer.close()
        await asyncio.sleep(1.5)
        assert key_count(server) == keys - 3, "reports of it made no key again"
