"""Nothing that a person wrote, and no secret, stands anywhere but in frames to that person (T38, T5, S32)."""

from __future__ import annotations

import asyncio
import io
import logging
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from redis.asyncio import Redis

from sidecar import logs
from sidecar.errors import Unavailable, Undecryptable
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, SocketClosed, new_id
from tests.raw_socket import RawSocket

CANARY = "canary" + secrets.token_hex(8)
TOKEN = "sessiontoken" + secrets.token_hex(8)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the sidecar logs at DEBUG, as `sidecar serve` sets it up."""
    root, stream = logging.getLogger(), io.StringIO()
    level, configured = root.level, structlog.get_config()
    logs.configure("DEBUG", "json", stream)
    yield stream
    for handler in [each for each in root.handlers if isinstance(each, logs.Lines)]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.getLogger("aiohttp.access").disabled = False
    for name in ("aiohttp", "asyncio", "concurrent", "charset_normalizer", "hvac", "redis", "urllib3"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.configure(**configured)


def content(text: str = CANARY) -> dict[str, Any]:
    """The canary as a text, a type, an attribute, a mark and a key."""
    return {
        "type": "doc",
        text: text,
        "content": [
            {"type": text, "attrs": {text: text}},
            {"type": "paragraph", "content": [{"type": "text", "text": text, "marks": [{"type": text}]}]},
        ],
    }


async def _everything(server: Server) -> None:
    """Every frame type with the canary wherever a person writes, through success, conflict, refusal and failure."""
    device = Device(server.url, token=TOKEN)
    async with device, Device(server.url, token=TOKEN) as other:
        await device.sync()
        await other.sync()
        raw: list[tuple[str, dict[str, Any]]] = [
            ("draft_update", {"tempChatId": "c1", "content": content(), "basedOnVersion": 0}),
            ("draft_update", {"chatId": "c1", "content": content(), "basedOnVersion": 7}),
            ("draft_update", {"chatId": "c1", "content": content(CANARY * 1000), "basedOnVersion": 1}),
            ("title_update", {"chatId": "c1", "title": CANARY, "basedOnVersion": 0}),
            ("title_update", {"chatId": "c1", "title": CANARY + "x", "basedOnVersion": 0}),
            ("title_update", {"chatId": "c1", "title": CANARY * 100, "basedOnVersion": 1}),
            ("message_send", {"chatId": "c1", "clientMessageId": "m1", "content": content(), "draftVersion": 1}),
            ("message_send", {"chatId": "c1", "clientMessageId": "m2", "content": content(CANARY * 1000)}),
            (
                "chat_restore",
                {
                    "chatId": "c2",
                    "draft": {"content": content(), "state": "edited", "version": 3, "op": "o"},
                    "title": {"title": CANARY, "version": 2, "op": "o"},
                    "messagesVersion": 0,
                },
            ),
            ("draft_delete", {"chatId": "c2", "basedOnVersion": 9, "hasMessages": False}),
            ("messages_request", {"chatId": "c1", "limit": 10}),
            ("chats_request", {"limit": 10}),
            ("set_active_chat", {"chatId": "c1"}),
            ("message_stop", {"chatId": "c1", "messageId": "00000000-0000-0000-0000-000000000000"}),
            ("auth_refresh", {"token": TOKEN}),
            ("device_rename", {"deviceId": "d", "name": CANARY}),
            ("reauth", {"challengeId": "x", "method": "totp", "code": "123456"}),
        ]
        for type_, payload in raw:
            await device.ask(type_, payload)
        repeated = new_id()
        for text in (CANARY, CANARY + "other"):  # one operation id for two frames
            await device.ask(
                "draft_update", {"tempChatId": "c3", "content": content(text), "basedOnVersion": 0}, repeated
            )
        await device.sync()
        for bad in (
            f'{{"type":"draft_update","id":"a","payload":{{"chatId":"{CANARY}_x","content":"{CANARY}"}}}}',
            f'{{"type":"{CANARY}","id":"a","payload":{{}}}}',
            f'{{"type":"draft_update","id":"b","payload":{{"{CANARY}":1,"basedOnVersion":"{CANARY}"}}}}',
            f'{{"type":"draft_update","id":"b","payload":"{CANARY}"',
            f'{{"{CANARY}":1,"{CANARY}":2}}',
            f'["{CANARY}"]',
            f'{{"type":"title_update","id":"c","payload":{{"chatId":"c1","title":"{CANARY}\\ud800","basedOnVersion":1}}}}',
            f'{{"type":"auth","id":"d","payload":{{"token":"{CANARY}","protocol":1}}}}',
            CANARY,
        ):
            await device.send_raw(bad)
        assert (await device.ask("ping", {}))["type"] == "pong"


async def _breaks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slot raises errors whose texts hold the canary, while frames that hold it are worked on."""
    parts = server.context.parts
    owners: list[tuple[Any, str]] = [
        (parts.cache.chats, "commit"),
        (parts.cache.chats, "read"),
        (parts.cache.chats, "events"),
        (parts.store, "known"),
        (parts.cipher, "seal"),
        (parts.cipher, "open"),
        (parts.cipher, "begin"),
    ]
    for error in (ValueError(CANARY), Unavailable("cache", "away"), Undecryptable("no"), KeyError(CANARY)):
        for owner, name in owners:

            async def fail(*_: object, _error: Exception = error, **__: object) -> Any:
                try:
                    raise RuntimeError(CANARY)
                except RuntimeError:
                    raise _error from None

            async with Device(server.url, token=TOKEN, wait=3) as device:
                monkeypatch.setattr(owner, name, fail)
                for chat in ("c1", new_id().replace("_", "-")):
                    try:
                        sent = {"tempChatId": chat, "content": content(), "basedOnVersion": 0}
                        answer = await device.ask("draft_update", sent)
                        assert CANARY not in str(answer) or answer["type"] in ("draft_conflict", "chat_initiated")
                        await device.ask("messages_request", {"chatId": chat, "limit": 10})
                    except (TimeoutError, SocketClosed):
                        pass
                monkeypatch.undo()


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "sidecar.yaml"
    }


async def _in_redis(url: str) -> bytes:
    """Every key with all that it holds, as it is: what Redis writes to its own files is compressed in part."""
    found: list[Any] = []
    async with Redis.from_url(url) as redis:
        async for key in redis.scan_iter():
            match await redis.type(key):
                case b"hash":
                    found += (await redis.hgetall(key)).items()
                case b"list":
                    found += await redis.lrange(key, 0, -1)
                case b"zset":
                    found += await redis.zrange(key, 0, -1)
                case b"set":
                    found += await redis.smembers(key)
                case kind:
                    assert kind == b"string", kind
                    found.append(await redis.get(key))
            found.append(key)
    return b"\n".join(part for each in found for part in (each if isinstance(each, tuple) else (each,)))


@pytest.mark.parametrize("broken", [False, True], ids=["as it should be", "every slot fails"])
@pytest.mark.caches("memory", "redis")
async def test_t38_s32_the_canary_stands_nowhere(
    serve: Serve,
    tmp_path: Path,
    log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    cache_section: Mapping[str, Any],
    broken: bool,
) -> None:
    """T38, S32: every frame type and every failure, DEBUG logs: 0 hits in logs, metrics, store, journal or Redis, key file, temp."""
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    tempfile.tempdir = None
    limits = {"frames_per_second": 10_000, "burst": 10_000}
    plugins = [
        {"use": "tests.plugins.troubled:Troubled", "name": "troubled", "on_failure": "pass", "timeout": "200ms"},
    ]
    try:
        async with serve(
            auth={"use": "tests.plugins.sessions:Sessions"},
            limits=limits,
            plugins=plugins,
            drafts={"debounce": "0s", "max_debounce": "0s"},
        ) as server:
            await _everything(server)
            if broken:
                monkeypatch.delenv("TMPDIR")
                await _breaks(server, monkeypatch)
            await asyncio.sleep(0.5)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{server.url}/metrics") as metrics,
                session.get(f"{server.url}/readyz") as ready,
            ):
                shown = await metrics.text() + await ready.text()
            assert "sidecar_frames_total" in shown
            served = _files(tmp_path)
            if cache_section["use"] == "redis":
                served["Redis"] = await _in_redis(cache_section["options"]["url"])
            await server.drain()
            served |= _files(tmp_path)
    finally:
        tempfile.tempdir = None
    written = log.getvalue()
    assert written.count("\n") >= 2, "something was logged"
    assert ("unexpected" in written) is broken
    kept = {**served, **_files(tmp_path)}
    assert any("store" in name for name in kept)
    if cache_section["use"] == "redis":
        assert b"troubled" in kept["Redis"]
        assert len(kept["Redis"]) > 5000
    else:
        assert any("cache" in name for name in kept)
    for secret in (CANARY, TOKEN):
        assert secret not in written
        assert secret not in shown
        for name, data in kept.items():
            assert secret.encode() not in data, name
            assert secret.encode("utf-16-le") not in data, name


async def test_t38_the_search_would_find_it(serve: Serve, tmp_path: Path, log: io.StringIO) -> None:
    """With a cipher that seals nothing here the same search finds the canary: the test above can fail."""
    async with serve(encryption={"use": "passthrough"}) as server, Device(server.url) as device:
        sent = {"tempChatId": "c1", "clientMessageId": "m1", "content": CANARY}
        assert (await device.ask("message_send", sent))["type"] == "message_accepted"
        await device.event("message_update")
    assert [name for name, data in _files(tmp_path).items() if CANARY.encode() in data]
    logging.getLogger("sidecar").info("found")
    assert "found" in log.getvalue()


async def test_t5_s2_a_token_in_a_url_stands_in_no_log(server: Server, log: io.StringIO) -> None:
    for path in (
        f"/ws?access_token={TOKEN}",
        f"/ws/{TOKEN}",
        f"/{TOKEN}?x={TOKEN}",
        f"/ws?x={TOKEN} y",
        f"/ws?{TOKEN}",
    ):
        async with RawSocket(server.url) as raw:
            raw.writer.write(raw.head(path))
            answer = await asyncio.wait_for(raw.reader.read(), 5)
            assert b" 101 " not in answer or "?" in path
    async with RawSocket(server.url) as raw:
        raw.writer.write(f"{TOKEN} nonsense\r\n\r\n".encode())
        await asyncio.wait_for(raw.reader.read(), 5)
    logging.getLogger("sidecar").warning("the log works")
    assert "the log works" in log.getvalue()
    assert TOKEN not in log.getvalue()


async def test_a_device_secret_stands_in_no_log_and_no_repr(server: Server, log: io.StringIO) -> None:
    async with Device(server.url) as device:
        secret = (device.proof or {})["secret"]
    async with device:
        assert not device.ready["device"]["isNew"]
        shown = repr(server.context.registry) + repr(list(server.context.registry)) + repr(server.context.sessions)
    assert secret not in shown
    assert secret not in log.getvalue()


def test_a_device_secret_is_not_in_the_repr_of_what_recognised_it() -> None:
    from sidecar.devices import Recognised

    device: Any = "d"
    assert "hush" not in repr(Recognised(device, "hush"))
