"""What operators look at: /livez, /readyz, /metrics, /version, /asyncapi.json, the page (T51, F39, S64, T39, T44)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from sidecar.errors import Unavailable
from sidecar.frames import asyncapi
from sidecar.server.running import Server
from sidecar.version import __version__
from tests.conftest import Serve
from tests.device import Device, doc
from tests.integration.world import settled, until

TROUBLED = {"use": "tests.plugins.troubled:Troubled", "name": "troubled", "timeout": "200ms"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def _get(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, str, Any]:
    async with http.get(url, headers=headers) as response:
        return response.status, await response.text(), response.headers


async def _ready(http: aiohttp.ClientSession, server: Server) -> tuple[int, dict[str, Any]]:
    async with http.get(f"{server.url}/readyz") as response:
        return response.status, await response.json()


def _plugin(server: Server) -> Any:
    [plugin] = [each for each in server.context.plugins._plugins if each.name == "troubled"]
    return plugin.instance


# -- livez and readyz --------------------------------------------------------------------------------------------------


async def test_a_healthy_sidecar(server: Server, http: aiohttp.ClientSession) -> None:
    status, text, _ = await _get(http, f"{server.url}/livez")
    assert (status, '"ok"' in text) == (200, True)
    status, body = await _ready(http, server)
    assert (status, body["status"]) == (200, "ready")
    assert {name: part["state"] for name, part in body["parts"].items()} == dict.fromkeys(
        ("auth", "encryption", "cache", "persistence"), "ok"
    )


@pytest.mark.caches("memory", "redis")
@pytest.mark.parametrize("part", ["cache", "persistence"])
@pytest.mark.parametrize("error", [Unavailable("x"), OSError("a bug"), None], ids=["away", "bug", "hangs"])
async def test_readyz_names_the_part_that_is_away(
    server: Server,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    error: Exception | None,
) -> None:
    monkeypatch.setattr("sidecar.server.health._PATIENCE", 0.2)
    monkeypatch.setattr("sidecar.server.health._ASKED_AGAIN", 0.0)

    async def fail(*_: object) -> Any:
        if error is not None:
            raise error
        await asyncio.Event().wait()

    parts = server.context.parts
    owner, name = (parts.cache.chats, "events") if part == "cache" else (parts.store, "known")
    monkeypatch.setattr(owner, name, fail)
    status, body = await _ready(http, server)
    assert (status, body["status"]) == (503, "not ready")
    assert body["parts"].pop(part)["state"] == "unavailable"
    assert {each["state"] for each in body["parts"].values()} == {"ok"}
    monkeypatch.undo()
    monkeypatch.setattr("sidecar.server.health._ASKED_AGAIN", 0.0)
    assert (await _ready(http, server))[0] == 200


async def test_t51_each_part_is_asked_at_most_once_a_second(
    server: Server, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    parts = server.context.parts
    for owner, name in ((parts.cache.chats, "events"), (parts.store, "known"), (server.context.plugins, "state")):
        original = getattr(owner, name)

        async def count(*arguments: Any, _name: str = name, _original: Any = original) -> Any:
            calls[_name] += 1
            return await _original(*arguments)

        monkeypatch.setattr(owner, name, count)
    started = time.monotonic()
    answers = []
    for _ in range(10):
        answers += await asyncio.gather(*(_ready(http, server) for _ in range(30)))
    seconds = time.monotonic() - started
    assert {status for status, _ in answers} == {200}
    assert set(calls) == {"events", "known", "state"}
    assert max(calls.values()) <= 1 + seconds


async def test_t51_a_part_that_fails_is_not_asked_more_often(
    server: Server, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def fail(*_: object) -> Any:
        nonlocal calls
        calls += 1
        raise ValueError("a bug")

    monkeypatch.setattr(server.context.parts.store, "known", fail)
    started = time.monotonic()
    answers = await asyncio.gather(*(_ready(http, server) for _ in range(100)))
    assert {status for status, _ in answers} == {503}
    assert calls <= 1 + (time.monotonic() - started)


async def test_readyz_says_that_the_server_stops(server: Server, http: aiohttp.ClientSession) -> None:
    server.context.stopping = True
    status, body = await _ready(http, server)
    assert (status, body["status"]) == (503, "stopping")


async def test_f39_a_blocked_loop_fails_livez_and_the_log_names_the_plugin(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    """F39: while a slot plugin blocks the loop `/livez` does not answer; the watchdog says who it was; then all is well."""
    with capture_logs() as lines:
        async with serve(auth={"use": "tests.plugins.sessions:Sessions"}) as server:
            auth: Any = server.context.parts.auth
            auth.blocks = 1.8
            device = await Device(server.url, token="alice").connect()
            await device.send("auth", {"token": "alice", "protocol": 1}, "a")

            # From another thread: the loop of this test is the loop that is blocked.
            def livez() -> bytes:
                time.sleep(0.2)
                host, port = server.url.removeprefix("http://").split(":")
                with socket.create_connection((host, int(port)), timeout=1) as line:
                    line.settimeout(0.7)
                    line.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    try:
                        return line.recv(1000)
                    except TimeoutError:
                        return b"no answer"

            assert await asyncio.to_thread(livez) == b"no answer"
            assert (await device.answer("a"))["type"] == "ready"
            auth.blocks = 0.0
            assert (await _get(http, f"{server.url}/livez"))[0] == 200
            await device.close()
    [line] = [line for line in lines if line["event"] == "loop blocked"]
    assert line["plugin"] == "tests.plugins.sessions:Sessions"
    assert "sign_in" in line["at"]


async def test_f39_a_loop_that_owes_a_sign_of_life_is_503(
    server: Server, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.context.watchdog, "loop_blocked_for", lambda: 5.5)
    status, text, _ = await _get(http, f"{server.url}/livez")
    assert status == 503
    assert "blocked" in text


# -- S64, T44: plugins in trouble while sockets work -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raises", "hangs", "blocks"])
async def test_s64_t44_a_plugin_in_trouble_is_contained_and_reported(
    serve: Serve, http: aiohttp.ClientSession, how: str
) -> None:
    drafts = {"debounce": "50ms", "max_debounce": "50ms"}
    guard = {"use": "tests.plugins.troubled:TroubledGuard", "grants": ["plaintext"]}
    async with serve(plugins=[{**TROUBLED, "on_failure": "pass"}, guard], drafts=drafts) as server:
        plugin = _plugin(server)
        async with Device(server.url) as one, Device(server.url) as two:
            await one.sync()
            await two.sync()
            plugin.how = how
            sent = {"tempChatId": "c1", "content": doc("kept as it came"), "basedOnVersion": 0}
            assert (await one.ask("draft_update", sent))["type"] == "chat_initiated"
            added = await two.event("chat_added")
            assert added["chat"]["draft"] == doc("kept as it came"), "T44: a guard's copy is its own"
            message = {"chatId": "c1", "clientMessageId": "m1", "content": doc("hello"), "draftVersion": 1}
            assert (await one.ask("message_send", message))["type"] == "message_accepted"
            assert (await one.event("message_update"))["status"] == "delivered", "persistence does not wait for it"
            status, body = await _ready(http, server)
            assert status == 200, "a plugin beside the slots fails alone"
            assert body["parts"]["troubled"]["state"] == "failed"
            assert "person wrote" not in str(body)
            counts = server.context.plugins.counts()["troubled", "before_draft"]
            assert counts.calls == 1
            assert counts.failures + counts.timeouts >= 1
            plugin.how = ""
            plugin.release.set()
            update = {"chatId": "c1", "content": doc("2"), "basedOnVersion": 2}
            assert (await one.ask("draft_update", update))["type"] == "draft_updated"
            assert one.close_code is two.close_code is None


@pytest.mark.parametrize("how", ["raises", "hangs"])
async def test_s64_a_guard_in_trouble_refuses_where_the_yaml_says_so(serve: Serve, how: str) -> None:
    async with serve(plugins=[{**TROUBLED, "on_failure": "refuse"}]) as server, Device(server.url) as device:
        plugin = _plugin(server)
        plugin.how = how
        sent = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
        answer = await device.ask("draft_update", sent)
        assert answer["payload"]["code"] == "refused"
        assert answer["payload"]["details"]["plugin"] == "troubled"
        assert "person wrote" not in str(answer)
        plugin.how = ""
        assert (await device.ask("draft_update", sent))["type"] == "chat_initiated"


# -- metrics -----------------------------------------------------------------------------------------------------------


async def _series(http: aiohttp.ClientSession, server: Server) -> set[str]:
    _, text, _ = await _get(http, f"{server.url}/metrics")
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}


async def test_t39_the_number_of_series_does_not_grow_with_people(server: Server, http: aiohttp.ClientSession) -> None:
    async def live(name: str) -> None:
        async with Device(server.url, name) as device:
            await device.sync()
            await device.ask("draft_update", {"tempChatId": name, "content": doc(name), "basedOnVersion": 0})
            await device.ask("draft_update", {"chatId": name, "content": doc(name), "basedOnVersion": 7})
            await device.ask("message_send", {"chatId": name, "clientMessageId": name, "content": doc(name)})
            await device.event("message_update")
            await device.ask("messages_request", {"chatId": "nobody-knows-it", "limit": 5})
            await device.send_raw(f'{{"type":"{name}","id":"x"}}')
            await device.answer("x")

    async def complete() -> bool:
        """Whether everything was counted that comes a little later: the end of the socket, hooks, the look at the outbox."""
        return {"sidecar_connections_closed_total", "sidecar_hook_calls", "sidecar_outbox_pending"} <= {
            line.partition("{")[0] for line in await _series(http, server)
        }

    await live("somebody")
    await settled(server)
    await until(complete)
    before = await _series(http, server)
    await asyncio.gather(*(live(f"user-{number}") for number in range(40)))
    after = await _series(http, server)
    assert after == before
    assert not [line for line in after if "user-" in line or "somebody" in line]


async def test_t39_close_codes_of_clients_are_one_label(server: Server, http: aiohttp.ClientSession) -> None:
    async def leave(code: int) -> None:
        device = await Device(server.url).open()
        assert device._ws is not None
        await device._ws.close(code=code)
        await device.close()

    await asyncio.gather(*map(leave, (*range(3000, 3010), *range(4990, 4999))))
    for _ in range(100):
        if len(server.context.registry) == 0:
            break
        await asyncio.sleep(0.02)
    closed = {line for line in await _series(http, server) if "closed_total" in line}
    assert closed == {'sidecar_connections_closed_total{code="other"}'}


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"])
async def test_metrics_are_for_loopback_callers(server: Server, http: aiohttp.ClientSession, header: str) -> None:
    assert (await _get(http, f"{server.url}/metrics"))[0] == 200
    assert (await _get(http, f"{server.url}/metrics", **{header: "127.0.0.1"}))[0] == 403
    assert (await _get(http, f"{server.url}/metrics", Host="rebound.example"))[0] == 403


async def test_metrics_have_a_port_of_their_own_where_one_is_set(serve: Serve, http: aiohttp.ClientSession) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with serve(server={"metrics_port": port}) as server:
        status, text, headers = await _get(http, f"http://127.0.0.1:{port}/metrics")
        assert status == 200
        assert "sidecar_connections 0.0" in text
        assert headers["Content-Type"].startswith("text/plain")
        assert (await _get(http, f"{server.url}/metrics"))[0] == 403
        assert (await _get(http, f"http://127.0.0.1:{port}/livez"))[0] == 404


# -- the rest ----------------------------------------------------------------------------------------------------------


async def test_version_and_asyncapi(server: Server, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{server.url}/version") as response:
        assert (await response.json())["version"] == __version__
    async with http.get(f"{server.url}/asyncapi.json") as response:
        assert await response.json() == asyncapi.document()


async def test_the_page_names_the_socket_and_repeats_nothing_foreign(
    server: Server, http: aiohttp.ClientSession
) -> None:
    status, text, headers = await _get(http, server.url)
    assert status == 200
    assert server.url.replace("http", "ws", 1) + "/ws" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, text, _ = await _get(http, server.url, Host="<b>evil</b>")
    assert status == 403
    assert "<b>" not in text


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/version", "/asyncapi.json", "/nothing"])
async def test_every_answer_ends_its_connection(server: Server, http: aiohttp.ClientSession, path: str) -> None:
    _, _, headers = await _get(http, f"{server.url}{path}")
    assert headers["Connection"] == "close"


@pytest.mark.parametrize("said", [{"ok": False, "reason": "the key has run out"}, OSError("secret"), None])
async def test_readyz_says_what_a_slots_plugin_says_of_itself(
    serve: Serve, http: aiohttp.ClientSession, said: Any
) -> None:
    async with serve(auth={"use": "tests.plugins.sessions:Sessions"}) as server:
        auth: Any = server.context.parts.auth

        def state() -> Any:
            if isinstance(said, OSError):
                raise said
            return said

        auth.state = state
        status, body = await _ready(http, server)
        assert status == (200 if said is None else 503)
        assert body["parts"]["auth"]["state"] == ("ok" if said is None else "failed")
        assert "secret" not in str(body)
