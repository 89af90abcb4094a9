"""While a session lasts and when it ends; tabs and late closes (S53, S54, F45, F48; protocol *Opening*)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar import Ended
from sidecar.devices import recognise
from sidecar.errors import Unauthenticated, Unavailable
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, doc
from tests.integration.world import until
from tests.raw_socket import CLOSE, PING, PONG, RawSocket

SESSIONS = {"use": "tests.plugins.sessions:Sessions"}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.server.housekeeping._TICK_SECONDS", 0.05)


def _auth(server: Server) -> Any:
    return server.context.parts.auth


def _recheck_now(server: Server) -> None:
    for held in server.context.sessions.values():
        held.next_check = 0.0


async def _alive(*devices: Device) -> None:
    for device in devices:
        assert (await device.ask("ping", {}))["type"] == "pong"


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_a_session_is_announced_before_it_ends_and_then_closed_4401(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server:
        _auth(server).lives["alice/short"] = 0.5
        async with Device(server.url, token="alice/short") as short, Device(server.url, token="alice/long") as long:
            event = await short.event("session_expiring")
            assert event["expiresAt"] == short.ready["sessionExpiresAt"]
            assert await short.closed() == 4401
            [told] = short.events
            assert told["payload"]["code"] == "unauthenticated"
            await _alive(long)
            assert long.events == []


async def test_those_who_came_at_once_are_looked_at_one_after_the_other(serve: Serve) -> None:
    """Else whoever is asked about them would be asked about thousands in the same second, each minute after a restart."""
    async with serve(auth=SESSIONS) as server:
        devices = [Device(server.url, token=f"user{number}/1") for number in range(30)]
        await asyncio.gather(*(device.open() for device in devices))
        now = asyncio.get_running_loop().time()
        due = [held.next_check - now for held in server.context.sessions.values()]
        assert len(due) == 30
        assert 0 < min(due) < max(due) <= 60
        assert max(due) - min(due) > 15
        for device in devices:
            await device.close()


async def test_a_session_that_is_over_ends_with_the_next_look(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server, Device(server.url, token="alice/1") as one:
        async with Device(server.url, token="alice/2") as two:
            _auth(server).over.add("alice/1")
            _recheck_now(server)
            assert await one.closed() == 4401
            await _alive(two)
        assert _auth(server).rechecks >= 2


@pytest.mark.parametrize("error", [Unavailable("auth"), TimeoutError(), ValueError("a bug in the plugin")])
async def test_trouble_at_a_look_ends_nothing_and_the_next_look_comes(serve: Serve, error: Exception) -> None:
    async with serve(auth=SESSIONS) as server, Device(server.url, token="alice/1") as device:
        _auth(server).error = error
        _recheck_now(server)
        await asyncio.sleep(0.3)
        assert _auth(server).rechecks == 1
        await _alive(device)
        _auth(server).error = Unauthenticated("over")
        _recheck_now(server)
        assert await device.closed() == 4401


async def test_s7_a_session_ended_elsewhere_closes_its_sockets_and_no_other(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server:
        alice = [await Device(server.url, token=f"alice/{number}").open() for number in (1, 1, 2)]
        bob = await Device(server.url, token="bob/1").open()
        await _auth(server).reports.put(Ended("alice", "alice/1"))
        assert [await device.closed() for device in alice[:2]] == [4401, 4401]
        await _alive(alice[2], bob)
        await _auth(server).reports.put(RuntimeError("the stream broke"))
        await _auth(server).reports.put(Ended("alice"))
        assert await alice[2].closed() == 4401, "after trouble the reports are followed again"
        await _alive(bob)
        for device in (*alice, bob):
            await device.close()


async def test_a_session_that_ends_between_its_sign_in_and_ready_does_not_slip_through(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        signed_in.set()
        await go_on.wait()
        return await recognise(*arguments)

    monkeypatch.setattr("sidecar.server.opening.recognise", slow)
    async with serve(auth=SESSIONS) as server:
        one, other = (Device(server.url, token=f"alice/{number}") for number in (1, 2))
        await one.connect()
        await other.connect()
        answers = asyncio.gather(one.sign_in(), other.sign_in())
        await signed_in.wait()
        await _auth(server).reports.put(Ended("alice", "alice/1"))
        await until(lambda: bool(server.context.ends))
        go_on.set()
        refused, ready = await answers
        assert (refused["type"], refused["payload"].get("code")) == ("error", "unauthenticated")
        assert await one.closed() == 4401
        assert ready["type"] == "ready"
        again = await Device(server.url, token="alice/1").open()
        assert again.ready, "what ended before a sign-in is the authenticator's to know"
        for device in (one, other, again):
            await device.close()


# -- a fresh token -----------------------------------------------------------------------------------------------------


async def test_a_fresh_token_goes_on_without_a_gap(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server, Device(server.url, token="alice/other") as other:
        _auth(server).lives["alice/old"] = 0.5
        _auth(server).lives["alice/new"] = 3600
        async with Device(server.url, token="alice/old") as device:
            await device.sync()
            ready = device.ready["sessionExpiresAt"]
            answer = await device.ask("auth_refresh", {"token": "alice/new"})
            assert answer["type"] == "auth_refreshed"
            assert answer["payload"]["sessionExpiresAt"] > ready
            assert "cursor" not in answer["payload"]
            await asyncio.sleep(0.8)
            assert not [event for event in device.events if event["type"] == "error"]
            device.events.clear()
            await other.sync()
            await other.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
            assert (await device.event("chat_added"))["tempChatId"] == "c1"


@pytest.mark.parametrize("token", ["bob/1", "alice/over", "not good!"])
async def test_a_token_that_is_another_persons_or_bad_ends_the_socket(serve: Serve, token: str) -> None:
    async with serve(auth=SESSIONS) as server, Device(server.url, token="alice/other") as other:
        _auth(server).over.add("alice/over")
        async with Device(server.url, token="alice/1") as device:
            answer = await device.ask("auth_refresh", {"token": token})
            assert answer["payload"]["code"] == "unauthenticated"
            assert await device.closed() == 4401
        await _alive(other)


async def test_trouble_at_a_refresh_leaves_the_session_as_it_was(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server, Device(server.url, token="alice/1") as device:
        _auth(server).error = Unavailable("auth")
        assert (await device.ask("auth_refresh", {"token": "alice/2"}))["payload"]["code"] == "unavailable"
        _auth(server).error = None
        await _alive(device)
        [held] = server.context.sessions.values()
        assert held.session.session_id == "alice/1"


async def test_the_end_of_the_former_session_does_not_end_the_fresh_one(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server, Device(server.url, token="alice/1") as device:
        auth = _auth(server)
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def recheck(session: Any) -> None:
            asked.set()
            await go_on.wait()
            raise Unauthenticated("this session is over")

        auth.recheck = recheck
        _recheck_now(server)
        await asked.wait()
        assert (await device.ask("auth_refresh", {"token": "alice/2"}))["type"] == "auth_refreshed"
        go_on.set()
        await asyncio.sleep(0.1)
        await _alive(device)


async def test_s6_a_refresh_shows_the_address_behind_the_proxy_too(serve: Serve) -> None:
    async with serve(auth=SESSIONS, server={"trusted_proxies": ["127.0.0.0/8"]}) as server:
        device = Device(server.url, token="alice/1")
        await device.open(**{"X-Forwarded-For": "203.0.113.7"})
        await device.ask("auth_refresh", {"token": "alice/2"})
        assert [shown.peer for shown in _auth(server).credentials] == ["203.0.113.7"] * 2
        await device.close()


async def test_s6_a_spoofed_address_is_not_believed(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server:
        device = Device(server.url, token="alice/1")
        await device.open(
            **{"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.8", "Forwarded": "for=203.0.113.9"}
        )
        [shown] = _auth(server).credentials
        assert shown.peer == "127.0.0.1"
        assert shown.forwarded
        await device.close()


# -- tabs and late closes ----------------------------------------------------------------------------------------------


@pytest.mark.caches("memory", "redis")
async def test_s53_f48_two_tabs_of_one_device(server: Server) -> None:
    async with Device(server.url) as one:
        tab = Device(server.url)
        tab.proof = one.proof
        await tab.open()
        assert tab.ready["device"]["id"] == one.ready["device"]["id"]
        await one.sync()
        await tab.sync()
        await one.ask("draft_update", {"tempChatId": "c1", "content": doc("1"), "basedOnVersion": 0})
        assert (await tab.event("chat_added"))["deviceId"] == one.ready["device"]["id"]
        assert await one.quiet(0.1) == [], "F48: the socket that asked gets its answer and no event"
        await tab.close()
        async with Device(server.url) as other:
            await other.ask("draft_update", {"chatId": "c1", "content": doc("2"), "basedOnVersion": 1})
            assert (await one.event("draft_updated"))["version"] == 2, "the closed tab took nothing with it"


@pytest.mark.caches("memory", "redis")
async def test_s54_a_reconnect_while_the_old_socket_is_still_closing(server: Server, monkeypatch: Any) -> None:
    """S54: the old socket's place is given back late; the new one hears everything all the same."""
    leases = server.context.parts.cache.leases
    leave, slowly = leases.leave, asyncio.Event()

    async def late(lease: Any) -> None:
        await slowly.wait()
        await leave(lease)

    device = await Device(server.url).open()
    monkeypatch.setattr(leases, "leave", late)
    await device.cut()
    await asyncio.sleep(0.1)  # the old socket is gone, and hangs while it gives its place back
    await device.open()
    await device.sync()
    async with Device(server.url) as other:  # before the old socket lets go: a later one would mend what that broke
        slowly.set()
        await asyncio.sleep(0.1)
        await other.ask("draft_update", {"tempChatId": "c1", "content": doc("1"), "basedOnVersion": 0})
        assert (await device.event("chat_added"))["tempChatId"] == "c1"
    await device.close()


@pytest.mark.caches("memory", "redis")
async def test_s54_flapping_leaves_nothing_behind(server: Server) -> None:
    async with Device(server.url) as stays:
        await stays.sync()
        for _ in range(15):
            flaps = await Device(server.url).open()
            await flaps.cut()
        await asyncio.sleep(0.2)
        context = server.context
        assert len(context.registry) == len(context.sessions) == 1
        assert sum(context.addresses.values()) == 1
        assert not context.opening
        assert list(await context.parts.cache.leases.held(f"connections:{stays.user}")) == [stays.ready["connectionId"]]


# -- signs of life -----------------------------------------------------------------------------------------------------


async def test_f45_a_half_open_socket_is_pinged_and_closed(serve: Serve) -> None:
    async with serve(server={"ping_interval": "1s"}) as server, Device(server.url, "alice") as alive:
        async with RawSocket(server.url) as raw:
            await raw.sign_in()  # and never answers a ping
            pings, code = 0, None
            while code is None:
                opcode, payload = await raw.next()
                pings += opcode == PING
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2], "big")
            assert pings >= 1
            assert code == 1001
        await asyncio.sleep(0.5)
        await _alive(alive)
        assert len(server.context.registry) == 1


async def test_f45_any_frame_is_a_sign_of_life(serve: Serve) -> None:
    async with serve(server={"ping_interval": "1s"}) as server, RawSocket(server.url) as raw:
        await raw.sign_in()
        for number in range(6):
            raw.send(b"" if number % 2 else b'{"type":"ping"}', PONG if number % 2 else 1)
            await asyncio.sleep(0.5)
        assert len(server.context.registry) == 1


async def test_one_connections_trouble_does_not_end_the_housekeeping(serve: Serve) -> None:
    async with serve(auth=SESSIONS) as server:
        broken = await Device(server.url, token="alice/1").open()
        good = await Device(server.url, token="alice/2").open()
        server.context.sessions[broken.ready["connectionId"]].next_check = "never"  # type: ignore[assignment]
        _auth(server).over.add("alice/2")
        server.context.sessions[good.ready["connectionId"]].next_check = 0.0
        assert await good.closed() == 4401
        await good.close()
        await broken.close()
