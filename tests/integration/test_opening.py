"""From the upgrade to `ready`: hello, auth, its deadline, the device (S1, S8, T13, T20; protocol *Opening*)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.errors import Unauthenticated, Unavailable
from sidecar.frames.client import CLIENT_FRAMES
from sidecar.ids import UserHash, hash_user
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, SocketClosed, doc
from tests.raw_socket import PING, RawSocket

SESSIONS = {"use": "tests.plugins.sessions:Sessions"}

# A good payload of every client frame but `auth`: what is refused is refused for its time, not for its shape.
FRAMES: Mapping[str, dict[str, Any]] = {
    "reauth": {"challengeId": "x", "method": "totp", "code": "123456"},
    "auth_refresh": {"token": "dev:alice"},
    "ping": {},
    "sync_request": {},
    "messages_request": {"chatId": "c1", "limit": 10},
    "chats_request": {"limit": 10},
    "draft_update": {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0},
    "draft_delete": {"chatId": "c1", "basedOnVersion": 1, "hasMessages": False},
    "title_update": {"chatId": "c1", "title": "t", "basedOnVersion": 0},
    "chat_restore": {
        "chatId": "c1",
        "draft": {"content": doc("x"), "state": "edited", "version": 3, "op": "o"},
        "messagesVersion": 0,
    },
    "message_send": {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("x")},
    "set_active_chat": {"chatId": None},
    "message_stop": {"chatId": "c1", "messageId": "00000000-0000-0000-0000-000000000000"},
    "chat_delete": {"chatId": "c1"},
    "devices_request": {},
    "device_rename": {"deviceId": "d", "name": "n"},
    "device_revoke": {"deviceId": "d"},
}


async def _auth(device: Device, **payload: Any) -> dict[str, Any]:
    return await device.ask("auth", {"token": device.token, "protocol": 1, **payload})


async def test_hello_says_what_the_server_takes(serve: Serve) -> None:
    async with serve(
        limits={"max_frame": "300KiB"}, server={"auth_timeout": "7s"}, titles={"max_length": 99}
    ) as server:
        device = await Device(server.url).connect()
        await _auth(device)
        assert device.hello["protocol"] == {"min": 1, "max": 1}
        assert device.hello["server"]["name"] == "directus-sync-sidecar"
        assert device.hello["authTimeoutMs"] == 7000
        assert device.hello["limits"] == {
            "maxFrameBytes": 300 * 1024,
            "maxDraftBytes": 128 * 1024,
            "maxTitleLength": 99,
            "framesPerSecond": 50,
        }
        await device.close()


async def test_ready_says_who_and_what(server: Server) -> None:
    async with Device(server.url, "alice") as one, Device(server.url, "alice") as two, Device(server.url, "bob") as bob:
        assert one.user == two.user != bob.user
        assert len(one.user) == 64
        assert one.ready["connectionId"] != two.ready["connectionId"]
        assert one.ready["epoch"] == two.ready["epoch"] != bob.ready["epoch"]
        assert one.ready["sessionExpiresAt"] is None
        assert one.ready["pingIntervalMs"] == 25_000
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one.ready["serverTime"])
        assert one.ready["device"]["isNew"]


# -- S1: who does not come in is told why ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token", [None, "", "nonsense", "dev:", "dev:UPPER", "dev:" + "a" * 33, "dev:a\u0000b", "x" * 500]
)
async def test_s1_no_or_a_bad_token_is_told_so_and_closed_4401(server: Server, token: str | None) -> None:
    device = await Device(server.url).connect()
    answer = await device.ask("auth", {"protocol": 1} if token is None else {"token": token, "protocol": 1})
    assert answer["payload"]["code"] == "unauthenticated"
    assert not token or token not in orjson.dumps(answer).decode()
    assert await device.closed() == 4401
    await device.close()


async def test_s1_an_expired_session_is_closed_4401(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server:
        auth: Any = server.context.parts.auth
        auth.lives["alice"] = -5
        device = await Device(server.url, token="alice").connect()
        assert (await _auth(device))["payload"]["code"] == "unauthenticated"
        assert await device.closed() == 4401
        await device.close()
        assert len(server.context.registry) == 0


async def test_s1_no_common_protocol_closes_4400(server: Server) -> None:
    device = await Device(server.url).connect()
    answer = await _auth(device, protocol=2)
    assert answer["payload"]["code"] == "unsupported_protocol"
    assert await device.closed() == 4400
    await device.close()


async def test_s1_t20_whoever_says_nothing_is_closed_4408(serve: Serve) -> None:
    async with serve(server={"auth_timeout": "300ms"}) as server:
        silent, chatty = await Device(server.url).connect(), await Device(server.url).connect()
        assert (await chatty.ask("ping", {}))["type"] == "pong"
        assert await silent.closed() == 4408
        assert await chatty.closed() == 4408
        await silent.close()
        await chatty.close()
        async with Device(server.url) as good:
            assert good.ready


@pytest.mark.parametrize(
    ("error", "part"), [(Unavailable("auth", "away", 3.0), "auth"), (TimeoutError(), "auth"), (OSError("secret"), None)]
)
async def test_s1_trouble_at_the_authenticator_is_not_the_persons_fault(
    serve: Serve, error: Exception, part: str | None
) -> None:
    async with serve(auth=SESSIONS) as server:
        auth: Any = server.context.parts.auth
        auth.error = error
        device = await Device(server.url, token="alice").connect()
        payload = (await _auth(device))["payload"]
        if part is None:
            assert payload["code"] == "internal"
            assert "secret" not in str(payload)
        else:
            assert payload["code"] == "unavailable"
            assert payload["retryable"]
            assert payload["details"] == {"part": part}
        assert await device.closed() == 1013
        await device.close()


async def test_s1_an_authenticator_that_hangs_is_unavailable(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.server.opening._SIGN_IN_SECONDS", 0.2)
    async with serve(auth=SESSIONS) as server:
        auth: Any = server.context.parts.auth
        auth.hangs = True
        device = await Device(server.url, token="alice").connect()
        assert (await _auth(device))["payload"]["code"] == "unavailable"
        assert await device.closed() == 1013
        await device.close()
        auth.hangs = False
        async with Device(server.url, token="alice") as good:
            assert good.ready


async def test_s1_a_store_that_hangs_does_not_keep_the_socket_in_between(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.server.opening._OPENING_SECONDS", 0.2)

    async def hang(*_: object) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(server.context.parts.store, "devices", hang)
    device = await Device(server.url).connect()
    assert (await _auth(device))["payload"]["code"] == "unavailable"
    assert await device.closed() == 1013
    await device.close()
    assert await server.context.parts.cache.leases.held(f"connections:{hash_user('alice')}") == {}


@pytest.mark.parametrize("answer", ["alice", 7])
async def test_an_authenticator_that_answers_nonsense_lets_nobody_in(serve: Serve, answer: Any) -> None:
    async with serve(auth=SESSIONS) as server:
        auth: Any = server.context.parts.auth
        auth.answer = answer
        device = await Device(server.url, token="alice").connect()
        assert (await _auth(device))["payload"]["code"] == "internal"
        assert await device.closed() == 1013
        await device.close()
        assert len(server.context.registry) == 0


# -- T13: nothing but auth and ping before ready -----------------------------------------------------------------------


def test_t13_every_frame_type_is_tried() -> None:
    assert {*FRAMES, "auth"} == set(CLIENT_FRAMES)


async def test_t13_before_ready_every_other_frame_is_refused(server: Server) -> None:
    for name in FRAMES:
        device = await Device(server.url).connect()
        answer = await device.ask(name, FRAMES[name])
        if name == "ping":
            assert answer["type"] == "pong"
        else:
            assert answer["payload"]["code"] == "not_ready", name
        assert (await _auth(device))["type"] == "ready", "the socket stays open"
        assert [chat for part in await device.sync() for chat in part["chats"]] == [], f"{name} had an effect"
        await device.close()


async def test_t13_a_refused_sign_in_leaves_nothing_to_use(server: Server) -> None:
    device = await Device(server.url, token="bad").connect()
    await device.send("auth", {"token": "bad", "protocol": 1}, "a")
    ids = [await device.send(name, payload) for name, payload in FRAMES.items() if name != "ping"]
    assert (await device.answer("a"))["payload"]["code"] == "unauthenticated"
    for id_ in ids:
        with pytest.raises(SocketClosed):
            await device.answer(id_)
    assert device.close_code == 4401
    await device.close()
    async with Device(server.url, "alice") as alice:
        assert [chat for part in await alice.sync() for chat in part["chats"]] == []


async def test_t13_after_ready_auth_is_refused_and_the_later_releases_frames_are_unknown(server: Server) -> None:
    async with Device(server.url) as device:
        again = await device.ask("auth", {"token": "dev:bob", "protocol": 1})
        assert again["payload"]["code"] == "bad_payload"
        assert (await device.ask("ping", {}))["type"] == "pong"
        for name in ("reauth", "devices_request", "device_rename", "device_revoke"):
            assert (await device.ask(name, FRAMES[name]))["payload"]["code"] == "unknown_type", name


async def test_t13_a_frame_that_is_none_is_answered_before_ready_too(server: Server) -> None:
    async with RawSocket(server.url) as raw:
        await raw.upgrade()
        for bad, code in (
            (b"nonsense", "bad_frame"),
            (b"[]", "bad_frame"),
            (b'{"type":"auth","id":"a"}', "bad_payload"),
        ):
            raw.send(bad)
            answer = await raw.json()
            assert (answer["type"], answer["payload"]["code"]) == ("error", code)
        raw.send(b"x", 2)
        assert (await raw.json())["payload"]["code"] == "bad_frame"
        for _ in range(30):
            raw.send(b"", PING)
        assert await raw.closed() == 4429, "nobody needs so many frames to sign in"


# -- S8, cookies -------------------------------------------------------------------------------------------------------


async def test_s8_sign_in_and_first_connect_at_the_same_moment(server: Server) -> None:
    devices = [Device(server.url, f"new-{number}") for number in range(20)]
    await asyncio.gather(*(device.open() for device in devices))
    answers = await asyncio.gather(*(device.ask("draft_update", FRAMES["draft_update"]) for device in devices))
    assert {answer["type"] for answer in answers} == {"chat_initiated"}
    await asyncio.gather(*(device.close() for device in devices))


async def test_t3_a_cookie_signs_in_with_its_origin_only(serve: Serve) -> None:
    section = {"cookie": "session_token", "origins": ["https://app.example.com"]}
    async with serve(auth=SESSIONS, server=section) as server:
        auth: Any = server.context.parts.auth
        good = {"Cookie": "session_token=alice", "Origin": "https://app.example.com"}
        device = await Device(server.url).connect(**good)
        assert (await device.ask("auth", {"protocol": 1}))["type"] == "ready"
        assert auth.credentials[-1].from_cookie
        assert auth.credentials[-1].token == "alice"
        await device.close()
        for headers in ({"Cookie": good["Cookie"]}, {**good, "Origin": "https://evil.example"}):
            async with RawSocket(server.url) as raw:
                status, answer = await raw.request(raw.head(**headers))
                assert status == 403
                assert answer["connection"] == "close"
        without = await Device(server.url).connect(Origin=good["Origin"])
        assert (await without.ask("auth", {"protocol": 1}))["payload"]["code"] == "unauthenticated"
        assert await without.closed() == 4401
        await without.close()


# -- devices -----------------------------------------------------------------------------------------------------------


def _rows(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_a_known_device_stays_the_same_over_a_restart(serve: Serve, tmp_path: Path) -> None:
    device = Device("")
    async with serve() as server:
        device.url = server.url
        await device.open(**{"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"})
        first = device.ready["device"]
        assert first["isNew"]
        assert first["name"] == "Firefox on Linux"
        secret = first["secret"]
        assert len(secret) >= 43
        await device.close()
        await device.open()
        assert device.ready["device"] == {"id": first["id"], "name": first["name"], "isNew": False}
        await device.close()
    assert secret.encode() not in _rows(tmp_path), "the secret stands nowhere in clear"
    async with serve() as server:
        device.url = server.url
        await device.open()
        assert device.ready["device"]["id"] == first["id"]
        await device.close()


@pytest.mark.parametrize("what", ["secret", "id", "person"])
async def test_whoever_proves_nothing_is_a_new_device(server: Server, what: str) -> None:
    async with Device(server.url, "alice") as device:
        proof = dict(device.proof or {})
    stranger = Device(server.url, "bob" if what == "person" else "alice")
    stranger.proof = {**proof, what: "x" * 20} if what != "person" else proof
    async with stranger:
        assert stranger.ready["device"]["isNew"]
        assert stranger.ready["device"]["id"] != proof["id"]
    device.proof = proof
    async with device:
        assert not device.ready["device"]["isNew"], "the device itself lost nothing"


async def test_a_device_record_that_is_damaged_in_the_cache_comes_from_the_store(server: Server) -> None:
    async with Device(server.url) as device:
        pass
    leases = server.context.parts.cache.leases
    id_ = device.ready["device"]["id"]
    await leases.take(f"device:{device.user}:{id_}", id_, 60, 1, b"\xffnot json")
    async with device:
        assert device.ready["device"]["id"] == id_
        assert not device.ready["device"]["isNew"]


async def test_a_person_has_at_most_ten_devices(server: Server) -> None:
    devices = [Device(server.url) for _ in range(12)]
    for device in devices:
        await device.open()
        await device.close()
    assert len(await server.context.parts.store.devices(UserHash(devices[0].user))) == 10
    async with devices[0]:
        assert devices[0].ready["device"]["isNew"], "the one that was unused for longest is forgotten"
    async with devices[11]:
        assert not devices[11].ready["device"]["isNew"]


async def test_unauthenticated_of_a_plugin_is_not_repeated_to_the_client(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server:
        auth: Any = server.context.parts.auth
        auth.error = Unauthenticated("the row 17 of users says no")
        device = await Device(server.url, token="alice").connect()
        assert "17" not in str(await _auth(device))
        await device.close()
