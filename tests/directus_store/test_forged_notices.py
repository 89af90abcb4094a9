"""`POST /v1/hooks/persistence` as whoever is not Directus sends to it (T42): nothing is taken twice, nothing unsigned counts, nobody is flooded."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from plugins.directus.notices import Notices
from plugins.persistence.directus import Directus
from sidecar.server.running import Server
from tests.directus_store.conftest import ServeOn
from tests.directus_store.world import Prepared, plugin_of

_SECRET = "a secret of the Flow and the sidecar"


def _signed(told: dict[str, Any], sent: str | None = None, secret: str = _SECRET) -> tuple[bytes, dict[str, str]]:
    body = json.dumps(told).encode()
    at = f"{time.time():.3f}" if sent is None else sent
    signature = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    return body, {"X-Sidecar-Time": at, "X-Sidecar-Signature": signature}


async def _post(server: Server, body: bytes, headers: dict[str, str]) -> int:
    url = f"{server.url}/v1/hooks/persistence"
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        return response.status


@pytest.fixture
async def server(directus: Prepared, serve_on: ServeOn) -> AsyncIterator[Server]:
    async with serve_on(directus, options={"changes": "notices", "notice_secret": _SECRET}) as server:
        yield server


@pytest.fixture
def told(directus: Prepared) -> dict[str, Any]:
    return {"event": "items.update", "collection": directus.names.chats, "keys": ["nobodys"]}


async def test_t42_a_replay_is_one_whatever_is_changed_of_it_that_nobody_signed(
    server: Server, told: dict[str, Any]
) -> None:
    """A proxy stamps each request anew, an attacker as well: neither makes a new notice of it."""
    body, headers = _signed(told)
    assert await _post(server, body, headers) == 204
    for again in (
        headers,
        {**headers, "X-Request-Id": "another"},
        {**headers, "X-Forwarded-For": "203.0.113.7"},
        {**headers, "X-Sidecar-Signature": headers["X-Sidecar-Signature"].upper()},
        {**headers, "X-Sidecar-Signature": f"  {headers['X-Sidecar-Signature']} "},
        {**headers, "X-Sidecar-Time": f"  {headers['X-Sidecar-Time']} "},
        {name.lower(): value for name, value in headers.items()},
    ):
        assert await _post(server, body, again) == 401, again
    for changed in (f"{headers['X-Sidecar-Time']}0", f"+{headers['X-Sidecar-Time']}", f"{time.time():.3f}"):
        assert await _post(server, body, {**headers, "X-Sidecar-Time": changed}) == 401, "the time is signed"
    assert await _post(server, body + b" ", headers) == 401, "and so is each byte of the body"
    fresh, once_more = _signed(told, f"{time.time() + 1:.3f}")
    assert await _post(server, fresh, once_more) == 204, "the same edit, told anew, is another notice"


async def test_t42_of_the_same_notice_sent_by_many_at_once_one_is_taken(server: Server, told: dict[str, Any]) -> None:
    body, headers = _signed(told)
    answers = await asyncio.gather(*(_post(server, body, {**headers, "X-Try": str(each)}) for each in range(20)))
    assert sorted(answers) == [204, *[401] * 19]


async def test_t42_what_is_missing_odd_or_not_a_number_is_refused_in_words(
    server: Server, told: dict[str, Any]
) -> None:
    body, headers = _signed(told)
    for name in headers:
        assert await _post(server, body, {key: value for key, value in headers.items() if key != name}) == 401
    for sent in ("", "nan", "inf", "-inf", "1e400", "0x10", "١٢٣", "yesterday"):
        assert await _post(server, *_signed(told, sent)) == 401, "rightly signed, and no time"
    # Bytes that are no text, straight onto the wire.
    host, port = server.url.removeprefix("http://").split(":")
    for header in (b"X-Sidecar-Signature: \xff\xfe", b"X-Sidecar-Time: \xff"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/hooks/persistence HTTP/1.1\r\nHost: %b:%b\r\nConnection: close\r\n%b\r\nContent-Length: 2\r\n\r\n{}"
            % (host.encode(), port.encode(), header)
        )
        assert b" 401 " in await reader.readline()
        writer.close()
    assert plugin_of(server).state()["notices"] == 0


async def test_t42_other_methods_and_slots_are_not_there(server: Server, told: dict[str, Any]) -> None:
    body, headers = _signed(told)
    async with aiohttp.ClientSession() as session:
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            url = f"{server.url}/v1/hooks/persistence"
            async with session.request(method, url, data=body, headers=headers) as response:
                assert response.status == 405, method
        for slot in ("auth", "cache", "encryption", "", "persistence/x", "..%2fpersistence", "PERSISTENCE"):
            async with session.post(f"{server.url}/v1/hooks/{slot}", data=body, headers=headers) as response:
                assert response.status == 404, slot
    assert plugin_of(server).state()["notices"] == 0


async def test_t42_a_body_too_large_or_too_slow_is_let_go(
    server: Server, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body, headers = _signed({**told, "keys": ["x" * 70_000]})
    assert await _post(server, body, headers) == 413
    monkeypatch.setattr("sidecar.server.notices._READ_SECONDS", 0.3)
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/hooks/persistence HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n\r\n"
    writer.write(head.encode() + b"{")
    async with asyncio.timeout(10):
        assert b" 408 " in await reader.readline()
    writer.close()


async def test_t42_a_flood_of_forged_notices_fills_no_log(
    server: Server, told: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body, headers = _signed(told, secret="another secret altogether")
    for _ in range(10):
        assert set(await asyncio.gather(*(_post(server, body, headers) for _ in range(20)))) == {401}
    assert caplog.text.count("notice_refused") <= 2
    assert await _post(server, *_signed(told)) == 204, "and genuine ones are taken as before"


def test_t42_a_secret_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than 16 characters"):
        Directus.Options.model_validate({"notice_secret": "secret"})


def test_t42_what_makes_a_notice_is_what_is_signed() -> None:
    notices = Notices(None)
    same = notices.identity({"x-sidecar-time": "1", "x-other": "a"}, b"{}")
    assert same == notices.identity({"X-Sidecar-Time": "1"}, b"{}")
    assert (
        len({same, notices.identity({"x-sidecar-time": "2"}, b"{}"), notices.identity({"x-sidecar-time": "1"}, b"[]")})
        == 3
    )
