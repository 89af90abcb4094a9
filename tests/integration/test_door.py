"""What comes to the port before it is a WebSocket, and what no WebSocket may send (S2, T3, T4, T5, T19, T21, T25, T26)."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device
from tests.raw_socket import BINARY, CLOSE, CUT, PING, PONG, TEXT, RawSocket, frame

AUTH = orjson.dumps({"type": "auth", "id": "a", "payload": {"token": "dev:mallory", "protocol": 1}})


@pytest.fixture
async def witness(server: Server) -> AsyncIterator[Device]:
    """Another person, who must notice nothing; and nothing is left behind."""
    async with Device(server.url, "witness") as device:
        yield device
        assert (await device.ask("ping", {}))["type"] == "pong"
        for _ in range(100):
            if len(server.context.registry) == 1 and not server.context.opening:
                break
            await asyncio.sleep(0.02)
        assert len(server.context.registry) == len(server.context.sessions) == 1
        assert not server.context.opening


# -- refused before the upgrade ----------------------------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, str | None], str, int]] = [
    ("a foreign origin (T3)", {"Origin": "https://evil.example"}, "/ws", 403),
    ("no origin at all, but null (T3)", {"Origin": "null"}, "/ws", 403),
    ("a foreign host (T4)", {"Host": "evil.example"}, "/ws", 403),
    ("a rebound host (T4)", {"Host": "127.0.0.1.nip.io:80"}, "/ws", 403),
    ("no host (T4)", {"Host": None}, "/ws", 400),
    ("a token in the URL (S2, T5)", {}, "/ws?access_token=canary", 400),
    ("a token in the URL, hidden (S2, T5)", {}, "/ws?%74oken=canary", 400),
    ("a token in the URL, without a value (S2, T5)", {}, "/ws?token", 400),
    ("a body (T26)", {"Content-Length": "5"}, "/ws", 400),
    ("a chunked body (T26)", {"Transfer-Encoding": "chunked"}, "/ws", 400),
    ("no upgrade", {"Upgrade": None, "Connection": None}, "/ws", 426),
    ("another upgrade", {"Upgrade": "h2c"}, "/ws", 426),
    ("no key", {"Sec-WebSocket-Key": None}, "/ws", 400),
    ("a bad key", {"Sec-WebSocket-Key": "short"}, "/ws", 400),
    ("another version", {"Sec-WebSocket-Version": "99"}, "/ws", 400),
    ("another path", {}, "/socket", 404),
    ("a token in the path (T5)", {}, "/ws/canary", 404),
]


@pytest.mark.parametrize(
    ("headers", "path", "status"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED]
)
async def test_t3_t4_t5_t26_refusals(server: Server, headers: dict[str, str | None], path: str, status: int) -> None:
    async with RawSocket(server.url) as raw:
        got, answer = await raw.request(raw.head(path, **headers))
        assert got == status
        if headers != {"Host": None}:  # that one aiohttp's parser refuses, which closes without saying so
            assert answer["connection"] == "close"
        raw.writer.write(raw.head())  # a second request behind it is never read (T26)
        rest = await asyncio.wait_for(raw.reader.read(), 5)
        assert b"HTTP/1.1" not in rest
    assert not server.context.opening


async def test_t3_two_origin_headers_are_refused(server: Server) -> None:
    async with RawSocket(server.url) as raw:
        good = f"Origin: {server.url}\r\n".encode()
        status, _ = await raw.request(raw.head()[:-2] + good + good + b"\r\n")
        assert status == 403


async def test_t3_the_same_origin_comes_in(server: Server) -> None:
    device = Device(server.url)
    await device.open(Origin=server.url)
    await device.close()


async def test_t5_s2_a_token_in_the_url_stands_in_no_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for path in (
        "/ws?access_token=canary-7f3a",
        "/ws/canary-7f3a",
        "/canary-7f3a?x=canary-7f3a",
        "/ws?x=canary-7f3a y",
    ):
        async with RawSocket(server.url) as raw:
            raw.writer.write(raw.head(path))
            await asyncio.wait_for(raw.reader.read(2000), 5)
    own = [record for record in caplog.records if record.name.startswith("sidecar")]
    assert not [record for record in own if "canary" in record.getMessage()]
    assert not [record for record in caplog.records if "canary" in record.getMessage() and record.name != "asyncio"]


async def test_t21_compression_is_not_offered(server: Server, witness: Device) -> None:
    async with RawSocket(server.url) as raw:
        extensions = "permessage-deflate; client_max_window_bits"
        status, answer = await raw.request(raw.head(**{"Sec-WebSocket-Extensions": extensions}))
        assert status == 101
        assert "sec-websocket-extensions" not in answer
        await raw.json()
        raw.writer.write(frame(b"\x00" * 100, rsv=4))  # compressed all the same
        assert await raw.closed() == 1002


async def test_t19_drip_handshakes_are_cut_and_a_good_client_connects(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T19: 300 connections that drip; each is cut after the deadline, and meanwhile others get in."""
    monkeypatch.setattr(
        "sidecar.server.listening.Handshakes.__init__.__kwdefaults__", {"seconds": 0.6, "half_open": 4096}
    )
    async with serve() as server:
        drips = await asyncio.gather(*(RawSocket(server.url).dial() for _ in range(300)))

        async def drip(raw: RawSocket) -> float:
            started = asyncio.get_running_loop().time()
            try:
                for byte in raw.head() * 10:
                    raw.writer.write(bytes((byte,)))
                    await asyncio.sleep(0.1)
                    if (
                        raw.reader.at_eof() or raw.reader.exception() is not None
                    ):  # a byte that crossed the cut is a reset
                        break
                await raw.reader.read()
            except ConnectionError:
                pass
            raw.writer.close()
            return asyncio.get_running_loop().time() - started

        dripping = asyncio.gather(*map(drip, drips))
        await asyncio.sleep(0.2)
        async with Device(server.url) as good:
            assert good.ready
        assert max(await dripping) < 6, "every one of them was cut"
        await asyncio.sleep(0.1)
        async with Device(server.url) as good:
            assert good.ready


async def test_t19_when_too_many_drip_the_oldest_goes_first(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.server.listening.Handshakes.__init__.__kwdefaults__", {"seconds": 60, "half_open": 20})
    async with serve() as server:
        drips = [await RawSocket(server.url).dial() for _ in range(30)]
        await asyncio.sleep(0.1)
        for raw in drips[:10]:
            assert await asyncio.wait_for(raw.reader.read(), 5) == b""
        async with Device(server.url) as good:
            assert good.ready
        status, _ = await drips[-1].request(drips[-1].head())
        assert status == 101
        for raw in drips:
            raw.writer.close()


async def test_t19_connections_that_went_by_themselves_are_not_counted(server: Server) -> None:
    for _ in range(50):
        async with RawSocket(server.url) as raw:
            raw.writer.write(b"GET /ws HT")
    async with RawSocket(server.url) as raw:
        raw.writer.write(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        await asyncio.wait_for(raw.reader.read(), 5)
    async with Device(server.url) as good:
        assert good.ready


async def test_whoever_comes_while_the_server_stops_is_sent_away(server: Server) -> None:
    server.context.stopping = True
    async with RawSocket(server.url) as raw:
        status, answer = await raw.request(raw.head())
        assert status == 503
        assert int(answer["retry-after"]) > 0


# -- T25: frames that are none -----------------------------------------------------------------------------------------

BROKEN: list[tuple[str, bytes, set[int]]] = [
    ("without a mask", frame(b"{}", masked=False), {CUT}),
    ("without a mask, behind a good one", frame(b'{"type":"ping"}') + frame(b"{}", masked=False), {CUT}),
    ("a ping without a mask", frame(b"", PING, masked=False), {CUT}),
    ("an opcode that is none", frame(b"x", 3), {1002}),
    ("an opcode that is no control", frame(b"x", 11), {1002}),
    ("reserved bit 1", frame(b"{}", rsv=4), {1002}),
    ("reserved bit 2", frame(b"{}", rsv=2), {1002}),
    ("reserved bit 3", frame(b"{}", rsv=1), {1002}),
    ("a continuation of nothing", frame(b"x", 0), {1002}),
    ("a text within a text", frame(b"x", TEXT, fin=False) + frame(b"y", TEXT), {1002}),
    ("a ping in pieces", frame(b"x", PING, fin=False), {1002}),
    ("a ping of 126 bytes", frame(bytes(126), PING), {1002}),
    ("a close of one byte", frame(b"x", CLOSE), {1002}),
    ("a close with 999", frame((999).to_bytes(2, "big"), CLOSE), {1002}),
    ("a close with 1005", frame((1005).to_bytes(2, "big"), CLOSE), {1002}),
    ("a close with 1006", frame((1006).to_bytes(2, "big"), CLOSE), {1000, 1002}),
    ("a close with bad UTF-8", frame((1000).to_bytes(2, "big") + b"\xff\xfe", CLOSE), {1002, 1007}),
    ("2**63 bytes", frame(b"", length=2**63), {1009, 1002}),
    ("2**40 bytes", frame(b"", length=2**40), {1009}),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", {CUT, 1002, 1007}),
]


@pytest.mark.parametrize(("sent", "codes"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN])
@pytest.mark.parametrize("signed_in", [True, False], ids=["ready", "before ready"])
async def test_t25_a_broken_frame_closes_its_own_socket(
    server: Server, witness: Device, sent: bytes, codes: set[int], signed_in: bool
) -> None:
    async with RawSocket(server.url) as raw:
        await (raw.sign_in() if signed_in else raw.upgrade())
        raw.writer.write(sent)
        assert await raw.closed() in codes


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"\xff\xfe\xfd"), "bad_frame"),
        (frame(b'{"type":"ping","x":"\xed\xa0\x80"}'), "bad_frame"),
        (frame(b""), "bad_frame"),
        (frame(b"{}", BINARY), "bad_frame"),
    ],
    ids=["bad UTF-8", "a surrogate in UTF-8", "an empty frame", "binary"],
)
async def test_t25_s58_a_frame_that_is_no_text_is_told_so_and_the_socket_stays(
    server: Server, witness: Device, sent: bytes, code: str
) -> None:
    async with RawSocket(server.url) as raw:
        await raw.sign_in()
        raw.writer.write(sent)
        assert (await raw.json())["payload"]["code"] == code
        raw.send(b'{"type":"ping"}')
        assert (await raw.json())["type"] == "pong"


@pytest.mark.parametrize("early", [True, False], ids=["in the same packet", "before the answer"])
async def test_t25_a_frame_without_a_mask_that_comes_too_early(server: Server, witness: Device, early: bool) -> None:
    async with RawSocket(server.url) as raw:
        if early:
            raw.writer.write(raw.head() + frame(AUTH, masked=False))
        else:
            raw.writer.write(raw.head())
            raw.writer.write(frame(AUTH, masked=False))
        seen = await asyncio.wait_for(raw.reader.read(), 5)
        assert b'"ready"' not in seen


async def test_t25_frames_in_the_packet_of_the_request_are_heard(server: Server, witness: Device) -> None:
    async with RawSocket(server.url) as raw:
        status, _ = await raw.request(raw.head() + frame(AUTH))
        assert status == 101
        assert [(await raw.json())["type"] for _ in range(2)] == ["hello", "ready"]


async def test_t25_control_frames_between_the_pieces_of_a_text(server: Server, witness: Device) -> None:
    async with RawSocket(server.url) as raw:
        await raw.sign_in()
        raw.writer.write(frame(b'{"type":', fin=False) + frame(b"hi", PING) + frame(b"", PONG) + frame(b'"ping"}', 0))
        seen = [await raw.next() for _ in range(2)]
        assert (PONG, b"hi") in seen
        assert any(opcode == TEXT and b"pong" in payload for opcode, payload in seen)


async def test_t25_noise_closes_its_own_socket(
    server: Server, witness: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """T25: random bytes, and good frames with random bytes in them; the process lives and nobody else notices."""
    noise = random.Random(25)
    good = frame(b'{"type":"ping"}')
    makers: list[Callable[[], bytes]] = [
        lambda: noise.randbytes(noise.randint(1, 400)),
        lambda: bytes(each ^ (noise.random() < 0.1) * noise.randint(1, 255) for each in good * 5),
        lambda: frame(noise.randbytes(50), noise.randint(0, 15), fin=noise.random() < 0.5, rsv=noise.randint(0, 7)),
    ]
    for number in range(90):
        async with RawSocket(server.url) as raw:
            await (raw.sign_in() if number % 2 else raw.upgrade())
            for _ in range(5):
                raw.writer.write(makers[number % 3]())
            await asyncio.sleep(0)
    async with Device(server.url) as device:
        assert device.ready
    loud: list[Any] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert loud == [], [record.getMessage() for record in loud]


async def test_hundreds_that_connect_at_once_are_kept_until_they_are_accepted(server: Server) -> None:
    """After a restart all come back within a second. Nothing here awaits: the kernel alone has to take them."""
    at = urlsplit(server.url)
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection((str(at.hostname), int(at.port or 0)), timeout=5))
