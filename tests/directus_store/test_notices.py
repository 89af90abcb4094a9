"""Notices at `POST /v1/hooks/persistence`: who may send them, and what nobody reaches by them (T26, T41, T42)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sidecar.server.running import Server
from tests.device import Device
from tests.directus_store.conftest import ServeOn
from tests.directus_store.test_elsewhere import with_texts
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.integration.world import cached, until
from tests.services.directus.front import DirectusFront

_SECRET = "a secret of the Flow and the sidecar"


async def notice(
    server: Server,
    body: dict[str, Any] | bytes,
    *,
    secret: str = _SECRET,
    sent: float | None = None,
    headers: dict[str, str] | None = None,
) -> int:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    at = f"{time.time() if sent is None else sent:.3f}"
    signature = hmac.new(secret.encode(), at.encode() + b"." + raw, hashlib.sha256).hexdigest()
    told = {"X-Sidecar-Time": at, "X-Sidecar-Signature": signature, **(headers or {})}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/v1/hooks/persistence", data=raw, headers=told) as response,
    ):
        return response.status


async def test_t42_a_signed_notice_is_taken_once_and_every_other_changes_nothing(
    directus: Prepared, serve_on: ServeOn
) -> None:
    """T42, F33: bad signature, too old, too new, of another body, replayed: 401, and the cached copy stays."""
    person = somebody()
    async with (
        serve_on(directus, options={"changes": "look", "notice_secret": _SECRET}) as server,
        Device(server.url, person) as device,
    ):
        await with_texts(server, device)
        key = key_of(person, "one")
        body = {"event": "items.update", "collection": directus.names.chats, "keys": [key]}
        full = device.full("one")
        assert await cached(server, full) is not None
        assert await notice(server, body, secret="another") == 401
        assert await notice(server, body, sent=time.time() - 301) == 401
        assert await notice(server, body, sent=time.time() + 400) == 401
        assert await notice(server, body, headers={"X-Sidecar-Signature": ""}) == 401
        assert await notice(server, body, headers={"X-Sidecar-Time": "yesterday"}) == 401
        assert await cached(server, full) is not None
        for wrong in (b"[]", b"no json", {"event": "items.update"}, {**body, "event": "users.login"}):
            assert await notice(server, wrong) == 400
        assert await notice(server, b"x" * 70_000) == 413
        assert await cached(server, full) is not None
        at = time.time()
        # Deleted while the sidecar looks for edits alone: only the notice can tell of it.
        await directus.delete("chats", key)
        gone = {"event": f"{directus.names.chats}.items.delete", "collection": directus.names.chats, "key": key}
        assert await notice(server, gone, sent=at) == 204
        assert (await device.event("chat_deleted"))["chatId"] == full
        assert await notice(server, gone, sent=at) == 401, "a replay"
        assert await notice(server, {**gone, "key": "nobody's"}) == 204


async def test_t42_without_a_secret_no_notice_is_taken(directus: Prepared, serve_on: ServeOn) -> None:
    body = {"event": "items.update", "collection": directus.names.chats, "key": "x"}
    async with serve_on(directus) as server:
        assert await notice(server, body, secret="") == 401
        async with aiohttp.ClientSession() as session:
            for slot in ("cache", "nothing"):
                async with session.post(f"{server.url}/v1/hooks/{slot}", data=b"{}") as response:
                    assert response.status == 404


# -- T41: nothing that comes in says where to go -------------------------------------------------------------------------


def _spellings(port: int) -> list[str]:
    """Of this machine's own address, of the metadata service of clouds, and of what resolves to either."""
    hosts = [
        *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001"),
        *("0", "0.0.0.0", "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "127.0.0.1.nip.io"),
        *("169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "metadata.google.internal"),
        *("①②⑦.⓪.⓪.①", "127。0。0。1", "user@127.0.0.1", "127.0.0.1#@example.com", "127.0.0.1%2f@example.com"),
        *("0.0.0.0.nip.io", "127.127.127.127", "localtest.me", "[::ffff:0:127.0.0.1]"),
    ]  # fmt: skip
    urls = [f"http://{host}:{port}/" for host in hosts]
    paths = [
        "../../users",
        "..%2f..%2fusers",
        "/utils/cache/clear",
        "x?access_token=y",
        "x#y",
        "x/../../roles",
        "\\..\\users",
    ]
    paths += [
        "%00",
        "x\r\nHost: evil",
        "a" * 5000,
        "x;y",
        "*",
        "",
        " ",
        ".",
        "..",
        "users/me",
        "{{$env}}",
        "$CURRENT_USER",
    ]
    other = [f"{scheme}127.0.0.1:{port}/" for scheme in ("//", "https://", "gopher://", "file://", "redis://", "ws://")]
    return [*urls, *paths, *other]


async def test_t41_no_notice_leads_anywhere_but_to_the_rows_of_the_directus_that_is_configured(
    directus: Prepared, serve_on: ServeOn, front: DirectusFront
) -> None:
    """T41: sixty spellings of an address as key, collection and owner; there is somebody who listens there, and nobody calls."""
    called: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.append((await reader.readline()).decode(errors="replace"))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as listener:
        spelled = _spellings(listener.sockets[0].getsockname()[1])
        assert len(spelled) >= 60
        options = {"changes": "notices", "notice_secret": _SECRET}
        async with serve_on(directus, front.url, options=options) as server:
            person = somebody()
            async with Device(server.url, person) as device:
                await with_texts(server, device)
                front.seen.clear()
                for event in ("items.update", "items.delete"):
                    for each in spelled:
                        key = {
                            "event": event,
                            "collection": directus.names.chats,
                            "keys": [each, f"{device.user}_{each}"],
                        }
                        assert await notice(server, key) == 204, each
                        assert await notice(
                            server, {"event": event, "collection": each, "key": key_of(person, "one")}
                        ) in (204, 400)
                await until(lambda: plugin_of(server).state()["notices"] == 4 * len(spelled))
                await asyncio.sleep(0.5)
                assert await cached(server, device.full("one")) is not None, "the person's own chat is not touched"
        assert {path for _, path in front.seen} <= {
            f"/items/{name}" for name in (directus.names.chats, directus.names.messages, directus.names.devices)
        } | {"/server/info", "/users/me", "/permissions/me"}
        assert called == []


# -- T26: a second request in the first one's body -----------------------------------------------------------------------


def _smuggled(inner: bytes) -> dict[str, bytes]:
    """A first request, in which a proxy and the server behind it may see different ends; `inner` stands where they differ."""
    head = b"POST /v1/hooks/persistence HTTP/1.1\r\nHost: %b\r\n"
    chunk = b"0\r\n\r\n" + inner
    length = b"Content-Length: %d\r\n" % len(chunk)
    chunked = b"Transfer-Encoding: chunked\r\n"
    return {
        "CL.TE": head + length + chunked + b"\r\n" + chunk,
        "TE.CL": head + chunked + b"Content-Length: 4\r\n\r\n" + b"%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n",
        "TE.TE, a second value": head + length + b"Transfer-Encoding: chunked, identity\r\n\r\n" + chunk,
        "TE.TE, another word": head + length + b"Transfer-Encoding: xchunked\r\n\r\n" + chunk,
        "TE.TE, a space before the colon": head + length + b"Transfer-Encoding : chunked\r\n\r\n" + chunk,
        "TE.TE, a tab": head + length + b"Transfer-Encoding:\tchunked\r\n\r\n" + chunk,
        "TE.TE, folded": head + length + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + chunk,
        "TE.TE, twice": head + length + b"Transfer-Encoding: identity\r\n" + chunked + b"\r\n" + chunk,
        "TE.TE, a vertical tab": head + length + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + chunk,
        "CL.CL": head + b"Content-Length: 0\r\n" + length + b"\r\n" + chunk,
        "CL with a sign": head + b"Content-Length: +%d\r\n\r\n" % len(chunk) + chunk,
        "CL with a space": head + b"Content-Length: %d 0\r\n\r\n" % len(chunk) + chunk,
        "CL, a list": head + b"Content-Length: 0, %d\r\n\r\n" % len(chunk) + chunk,
        "CL in hex": head + b"Content-Length: 0x%x\r\n\r\n" % len(chunk) + chunk,
        "a chunk of a negative size": head + chunked + b"\r\n-1\r\n" + inner,
        "a chunk of more than there can be": head + chunked + b"\r\nffffffffffffffff1\r\n" + inner,
        "a chunk with a bare line feed": head + chunked + b"\r\n1\nx\n0\n\n" + inner,
        "a header hidden by a null": head + b"X: a\x00\r\n" + length + b"\r\n" + chunk,
        "a header hidden by a bare return": head + b"X: a\rTransfer-Encoding: chunked\r\n" + length + b"\r\n" + chunk,
        "an upgrade with a body": b"GET /ws HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + length + b"\r\n" + chunk,
        "HTTP/2 in the clear": b"POST /v1/hooks/persistence HTTP/1.1\r\nHost: %b\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
        + length + chunked + b"\r\n" + chunk,
    }  # fmt: skip


async def test_t26_no_request_is_taken_out_of_anothers_body(directus: Prepared, serve_on: ServeOn) -> None:
    """T26: what a proxy sends on as one request is one: the notice within it, signed as it should be, never reaches the plugin."""
    async with serve_on(directus, options={"changes": "look", "notice_secret": _SECRET}) as server:
        host = urlsplit(server.url).netloc.encode()
        body = json.dumps({"event": "items.update", "collection": directus.names.chats, "key": "x"}).encode()
        for name in _smuggled(b""):
            at = f"{time.time():.3f}"
            signature = hmac.new(_SECRET.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
            inner = (
                f"POST /v1/hooks/persistence HTTP/1.1\r\nHost: {host.decode()}\r\nX-Sidecar-Time: {at}\r\n"
                f"X-Sidecar-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode() + body
            sent = _smuggled(inner)[name].replace(b"%b", host)
            address = urlsplit(server.url)
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(sent)
            async with asyncio.timeout(20):
                answers = await reader.read(65536)  # or the end: none of them is waited for
            try:
                async with asyncio.timeout(0.3):
                    while piece := await reader.read(65536):
                        answers += piece
            except (TimeoutError, ConnectionError):
                pass
            writer.close()
            assert answers.count(b"HTTP/1.1 ") <= 1, (name, answers)
            assert b" 204" not in answers, (name, answers)
            assert plugin_of(server).state()["notices"] == 0, name
        assert await notice(server, body) == 204, "by itself it is taken"
