"""Sign-in, store and bootstrap together on one real Directus: what happens to a person there happens here (T47, S22 as far as sign-in goes)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from plugins.directus.account import READ_PEOPLE
from plugins.directus.bootstrap import bootstrap
from plugins.directus.options import DirectusOptions
from plugins.directus.plan import Needed
from plugins.directus.schema import Names, collections, permissions, relations
from tests.conftest import Serve
from tests.device import Device, doc
from tests.directus.conftest import SERVICE_TOKEN
from tests.directus.people import collections_gone_after, human
from tests.directus.test_sign_in import hears, refused
from tests.integration.world import AT_ONCE, key_count, say, settled, until
from tests.services.directus.server import ADMIN_TOKEN, DirectusServer

NAMES = Names(chats="whole_chats", messages="whole_messages", devices="whole_devices")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def whole(directus: DirectusServer) -> AsyncIterator[DirectusServer]:
    """The shared Directus, with collections of this module's own."""
    options = DirectusOptions.model_validate({"url": directus.url, "token": SERVICE_TOKEN})
    needed = Needed(collections(NAMES), relations(NAMES), [*permissions(NAMES), *READ_PEOPLE])
    await bootstrap(options, needed, dry_run=False, environment={"DIRECTUS_ADMIN_TOKEN": ADMIN_TOKEN})
    async with collections_gone_after(directus, NAMES.messages, NAMES.chats, NAMES.devices):
        yield directus


def sections(server: DirectusServer) -> dict[str, Any]:
    options = {"url": server.url, "token": SERVICE_TOKEN}
    persistence = {"use": "directus", "options": {**options, "collections": NAMES.model_dump()}}
    return {"auth": {"use": "directus", "options": options}, "persistence": persistence, "drafts": AT_ONCE}


async def rows(server: DirectusServer, user: str) -> dict[str, int]:
    """How many rows there are of a person, by collection."""
    found = {}
    for name in (NAMES.chats, NAMES.messages, NAMES.devices):
        found[name] = len(await server.ask("GET", f"/items/{name}?limit=-1&filter[hashed_user_id][_eq]={user}"))
    return found


@pytest.mark.caches("memory", "redis")
async def test_t47_deleting_a_person_in_directus_erases_everything_of_that_person_here(
    serve: Serve, whole: DirectusServer
) -> None:
    anna, bert = await human(whole, "Anna"), await human(whole, "Bert")
    async with serve(**sections(whole)) as server:
        tokens = [await anna.session_token(), await bert.session_token()]
        hers, his = [await Device(server.url, token=token).open() for token in tokens]
        await hears(server)
        for device in (hers, his):
            await device.sync()
            await say(device, "c1", "m1", doc("what nobody shall read"))
            answer = await device.ask("draft_update", {"tempChatId": "c2", "content": doc("x"), "basedOnVersion": 0})
            assert answer["type"] == "chat_initiated"
        await settled(server)
        assert await rows(whole, hers.user) == {NAMES.chats: 1, NAMES.messages: 1, NAMES.devices: 1}
        keys = key_count(server)
        await anna.delete()
        async with asyncio.timeout(2.0):
            assert await hers.closed() == 4401
        await refused(server, tokens[0])

        async def erased() -> bool:
            return not any((await rows(whole, hers.user)).values())

        await until(erased, 30)
        await until(lambda: key_count(server) == keys - 2, 30)
        # Bert notices nothing.
        assert (await his.ask("ping", {}))["type"] == "pong"
        assert await rows(whole, his.user) == {NAMES.chats: 1, NAMES.messages: 1, NAMES.devices: 1}
        for device in (hers, his):
            await device.close()


async def test_a_suspended_person_keeps_everything_and_finds_it_again(serve: Serve, whole: DirectusServer) -> None:
    anna = await human(whole)
    async with serve(**sections(whole)) as server:
        async with Device(server.url, token=await anna.session_token()) as device:
            await hears(server)
            await say(device, "c1", "m1", doc("it stays"))
            await settled(server)
            await anna.change(status="suspended")
            assert await device.closed() == 4401
        await anna.change(status="active")
        async with Device(server.url, token=await anna.session_token()) as device:
            frames = await device.sync()
            [chat] = [chat for frame in frames for chat in frame["chats"] if "messages" in chat]
            assert chat["messages"][0]["content"] == doc("it stays")
            assert chat["messages"][0]["status"] == "delivered"
