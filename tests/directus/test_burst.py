"""Everybody comes back at once, to a sidecar that knows nobody any more: how often a real Directus is asked (issue 6, points 4 and 9)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from plugins.auth.directus_tokens import mint
from tests.conftest import Serve, WipeCache
from tests.device import Device
from tests.directus.people import collections_gone_after, many
from tests.directus.test_sign_in import look_now
from tests.integration.world import FAST, until
from tests.services.directus.front import DirectusFront
from tests.services.directus.server import SECRET, DirectusServer
from tests.services.directus.sidecars import names_of, prepare

NAMES = names_of("burst")
PEOPLE = 120
PER_SECOND = 20


@dataclass
class Place:
    """A Directus, the front that counts its calls, and the sidecar's account on it."""

    server: DirectusServer
    front: DirectusFront
    token: str

    def sections(self, **auth: Any) -> dict[str, Any]:
        options = {"url": self.front.url, "token": self.token}
        persistence = {**options, "collections": NAMES.model_dump(), "changes": "notices"}
        return {
            "auth": {"use": "directus", "options": {**options, **auth}},
            "persistence": {"use": "directus", "options": persistence},
            "limits": FAST,
        }


@pytest.fixture
async def place(directus: DirectusServer) -> AsyncIterator[Place]:
    async with collections_gone_after(directus, NAMES.messages, NAMES.chats, NAMES.devices):
        token = await prepare(directus, NAMES)
        async with DirectusFront(directus.url) as front:
            yield Place(directus, front, token)


async def come(device: Device, server_url: str) -> int:
    """Until it is let in, or refused for good; how often it was told to come later."""
    device.url, told = server_url, 0
    while True:
        await device.connect()
        answer = await device.sign_in()
        if answer["type"] == "ready" or not answer["payload"]["retryable"]:
            return told
        told += 1
        assert answer["payload"]["code"] == "unavailable"
        assert await device.closed() == 1013
        await device.close()
        await asyncio.sleep(answer["payload"]["retryAfterMs"] / 1000)


async def go(devices: Sequence[Device]) -> None:
    await asyncio.gather(*(device.close() for device in devices))


@pytest.mark.parametrize("secret", [None, SECRET], ids=["Directus is asked", "with the secret"])
async def test_everybody_who_comes_back_is_let_in_by_few_calls_and_at_the_pace(
    serve: Serve, place: Place, wipe_cache: WipeCache, secret: str | None
) -> None:
    ids = await many(place.server, PEOPLE)
    devices = [Device("", token=mint(each, SECRET, time.time(), 900), wait=60) for each in ids]
    async with serve(**place.sections(secret=SECRET, sign_ins_per_second=1000)) as server:
        await asyncio.gather(*(come(device, server.url) for device in devices))
        await go(devices)
    before = [device.ready["device"]["id"] for device in devices]
    await wipe_cache()
    await place.server.ask("PATCH", f"/users/{ids[-1]}", {"status": "suspended"})

    options = {"secret": secret} if secret else {}
    async with serve(**place.sections(sign_ins_per_second=PER_SECOND, **options)) as server:
        place.front.seen.clear()
        started = time.monotonic()
        told = await asyncio.gather(*(come(device, server.url) for device in devices))
        took = time.monotonic() - started
        calls = Counter(path for _, path in place.front.seen)
        people, known = calls["/users"], calls[f"/items/{NAMES.devices}"]
        if secret is None:
            assert calls["/policies/me/globals"] == PEOPLE, "one about each token, however often it came"
            assert took >= PEOPLE / PER_SECOND - 1.0
            assert max(told) >= 1, "more than may wait"
        else:
            assert "/policies/me/globals" not in calls
            assert max(told) == 0
        assert people <= PEOPLE / 3, "people were read together"
        assert known <= PEOPLE / 3, "and their devices"
        assert [device.ready["device"] for device in devices[:-1]] == [
            {"id": each, "name": device.ready["device"]["name"], "isNew": False}
            for each, device in zip(before[:-1], devices[:-1], strict=True)
        ], "everybody is known again"
        assert await devices[-1].closed() == 4401, "S1: whoever was suspended meanwhile is not let in with the others"

        place.front.seen.clear()
        look_now(server)
        await until(lambda: not any(held.next_check == 0.0 for held in server.context.sessions.values()))
        await until(lambda: place.front.count("SEARCH", "/users") > 0)
        await asyncio.sleep(0.5)
        calls = Counter(path for _, path in place.front.seen)
        assert calls["/users"] <= 10, "the look of every minute reads them together too"
        assert "/policies/me/globals" not in calls
        await go(devices)
