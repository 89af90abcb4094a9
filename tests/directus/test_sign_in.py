"""People sign in at the sidecar with what a real Directus gave them, and are let in no longer than Directus lets them in
(S1, S7, S8, T6, T46, F44)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast

import jwt
import pytest

from plugins.auth.directus import Directus
from plugins.auth.directus_tokens import mint
from sidecar import Credential, Ended, Unauthenticated
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, doc
from tests.directus.conftest import SERVICE_TOKEN, Signing, make_account, signing_in
from tests.directus.people import human, many
from tests.integration.world import until
from tests.services.directus.server import SECRET, DirectusServer
from tests.services.fixtures import StartDirectus


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.server.housekeeping._TICK_SECONDS", 0.05)


def section(server: DirectusServer, **options: Any) -> dict[str, Any]:
    return {"use": "directus", "options": {"url": server.url, "token": SERVICE_TOKEN, **options}}


def plugin(server: Server) -> Directus:
    auth = server.context.parts.auth
    assert isinstance(auth, Directus)
    return auth


async def hears(server: Server) -> None:
    """Returns when Directus reports changes of users."""
    await until(lambda: plugin(server)._changes.heard)


def look_now(server: Server) -> None:
    """As if a minute were over."""
    for held in server.context.sessions.values():
        held.next_check = 0.0


async def refused(server: Server, token: str) -> str:
    """Signs in, is refused with 4401, and returns why, which the client is not told."""
    device = await Device(server.url, token=token).connect()
    answer = await device.sign_in()
    assert (answer["type"], answer["payload"].get("code")) == ("error", "unauthenticated"), answer
    assert await device.closed() == 4401
    await device.close()
    with pytest.raises(Unauthenticated) as caught:
        await plugin(server).sign_in(shown(token))
    assert token not in str(caught.value)
    return str(caught.value)


async def alive(*devices: Device) -> None:
    for device in devices:
        assert (await device.ask("ping", {}))["type"] == "pong"


# -- who comes in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["Directus is asked", "with the secret"])
async def test_tokens_of_every_kind_are_the_same_person(
    serve: Serve, directus: DirectusServer, secret: str | None
) -> None:
    anna = await human(directus, "Anna", last_name="Müller")
    tokens = {
        "access": await anna.access_token(),
        "session": await anna.session_token(),
        "static": await anna.static_token(),
    }
    options = {"secret": secret} if secret else {}
    async with serve(auth=section(directus, **options)) as server:
        for kind, token in tokens.items():
            async with Device(server.url, token=token) as device:
                assert device.user == server.context.config.user_hash(anna.id)
                expires = device.ready["sessionExpiresAt"]
                assert (expires is None) == (kind == "static")
                sent = await device.ask(
                    "message_send", {"tempChatId": f"c-{kind}", "clientMessageId": "m", "content": doc("hello")}
                )
                assert sent["payload"]["message"]["sender_name"] == "Anna Müller"


async def test_s1_t6_whom_directus_would_not_let_in_is_told_why_and_closed(
    serve: Serve, directus: DirectusServer
) -> None:
    """Tokens of Directus that were good once: its own `/users/me` still answers 200 to most of them."""
    suspended, deleted, invited = [await human(directus, name) for name in ("Susan", "Dora", "Ivan")]
    tokens = [await each.access_token() for each in (suspended, deleted, invited)]
    static = await suspended.static_token()
    await suspended.change(status="suspended")
    await deleted.delete()
    await invited.change(status="invited")
    for token in tokens:
        assert (await directus.attempt("GET", "/users/me", token=token))[0] == 200
    async with serve(auth=section(directus)) as server:
        assert "not active" in await refused(server, tokens[0])
        assert "no such person" in await refused(server, tokens[1])
        assert "not active" in await refused(server, tokens[2])
        assert "does not take" in await refused(server, static)
        assert "service account" in await refused(server, SERVICE_TOKEN)
        assert "does not take" in await refused(server, "nonsense")
        forged = mint(suspended.id, "another secret of thirty-two characters", time.time())
        assert "does not take" in await refused(server, forged)


async def test_t6_a_share_token_signs_nobody_in(serve: Serve, directus: DirectusServer) -> None:
    body = {"collection": "shared_things", "schema": {}, "meta": {}}
    await directus.ask("POST", "/collections", body)
    await directus.ask("POST", "/items/shared_things", {})
    share = await directus.ask("POST", "/shares", {"collection": "shared_things", "item": "1", "name": "a share"})
    answer = await directus.ask("POST", "/shares/auth", {"share": share["id"]}, token=None)
    token = answer["access_token"]
    assert (await directus.attempt("GET", "/users/me", token=token))[0] == 200
    async with serve(auth=section(directus)) as server:
        assert "share token" in await refused(server, token)
    await directus.ask("DELETE", "/collections/shared_things")


async def test_who_must_enrol_a_second_factor_first_is_refused(serve: Serve, directus: DirectusServer) -> None:
    """T14: as Directus says now, for its claim is in the first token of a login alone, and only where the policy is a role's."""
    policy = await directus.ask("POST", "/policies", {"name": "two factors", "enforce_tfa": True})
    role = await directus.ask("POST", "/roles", {"name": "two factors"})
    await directus.ask("POST", "/access", {"role": role["id"], "policy": policy["id"]})
    by_role, by_policy = await human(directus, role=role["id"]), await human(directus)
    await directus.ask("POST", "/access", {"user": by_policy.id, "policy": policy["id"]})
    login = await by_role.log_in()
    fresh = await directus.ask(
        "POST", "/auth/refresh", {"refresh_token": login["refresh_token"], "mode": "json"}, token=None
    )
    claims = jwt.decode(fresh["access_token"], options={"verify_signature": False})
    assert "enforce_tfa" not in claims, "the claim of the first token goes with the first refresh"
    async with serve(auth=section(directus)) as server:
        for token in (login["access_token"], fresh["access_token"], await by_policy.session_token()):
            assert "second factor" in await refused(server, token)


async def test_roles_may_be_named_that_may_use_the_sidecar(serve: Serve, directus: DirectusServer) -> None:
    role = await directus.ask("POST", "/roles", {"name": "chatters"})
    inside, outside = await human(directus, role=role["id"]), await human(directus)
    token = await inside.access_token()
    async with serve(auth=section(directus, roles=[role["id"]])) as server:
        async with Device(server.url, token=token) as device:
            await hears(server)
            assert "role" in await refused(server, await outside.access_token())
            await inside.change(role=None)
            assert await device.closed() == 4401, "at once, and not when the token expires, which still names the role"
        assert "role" in await refused(server, token)


async def test_s8_a_login_and_the_first_connect_at_once_need_no_second_try(
    serve: Serve, directus: DirectusServer
) -> None:
    anna = await human(directus)

    async def come(server: Server) -> str:
        async with Device(server.url, token=await anna.access_token()) as device:
            return device.user

    async with serve(auth=section(directus)) as server:
        assert len({*await asyncio.gather(*(come(server) for _ in range(10)))}) == 1


# -- the cookie --------------------------------------------------------------------------------------------------------


async def test_directus_own_session_cookie_signs_in_from_an_exact_origin(
    serve: Serve, directus: DirectusServer
) -> None:
    """T3 with the cookie of a real login: no other origin, no missing one, and nothing but a session token in it."""
    anna = await human(directus)
    token = await anna.session_token()
    origins = {"cookie": "directus_session_token", "origins": ["https://app.example.com"]}

    async def status(server: Server, **headers: str) -> int:
        device = Device(server.url)
        try:
            await device.connect(**headers)
        except Exception as error:
            return int(getattr(error, "status", 0))
        finally:
            await device.close()
        return 101

    cookie = f"directus_session_token={token}"
    async with serve(server=origins, auth=section(directus)) as server:
        assert await status(server, Cookie=cookie) == 403
        assert await status(server, Cookie=cookie, Origin="https://app.example.com.evil.example") == 403
        assert await status(server, Cookie=cookie, Origin="http://app.example.com") == 403
        device = await Device(server.url).connect(Cookie=cookie, Origin="https://app.example.com")
        answer = await device.ask("auth", {"protocol": 1})
        assert answer["type"] == "ready", answer
        assert answer["payload"]["hashedUserId"] == server.context.config.user_hash(anna.id)
        await anna.log_out(token)
        look_now(server)
        assert await device.closed() == 4401
        await device.close()
        for other in (await anna.access_token(), await anna.static_token(), token):
            device = await Device(server.url).connect(
                Cookie=f"directus_session_token={other}", Origin="https://app.example.com"
            )
            assert (await device.ask("auth", {"protocol": 1}))["type"] == "error"
            await device.close()


# -- the end of it -----------------------------------------------------------------------------------------------------


async def test_s7_t46_a_logout_closes_its_own_sockets_with_the_next_look_and_no_other(
    serve: Serve, directus: DirectusServer
) -> None:
    anna = await human(directus)
    ended, stays = await anna.session_token(), await anna.session_token()
    async with serve(auth=section(directus)) as server:
        tabs = [await Device(server.url, token=ended).open() for _ in range(2)]
        other = await Device(server.url, token=stays).open()
        await anna.log_out(ended)
        look_now(server)
        assert [await tab.closed() for tab in tabs] == [4401, 4401]
        await alive(other)
        assert "does not take" in await refused(server, ended), "T6: nor does it come back"
        for device in (*tabs, other):
            await device.close()


@pytest.mark.parametrize("what", ["suspended", "deleted"])
async def test_t46_who_is_suspended_or_deleted_is_out_within_a_second(
    serve: Serve, directus: DirectusServer, what: str
) -> None:
    anna, bert = await human(directus), await human(directus)
    async with serve(auth=section(directus)) as server:
        tokens = [await anna.access_token(), await anna.session_token(), await anna.static_token()]
        devices = [await Device(server.url, token=token).open() for token in tokens]
        other = await Device(server.url, token=await bert.access_token()).open()
        await hears(server)
        if what == "deleted":
            await anna.delete()
        else:
            await anna.change(status="suspended")
        async with asyncio.timeout(1.0):
            assert [await device.closed() for device in devices] == [4401] * 3
        for token in tokens:
            await refused(server, token)
        await alive(other)
        for device in (*devices, other):
            await device.close()


async def test_t46_a_new_password_ends_the_other_sessions_within_a_second_and_not_the_one_that_set_it(
    serve: Serve, directus: DirectusServer
) -> None:
    policy = await directus.ask("POST", "/policies", {"name": "own password"})
    rights = [
        {"collection": "directus_users", "action": action, "fields": ["*"], "permissions": {}, "policy": policy["id"]}
        for action in ("read", "update")
    ]
    await directus.ask("POST", "/permissions", rights)
    anna = await human(directus)
    await directus.ask("POST", "/access", {"user": anna.id, "policy": policy["id"]})
    mine, others = await anna.session_token(), await anna.session_token()
    async with serve(auth=section(directus)) as server:
        here, there = [await Device(server.url, token=token).open() for token in (mine, others)]
        await hears(server)
        await directus.ask("PATCH", "/users/me", {"password": "a new password"}, token=mine)
        async with asyncio.timeout(1.0):
            assert await there.closed() == 4401
        look_now(server)
        await asyncio.sleep(0.3)
        await alive(here)
        for device in (here, there):
            await device.close()


async def test_t46_without_its_websocket_the_next_look_ends_it(serve: Serve, start_directus: StartDirectus) -> None:
    own = await start_directus(WEBSOCKETS_ENABLED="false")
    await make_account(own)
    anna, bert = await human(own), await human(own)
    async with serve(auth=section(own)) as server:
        tokens = [await anna.access_token(), await anna.static_token()]
        devices = [await Device(server.url, token=token).open() for token in tokens]
        other = await Device(server.url, token=await bert.access_token()).open()
        await until(lambda: "WEBSOCKETS_ENABLED" in plugin(server)._changes.unheard_because)
        assert "within a minute" in str(plugin(server).state())
        await anna.change(status="suspended")
        look_now(server)
        assert [await device.closed() for device in devices] == [4401] * 2
        await alive(other)
        for device in (*devices, other):
            await device.close()


async def test_a_gap_in_what_directus_reports_is_closed_when_it_reports_again(
    serve: Serve, start_directus: StartDirectus
) -> None:
    """Suspended, signed out and with a new password while Directus could not be heard, F25: it was away and nobody was thrown out."""
    own = await start_directus()
    await make_account(own)
    people = [await human(own, name) for name in ("Anna", "Bert", "Cleo")]
    tokens = [await person.session_token() for person in people]
    later = await people[2].session_token()
    async with serve(auth=section(own, timeout="1s")) as server:
        devices = [await Device(server.url, token=token, wait=40).open() for token in tokens]
        await hears(server)
        own.kill()
        await until(lambda: not plugin(server)._changes.heard)
        look_now(server)
        await asyncio.sleep(0.5)
        await alive(*devices)
        device = await Device(server.url, token=later).connect()
        answer = await device.sign_in()
        assert (answer["payload"]["code"], answer["payload"]["retryable"]) == ("unavailable", True)
        assert await device.closed() == 1013
        await device.close()
        # Changed behind the sidecar's back: it is down, and hears no more of it than of what happens while it connects.
        import sqlite3

        with sqlite3.connect(own.database) as database:
            database.execute("UPDATE directus_users SET status = 'suspended' WHERE id = ?", (people[0].id,))
            database.execute("DELETE FROM directus_sessions WHERE user = ?", (people[1].id,))
        await own.start()
        async with asyncio.timeout(40):
            assert [await each.closed() for each in devices[:2]] == [4401, 4401]
        await alive(devices[2])
        for each in devices:
            await each.close()


async def test_a_fresh_token_before_the_old_one_expires_leaves_no_gap(
    serve: Serve, start_directus: StartDirectus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S7: and who brings none is announced the end, and closed."""
    monkeypatch.setattr("sidecar.server.housekeeping._WARN_SECONDS", 3.0)
    own = await start_directus(ACCESS_TOKEN_TTL="6s")
    await make_account(own)
    anna, bert = await human(own), await human(own)
    login = await anna.log_in()
    async with serve(auth=section(own)) as server:
        device = await Device(server.url, token=login["access_token"]).open()
        idle = await Device(server.url, token=login["access_token"]).open()
        await device.sync()
        assert (await device.event("session_expiring"))["expiresAt"] == device.ready["sessionExpiresAt"]
        fresh = await own.ask(
            "POST", "/auth/refresh", {"refresh_token": login["refresh_token"], "mode": "json"}, token=None
        )
        answer = await device.ask("auth_refresh", {"token": fresh["access_token"]})
        assert answer["type"] == "auth_refreshed"
        assert answer["payload"]["sessionExpiresAt"] > device.ready["sessionExpiresAt"]
        wrong = await device.ask("auth_refresh", {"token": await bert.access_token()})
        assert wrong["payload"]["code"] == "unauthenticated"
        assert await device.closed() == 4401, "another person's token"
        assert await idle.closed() == 4401
        assert idle.events[-1]["payload"]["message"].startswith("the session has expired")
        assert "expired" in await refused(server, login["access_token"])
        for each in (device, idle):
            await each.close()


# -- how often Directus is asked ---------------------------------------------------------------------------------------


async def test_a_thousand_who_come_at_once_are_a_few_calls(signing: Signing, directus: DirectusServer) -> None:
    ids = await many(directus, 1000)
    async with signing(secret=SECRET) as auth:
        tokens = [mint(user_id, SECRET, time.time(), 600) for user_id in ids]
        before = auth._source.client.calls
        sessions = await asyncio.gather(*(auth.sign_in(shown(token)) for token in tokens))
        assert [session.user_id for session in sessions] == list(ids)
        assert auth._source.client.calls - before <= 12
        before = auth._source.client.calls
        await asyncio.gather(*(auth.recheck(session) for session in sessions))
        assert auth._source.client.calls - before <= 12, "nor is the look of every minute one call for each"


async def test_without_the_secret_a_token_is_asked_about_once_and_not_too_many_a_second(
    signing: Signing, directus: DirectusServer
) -> None:
    anna = await human(directus)
    tokens = [await anna.session_token() for _ in range(12)]
    async with signing(sign_ins_per_second=10) as auth:
        before, started = auth._source.client.calls, time.monotonic()
        await asyncio.gather(*(auth.sign_in(shown(token)) for token in tokens * 80))
        assert auth._source.client.calls - before <= len(tokens) + 3, "960 sign-ins with twelve tokens"
        more = [await anna.session_token() for _ in range(12)]
        await asyncio.gather(*(auth.sign_in(shown(token)) for token in more))
        assert time.monotonic() - started >= 1.0, "24 tokens at ten a second"


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", ["+20m", "-20m"])
async def test_f44_a_directus_whose_clock_is_apart_is_read_by_its_own_clock(
    start_directus: StartDirectus, faketime: str, offset: str
) -> None:
    own = await start_directus(LD_PRELOAD=faketime, FAKETIME=offset, DONT_FAKE_MONOTONIC="1")
    await make_account(own)
    anna = await human(own)
    token = await anna.access_token()
    for secret in (None, SECRET):
        async with signing_in(own, **({"secret": secret} if secret else {})) as auth:
            session = await auth.sign_in(shown(token))
            assert session.expires_at is not None
            left = session.expires_at.timestamp() - time.time()
            assert 840 < left < 905, "fifteen minutes from then, whatever its clock says"
            claims = jwt.decode(token, options={"verify_signature": False})
            there = int(time.time() - auth._source.clock_ahead)
            expired = jwt.encode({**claims, "iat": there - 1000, "exp": there - 60}, SECRET, algorithm="HS256")
            with pytest.raises(Unauthenticated, match="expired"):
                await auth.sign_in(shown(expired))


# -- deletion ----------------------------------------------------------------------------------------------------------


async def test_t47_who_is_deleted_in_directus_is_reported_to_be_erased(
    signing: Signing, directus: DirectusServer
) -> None:
    anna = await human(directus)
    async with signing() as auth, aclosing(cast("AsyncGenerator[Ended, None]", auth.ended())) as reports:
        first = asyncio.create_task(anext(reports))
        await until(lambda: auth._changes.heard)
        await anna.change(status="suspended")
        await anna.delete()
        assert [await first, await anext(reports)] == [Ended(anna.id), Ended(anna.id, erased=True)]


def shown(token: str, **changes: Any) -> Credential:
    from sidecar import Credential

    given: Mapping[str, Any] = {
        "token": token,
        "from_cookie": False,
        "peer": "127.0.0.1",
        "host": "127.0.0.1",
        "forwarded": False,
        **changes,
    }
    return Credential(**given)
