"""What somebody claims opens nothing: a token is worth what Directus says of its person now, wherever and from whom it comes
(S3–S6 as far as sign-in goes, T6, T14)."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import orjson
import pytest

from tests.conftest import Serve
from tests.device import Device, doc
from tests.directus.conftest import make_account
from tests.directus.people import Human, human
from tests.directus.test_sign_in import alive, hears, look_now, plugin, refused, section
from tests.integration.test_opening import FRAMES
from tests.integration.world import until
from tests.services.directus.front import DirectusFront
from tests.services.directus.server import DirectusServer
from tests.services.fixtures import StartDirectus
from tests.services.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.server.housekeeping._TICK_SECONDS", 0.05)


@pytest.fixture
async def front(directus: DirectusServer) -> AsyncIterator[DirectusFront]:
    async with DirectusFront(directus.url) as front:
        yield front


# -- until Directus has answered ---------------------------------------------------------------------------------------


async def test_s3_s5_while_directus_takes_its_time_over_a_token_nothing_is_served_and_nobody_waits_for_it(
    serve: Serve, directus: DirectusServer, front: DirectusFront
) -> None:
    """S3, S5, T13: no frame with data before; whoever is in goes on; and what was sent too early is refused, not lost in silence."""
    anna, bert = await human(directus), await human(directus)
    tokens = [await anna.session_token(), await bert.session_token()]
    async with serve(auth=section(directus, url=front.url, timeout="9s")) as server:
        inside = await Device(server.url, token=tokens[1]).open()
        slow = front.hold(of=lambda _, path: path == "/policies/me/globals")
        assert slow.held is not None
        coming = await Device(server.url, token=tokens[0]).connect()
        auth = await coming.send("auth", {"token": tokens[0], "protocol": 1})
        early = await coming.send("draft_update", FRAMES["draft_update"])
        await until(lambda: slow.happened == 1)
        for _ in range(20):
            await alive(inside)
        assert coming.events == []
        assert all(coming._answers[each].empty() for each in (auth, early)), "not a word before Directus' own"
        slow.held.set()
        ready = await coming.answer(auth)
        assert (ready["type"], slow.happened) == ("ready", 1)
        answer = await coming.answer(early)
        assert answer["type"] == "chat_initiated", "an edit that was made meanwhile is carried out, for that person"
        assert [chat["id"] for frame in await inside.sync() for chat in frame["chats"]] == []
        for device in (coming, inside):
            await device.close()


# -- from where --------------------------------------------------------------------------------------------------------


async def test_s6_whatever_a_client_says_of_its_address_it_is_counted_by_its_own(
    serve: Serve, directus: DirectusServer, front: DirectusFront
) -> None:
    """S6, T9: three sockets an address; a fourth that names another one every time does not come in, and Directus hears of none."""
    anna = await human(directus)
    token = await anna.access_token()
    async with serve(auth=section(directus, url=front.url), limits={"connections_per_address": 3}) as server:
        devices = []
        for number in range(3):
            spoofed = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": f"198.51.100.{number}"}
            devices.append(await Device(server.url, token=token).open(**spoofed))
        fourth = Device(server.url, token=token)
        with pytest.raises(aiohttp.WSServerHandshakeError) as turned_away:
            await fourth.connect(**{"X-Forwarded-For": "203.0.113.9"})
        await fourth.close()
        assert turned_away.value.status in (429, 503)
        assert "authorization" in front.headers
        assert not front.headers & {"x-forwarded-for", "x-real-ip", "forwarded"}
        for device in devices:
            await device.close()


# -- T6: tokens that were good once ------------------------------------------------------------------------------------


async def test_t6_a_token_that_was_good_once_is_refused_whoever_comes_with_it(
    serve: Serve, start_directus: StartDirectus
) -> None:
    """T6: after logout, another password, expiry, suspension, and when it was taken away; from its own device and from another."""
    own = await start_directus(ACCESS_TOKEN_TTL="8s")
    await make_account(own)
    people = {name: await human(own, name) for name in ("logout", "password", "expiry", "suspension", "taken")}
    tokens = {
        "logout": await people["logout"].session_token(),
        "password": await people["password"].session_token(),
        "suspension": await people["suspension"].session_token(),
        "taken": await people["taken"].static_token(),
        "expiry": await people["expiry"].access_token(),
    }
    begun = time.monotonic()
    async with serve(auth=section(own)) as server:
        devices = {name: await Device(server.url, token=token).open() for name, token in tokens.items()}
        await hears(server)
        await people["logout"].log_out(tokens["logout"])
        await people["password"].change(password="another password")
        await people["suspension"].change(status="suspended")
        await people["taken"].change(token=None)
        await asyncio.sleep(max(0.0, begun + 9 - time.monotonic()))
        look_now(server)
        for name, device in devices.items():
            assert await device.closed() == 4401, name
            thief = await Device(server.url, token=tokens[name]).connect()
            for proof in (device.proof, None):
                thief.proof = proof
                answer = await thief.sign_in()
                assert answer["payload"]["code"] == "unauthenticated", name
                assert await thief.closed() == 4401
                await thief.close()
                thief = await Device(server.url, token=tokens[name]).connect()
            await thief.close()
            await device.close()
        why = {name: await refused(server, token) for name, token in tokens.items()}
    assert "expired" in why["expiry"]
    for name in ("logout", "password", "suspension", "taken"):
        assert "does not take" in why[name], why


async def test_t6_a_token_that_is_good_makes_nobody_the_device_that_it_was_stolen_from(
    serve: Serve, directus: DirectusServer
) -> None:
    """T6, T8, S4: who has the token and not the device's secret is another device, whatever it knows of the first; the first stays one."""
    anna = await human(directus)
    token = await anna.session_token()
    signals = {"language": "de-DE", "timezone": "Europe/Berlin", "screen": "1920x1080"}
    async with serve(auth=section(directus)) as server:
        async with Device(server.url, token=token) as device:
            proof, known = device.proof, device.ready["device"]["id"]
        for shown in (None, {"id": known, "secret": "x" * 43}, {"id": known, "secret": ""}):
            thief = await Device(server.url, token=token).connect()
            payload: dict[str, Any] = {"token": token, "protocol": 1, "signals": signals}
            if shown is not None:
                payload["device"] = shown
            await thief.send_raw(orjson.dumps({"type": "auth", "id": "a", "payload": payload}).decode())
            answer = await thief.answer("a")
            if answer["type"] == "ready":
                assert answer["payload"]["device"]["id"] != known
                assert "secret" in answer["payload"]["device"]
            else:
                assert answer["payload"]["code"] == "bad_payload"
            await thief.close()
        back = Device(server.url, token=token)
        back.proof = proof
        await back.open(**{"User-Agent": "Mozilla/5.0 (Windows NT 10.0) Firefox/140.0", "Accept-Language": "fr"})
        assert back.ready["device"]["id"] == known, "another browser and language do not make it another"
        await back.close()


# -- T14: the second factor ----------------------------------------------------------------------------------------------


@pytest.fixture
async def owing(directus: DirectusServer) -> Human:
    """Somebody whose policy wants a second factor, who has none."""
    policy = await directus.ask("POST", "/policies", {"name": "two factors", "enforce_tfa": True})
    person = await human(directus)
    await directus.ask("POST", "/access", {"user": person.id, "policy": policy["id"]})
    return person


async def test_t14_no_claim_of_a_client_stands_for_a_second_factor(
    serve: Serve, directus: DirectusServer, owing: Human
) -> None:
    """T14: not in the frame, not in a token, whose claim goes with the first refresh: Directus is asked."""
    token = await owing.session_token()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert "enforce_tfa" not in claims
    async with serve(auth=section(directus)) as server:
        assert "second factor" in await refused(server, token)
        for more in (
            {"secondFactor": True},
            {"tfa": False, "enforce_tfa": False, "enforceTfa": False},
            {"device": {"id": "x", "secret": "y" * 43, "verifiedAt": "2026-01-01T00:00:00.000Z"}},
            {"signals": {"language": "en"}, "client": {"name": "verified", "version": "1"}},
        ):
            device = await Device(server.url, token=token).connect()
            payload = {"token": token, "protocol": 1, **more}
            await device.send_raw(orjson.dumps({"type": "auth", "id": "a", "payload": payload}).decode())
            assert (await device.answer("a"))["payload"]["code"] in ("unauthenticated", "bad_payload"), more
            await device.close()
        for claim in ({"enforce_tfa": False}, {"tfa": True}, {"second_factor": True}):
            forged = jwt.encode({**claims, **claim}, "another secret of thirty-two characters", algorithm="HS256")
            assert "does not take" in await refused(server, forged)


async def test_t14_what_is_kept_of_a_person_is_not_believed_for_longer_than_till_the_next_look(
    serve: Serve, directus: DirectusServer, owing: Human
) -> None:
    """T14: a profile that somebody has poisoned in memory lets in; the look of every minute asks Directus and throws out."""
    token = await owing.session_token()
    async with serve(auth=section(directus)) as server:
        await hears(server)
        auth = plugin(server)
        assert "second factor" in await refused(server, token)
        known, when = auth._people._known[owing.id]
        assert not known.second_factor
        auth._people._known[owing.id] = dataclasses.replace(known, second_factor=True), when + 1e6
        device = await Device(server.url, token=token).open()
        look_now(server)
        assert await device.closed() == 4401
        await device.close()
        assert "second factor" in await refused(server, token), "and the poison is gone"


@pytest.mark.caches("redis")
async def test_t14_nothing_of_a_persons_rights_stands_in_the_cache_to_be_poisoned(
    serve: Serve, directus: DirectusServer, redis_server: RedisServer
) -> None:
    """T14, T31: neither role, status, name, address nor token of anybody."""
    role = await directus.ask("POST", "/roles", {"name": "a role to look for"})
    anna = await human(directus, "Annabella", role=role["id"])
    tokens = [await anna.session_token(), await anna.access_token(), await anna.static_token()]
    async with serve(auth=section(directus)) as server:
        for token in tokens:
            async with Device(server.url, token=token) as device:
                await device.ask("draft_update", {"tempChatId": "c", "content": doc("x"), "basedOnVersion": 0})
        dump = await redis_server.dumped()
        assert device.user.encode() in dump
        session = str(jwt.decode(tokens[0], options={"verify_signature": False})["session"])
        for secret in (*tokens, session, role["id"], anna.id, anna.email, "Annabella", "active"):
            assert secret.encode() not in dump, secret
