"""Where tokens go, and where they do not: no redirect is followed, by HTTP or WebSocket, and no token says where to ask (T40, T41)."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import jwt
import pytest
from aiohttp import web

from plugins.auth.directus import Directus
from plugins.directus.client import DirectusClient
from plugins.directus.options import DirectusOptions
from plugins.directus.subscriptions import Wanted, follow
from sidecar import StartRefused, Unauthenticated, Unavailable
from tests.conftest import Serve
from tests.device import Device
from tests.directus.conftest import SERVICE_TOKEN, Signing, signing_in
from tests.directus.people import human
from tests.directus.test_sign_in import section, shown
from tests.services.answering import answering
from tests.services.directus.front import DirectusFront
from tests.services.directus.server import SECRET, DirectusServer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_t40_a_redirect_gets_neither_call_nor_token(status: int) -> None:
    caught: list[str] = []

    async def catch(request: web.Request) -> web.StreamResponse:
        caught.append(request.headers.get("Authorization", ""))
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.json_response({"data": {"id": "x"}})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        caught.append(str((await socket.receive()).data))
        return socket

    async with answering(catch) as elsewhere:

        async def lead(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": f"{elsewhere}{request.path}"})

        async with answering(lead) as url:
            options = Directus.Options.model_validate({"url": url, "token": SERVICE_TOKEN})
            with pytest.raises(StartRefused, match="leads elsewhere"):
                async with Directus(options):
                    pass
            async with DirectusClient(options, "auth") as client:
                with pytest.raises(Unavailable):
                    async for _ in follow(client, [Wanted("directus_users", "update")]):
                        pass
    assert caught == []


@pytest.mark.parametrize(("body", "kind"), [("<html>It works!</html>", "text/html"), ("{", "application/json")])
async def test_what_is_no_directus_refuses_the_start_and_later_lets_nobody_in(
    directus: DirectusServer, body: str, kind: str
) -> None:
    async with DirectusFront(directus.url) as front:
        front.answer(200, body, 10**6, headers={"Content-Type": kind})
        options = Directus.Options.model_validate({"url": front.url, "token": SERVICE_TOKEN})
        with pytest.raises(StartRefused, match=r"look at auth\.options\.url"):
            async with Directus(options):
                pass
        front.clear()
        async with Directus(options) as plugin:
            front.answer(200, body, 10**6, headers={"Content-Type": kind})
            with pytest.raises(Unavailable):
                await plugin.sign_in(shown("a-static-token-of-somebody"))
            assert "auth.options.url" in str(plugin.state())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "is no Directus"),
        ("[1,2]", "is no Directus"),
        ('{"data":null}', "is no Directus"),
        ('{"data":{"id":null}}', "bootstrap"),
    ],
)
async def test_answers_that_say_nothing_refuse_the_start(body: str, says: str) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body, content_type="application/json")

    async with answering(answer) as url:
        options = Directus.Options.model_validate({"url": url, "token": SERVICE_TOKEN})
        with pytest.raises(StartRefused, match=says):
            async with Directus(options):
                pass


async def test_t41_nothing_in_a_token_says_where_or_what_to_ask(signing: Signing) -> None:
    now = int(time.time())
    good = {"role": None, "app_access": False, "admin_access": False, "iat": now, "exp": now + 600, "iss": "directus"}
    async with signing() as auth:
        before = auth._source.client.calls
        for claims in (
            {"id": "../../utils/cache/clear"},
            {"id": "x?access_token=y"},
            {"id": "http://169.254.169.254/"},
            {"id": "a", "iss": "http://127.0.0.1:9/"},
        ):
            token = jwt.encode({**good, **claims}, SECRET, algorithm="HS256")
            with pytest.raises(Unauthenticated):
                await auth.sign_in(shown(token))
        assert auth._source.client.calls == before, "Directus is not asked about any of them"
        # A right signature over an id that is none: it reaches no path, and finds nobody.
        token = jwt.encode({**good, "id": "00000000-0000-4000-8000-000000000000"}, SECRET, algorithm="HS256")
        with pytest.raises(Unauthenticated, match="no such person"):
            await auth.sign_in(shown(token))


async def test_t40_no_token_is_logged_shown_or_kept(
    serve: Serve, directus: DirectusServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    anna = await human(directus)
    tokens = [await anna.access_token(), await anna.session_token(), await anna.static_token()]
    session = str(jwt.decode(tokens[1], options={"verify_signature": False})["session"])
    async with serve(auth=section(directus, secret=SECRET)) as server:
        for token in tokens:
            async with Device(server.url, token=token) as device:
                await device.sync()
        await anna.change(status="suspended")
        for token in tokens:
            device = await Device(server.url, token=token).connect()
            assert (await device.sign_in())["type"] == "error"
            await device.close()
        states = str(await server.context.plugins.state())
        folder = server.context.config.data_dir
    captured = capsys.readouterr()
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for secret in (*tokens, session, SERVICE_TOKEN, SECRET):
        for where in (caplog.text, captured.out, captured.err, states, kept.decode("latin-1")):
            assert secret not in where


async def test_t40_f32_a_token_that_was_replaced_in_its_file_is_used_without_a_restart(
    directus: DirectusServer, tmp_path: Path
) -> None:
    """The account is a user of its own here: the tests share the other one."""
    account = await human(directus, "Account")
    policy = await directus.ask("POST", "/policies", {"name": "reads people"})
    right = {"collection": "directus_users", "action": "read", "fields": ["*"], "permissions": {}}
    await directus.ask("POST", "/permissions", {**right, "policy": policy["id"]})
    await directus.ask("POST", "/access", {"user": account.id, "policy": policy["id"]})
    file = tmp_path / "token"
    file.write_text(await account.static_token())
    anna = await human(directus)
    options = {"token": None, "token_file": str(file)}
    async with signing_in(directus, **options) as auth:
        assert (await auth.sign_in(shown(await anna.access_token()))).user_id == anna.id
        fresh = await account.static_token()
        file.write_text(fresh)
        await asyncio.sleep(2.1)  # what was asked before is forgotten
        assert (await auth.sign_in(shown(await anna.access_token()))).user_id == anna.id
        assert auth._source.client.token.value == fresh


async def test_a_service_account_that_cannot_do_its_work_refuses_the_start(directus: DirectusServer) -> None:
    useless = await human(directus, "Useless")
    for options, says in (
        ({"token": "wrong"}, "refuses the service user's token"),
        ({"token": None}, "run `sidecar bootstrap`"),
        ({"token": await useless.static_token()}, "no rows of directus_users"),
        ({"secret": "a secret of another Directus, long enough"}, "not the SECRET of this Directus"),
    ):
        with pytest.raises(StartRefused, match=says):
            async with signing_in(directus, **options):
                pass


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than 32 bytes"):
        Directus.Options.model_validate({"secret": "short"})
    assert "a secret" not in repr(Directus.Options.model_validate({"secret": SECRET}))


def test_options_of_both_plugins_have_the_same_words() -> None:
    assert set(DirectusOptions.model_fields) < set(Directus.Options.model_fields)
