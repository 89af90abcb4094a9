"""What is no Directus, or one that cannot be used, is found at the start and named with its remedy; one that is away is waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plugins.directus.schema import Names
from plugins.persistence.directus import Directus
from sidecar import StartRefused, Unavailable
from sidecar.testing.rows import ALICE, a_chat, a_message
from tests.device import Device, doc
from tests.directus_store.conftest import ServeOn, StartPrepared
from tests.directus_store.world import Prepared, plugin_of, somebody, store_of
from tests.faults.world import get
from tests.integration.world import settled, until
from tests.services.directus.front import DirectusFront
from tests.services.directus.server import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.services.ports import ReservedPort


def _options(directus: Prepared, url: str | None = None, **more: Any) -> Directus.Options:
    return Directus.Options.model_validate(directus.section(url, **more)["options"])


async def _refusal(options: Directus.Options) -> str:
    with pytest.raises(StartRefused) as refused:
        async with Directus(options):
            pass
    return str(refused.value)


async def test_a_wrong_token_or_none_ends_the_start(directus: Prepared, front: DirectusFront) -> None:
    said = await _refusal(_options(directus, token="wrong"))
    assert "refuses the service user's token (401 INVALID_CREDENTIALS)" in said
    assert "wrong" not in said
    assert "sidecar bootstrap" in await _refusal(_options(directus, token=None))
    answer = await directus.server.log_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    with pytest.raises(ValueError, match="of a login, which expires") as refused:
        _options(directus, front.url, token=answer["access_token"])
    assert answer["access_token"][-20:] not in str(refused.value)


async def test_t40_a_redirect_ends_in_words_and_the_token_does_not_follow(
    directus: Prepared, front: DirectusFront
) -> None:
    """T40: neither by a call nor by the WebSocket."""
    async with DirectusFront(directus.server.url) as elsewhere:
        for status in (301, 302, 307, 308):
            front.answer(status, "", 10**6, headers={"Location": f"{elsewhere.url}/server/info"})
            said = await _refusal(_options(directus, front.url))
            assert (
                f"leads elsewhere ({status}); write the address that it leads to into persistence.options.url" in said
            )
            front.clear()
            async with Directus(_options(directus, front.url)) as plugin:
                await until(lambda plugin=plugin: bool(plugin.state()["state"] == "ok"))
                front.answer(status, "", 10**6, headers={"Location": f"{elsewhere.url}/server/info"})
                with pytest.raises(Unavailable, match="leads elsewhere"):
                    await plugin.on_sync(ALICE, None, 1)
                with pytest.raises(Unavailable):
                    async with plugin._link.client.socket():
                        pass
            front.clear()
        assert elsewhere.seen == []
        assert elsewhere.tokens == set()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>Welcome to nginx!</html>"),
        (404, "<html>404 Not Found</html>"),
        (200, '{"data": ['),
        (200, "\x00\xff"),
    ],
)
async def test_what_is_no_directus_ends_the_start(
    directus: Prepared, front: DirectusFront, status: int, body: str
) -> None:
    """And is said when it comes later, as a proxy's page may."""
    front.answer(status, body, 10**6)
    assert "no Directus" in await _refusal(_options(directus, front.url))
    front.clear()
    async with Directus(_options(directus, front.url)) as plugin:
        fault = front.answer(status, body, 10**6)
        with pytest.raises(Unavailable, match="no Directus"):
            await plugin.on_first_message(a_chat(), a_message(a_chat()))
        assert fault.happened
        front.clear()


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_whose_directus_is_away_is_waited_for(
    directus: Prepared, front: DirectusFront, status: int
) -> None:
    front.answer(status, "<html>Bad Gateway</html>", 10**6)
    async with Directus(_options(directus, front.url)) as plugin:
        assert str(status) in str(plugin.state()["reason"])
        with pytest.raises(Unavailable):
            await plugin.on_first_message(a_chat(), a_message(a_chat()))
        front.clear()
        await until(lambda: plugin.state()["state"] == "ok")
        assert (await plugin.on_sync(ALICE, None, 1)).total == 0


async def test_an_answer_without_end_is_not_read_to_its_end(
    directus: Prepared, front: DirectusFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugins.directus.client.MOST_BYTES", 100_000)
    async with Directus(_options(directus, front.url)) as plugin:
        front.answer(200, {"data": ["x" * 1_000_000]}, 10)
        with pytest.raises(Unavailable, match="larger than"):
            await plugin.on_sync(ALICE, None, 1)
        front.clear()
        assert (await plugin.on_sync(ALICE, None, 1)).total == 0, "and the circuit is not opened by it"


@pytest.fixture
async def own(start_prepared: StartPrepared) -> Prepared:
    return await start_prepared()


@pytest.mark.timeout(240)
async def test_s66_what_is_missing_is_named_before_anything_is_written(own: Prepared, serve_on: ServeOn) -> None:
    """S66, F29: a collection, a field, a permission; while it serves, too. Directus itself would drop what has no field in silence."""
    server, chats = own.server, own.names.chats
    missing = Names(chats="other_chats", messages=own.names.messages, devices=own.names.devices)
    said = await _refusal(_options(own, collections=missing.model_dump()))
    assert "other_chats" in said
    assert "sidecar bootstrap" in said
    [right] = await server.ask(
        "SEARCH",
        "/permissions",
        {"query": {"filter": {"collection": {"_eq": own.names.messages}, "action": {"_eq": "update"}}}},
    )
    await server.ask("DELETE", f"/permissions/{right['id']}")
    said = await _refusal(_options(own))
    assert f"may not update every field of {own.names.messages}" in said
    await server.ask("POST", "/permissions", {key: value for key, value in right.items() if key != "id"})

    field = await server.ask("GET", f"/fields/{chats}/draft_state")
    person = somebody()
    async with serve_on(own) as running, Device(running.url, person) as device:
        store_of(running)._link.look_seconds = 0.2
        await asyncio.sleep(0)
        await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("one")})
        await settled(running)
        store_of(running)._link._looking.cancel()  # type: ignore[union-attr]  # its first rest is the long one
        store_of(running)._link._looking = asyncio.create_task(store_of(running)._link._keep_looking())
        await server.ask("DELETE", f"/fields/{chats}/draft_state")
        await until(lambda: "lacks draft_state" in str(plugin_of(running).state().get("reason")))
        status, body = await get(running, "/readyz")
        assert (status, body["parts"]["persistence"]["state"] != "ok") == (503, True)
        sent = {"tempChatId": "one", "clientMessageId": "m2", "content": doc("two")}
        assert (await device.ask("message_send", sent))["payload"]["message"]["status"] == "sent"
        await asyncio.sleep(1.0)
        assert len(await own.rows("messages", person)) == 1, (
            "nothing is written into a row that would lose a part of it"
        )
        said = await _refusal(_options(own))
        assert "lacks draft_state" in said
        await server.ask("POST", f"/fields/{chats}", {**field, "schema": {"max_length": 16}, "collection": chats})
        await settled(running)
        assert len(await own.rows("messages", person)) == 2


@pytest.mark.timeout(240)
async def test_f25_a_directus_that_is_away_at_the_start_is_waited_for(
    start_prepared: StartPrepared, serve_on: ServeOn
) -> None:
    """F25: the process is up and names the part, new sign-ins come again later, and everything goes once it is back."""
    own = await start_prepared()
    await own.server.stop()
    person = somebody()
    async with serve_on(own) as running:
        status, body = await get(running, "/readyz")
        assert (status, body["parts"]["persistence"]["state"] != "ok") == (503, True)
        device = await Device(running.url, person).connect()
        answer = await device.sign_in()
        assert (answer["payload"]["code"], answer["payload"]["retryable"]) == ("unavailable", True)
        await device.close()
        await own.server.start()

        async def ready() -> bool:
            return (await get(running, "/readyz"))[0] == 200

        await until(ready)
        async with device:
            await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m1", "content": doc("hello")})
            assert (await device.event("message_update"))["status"] == "delivered"


async def test_nothing_listens_there(directus: Prepared) -> None:
    port = ReservedPort()
    try:
        async with Directus(_options(directus, f"http://127.0.0.1:{port.number}")) as plugin:
            assert f"nothing listens at http://127.0.0.1:{port.number}" in str(plugin.state()["reason"])
    finally:
        port.close()


@pytest.mark.parametrize(
    "url",
    [
        "directus.example.com",
        "ftp://directus.example.com",
        "http://",
        "http://user:password@directus.example.com",
        "http://directus.example.com/?access_token=x",
        "http://directus.example.com/#a",
        "http://exa mple.com",
        "file:///etc/passwd",
    ],
)
def test_t41_an_address_that_is_none_is_refused(directus: Prepared, url: str) -> None:
    """T41: the only destination is the one that the configuration names."""
    with pytest.raises(ValueError, match="address") as refused:
        _options(directus, url)
    assert "password" not in str(refused.value).replace("user or password", "").partition("input_value")[0]
