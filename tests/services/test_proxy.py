"""Each fault of the proxy really happens, is counted, and ends when it is told to. The server is one that says in capitals what it is told."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from tests.services.answer_faults import Then
from tests.services.conditions import Way
from tests.services.echo import Echo, connected
from tests.services.proxy import FaultProxy


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    listener = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with FaultProxy(listener.sockets[0].getsockname()) as proxy:
        yield proxy
    listener.close()
    await listener.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 the proxy has no event for each of its counters
            await asyncio.sleep(0.001)


async def test_without_a_fault_all_goes_through(proxy: FaultProxy) -> None:
    async with connected(proxy) as client, connected(proxy) as other:
        assert await client.ask(b"hello") == b"HELLO"
        assert await other.ask(b"x" * 1_000_000) == b"X" * 1_000_000
        client.end()
        assert await client.read() == b""
        assert await other.ask(b"still there") == b"STILL THERE"
    assert proxy.seen.connects == 2
    assert proxy.seen.cut == proxy.seen.delayed == proxy.seen.held == 0
    await until(lambda: not proxy.connections)


async def test_delay_and_jitter_keep_the_order(proxy: FaultProxy) -> None:
    loop = asyncio.get_running_loop()
    async with connected(proxy) as client:
        proxy.slow(0.05, jitter=0.05)
        began = loop.time()
        for number in range(20):
            client.say(b"%02d" % number)
            await asyncio.sleep(0.002)
        assert await client.exactly(40) == b"".join(b"%02d" % number for number in range(20))
        assert loop.time() - began >= 0.1, "there and back"
        assert proxy.seen.delayed > 0
        proxy.slow(1000)
        client.say(b"!")
        assert await client.silent()
        proxy.clear()
        assert await client.exactly(1) == b"!", "a delay that is over holds up nothing"


async def test_a_rate_makes_bytes_trickle(proxy: FaultProxy) -> None:
    loop = asyncio.get_running_loop()
    async with connected(proxy) as client:
        proxy.slow(rate=50_000, ways=[Way.TO_CLIENT])
        began = loop.time()
        client.say(b"x" * 10_000)
        assert 0 < len(await client.read()) <= 2_500
        await client.exactly(5_000)
        assert loop.time() - began >= 0.1


@pytest.mark.parametrize("way", Way)
async def test_a_black_hole_holds_everything_and_closes_nothing(proxy: FaultProxy, echo: Echo, way: Way) -> None:
    async with connected(proxy) as client:
        await client.ask(b"before ")
        proxy.black_hole([way])
        client.say(b"held")
        assert await client.silent()
        assert proxy.seen.held == 1
        assert echo.heard == (b"before held" if way is Way.TO_CLIENT else b"before ")
        async with connected(proxy) as late:
            late.say(b"late")
            assert await late.silent()
            proxy.clear()
            assert await client.exactly(4) == b"HELD"
            assert await late.exactly(4) == b"LATE"


async def test_a_client_can_leave_a_black_hole_and_so_can_the_proxy(proxy: FaultProxy) -> None:
    async with connected(proxy) as client:
        proxy.black_hole()
        client.say(b"?")
        await client.silent()
    assert proxy.connections == 1, "the server has not heard of it"


async def test_reset_drop_and_half_close(proxy: FaultProxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.ask(b"a")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await client.read()
    async with connected(proxy) as client:
        await client.ask(b"b")
        proxy.drop()
        assert await client.read() == b""
    async with connected(proxy) as client:
        await client.ask(b"c")
        echo.ended.clear()
        proxy.half_close(Way.TO_CLIENT)
        assert await client.read() == b""
        client.say(b"d")
        client.end()
        await echo.ended.wait()
    async with connected(proxy) as client:
        await client.ask(b"e")
        proxy.half_close(Way.TO_SERVER)
        assert await client.read() == b"", "this server ends when the client does"
    assert echo.heard == b"abcde"
    assert proxy.seen.cut == 4


async def test_what_was_passed_on_before_a_reset_is_carried_out(proxy: FaultProxy, echo: Echo) -> None:
    async with connected(proxy) as client:
        await client.ask(b"a")
        proxy.black_hole([Way.TO_CLIENT])
        client.say(b"b")
        await until(lambda: proxy.seen.held > 0)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await client.read()
    assert echo.heard == b"ab"


async def test_cut_by_chance(proxy: FaultProxy) -> None:
    proxy.cut(0.2)
    whole = 0
    while proxy.seen.cut < 5:
        async with connected(proxy) as client:
            try:
                while await client.ask(b"x") == b"X":
                    whole += 1
            except (ConnectionResetError, asyncio.IncompleteReadError):
                pass
    assert whole > 0
    proxy.clear()
    async with connected(proxy) as client:
        for _ in range(100):
            assert await client.ask(b"x") == b"X"


async def test_refused_and_taken_again_on_the_same_port(proxy: FaultProxy) -> None:
    port = proxy.port
    async with connected(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, port)
        assert await client.ask(b"stays") == b"STAYS"
        proxy.listen()
    async with connected(proxy) as client:
        assert await client.ask(b"again") == b"AGAIN"
    assert proxy.port == port


async def test_flapping(proxy: FaultProxy) -> None:
    async with proxy.flapping(every=0.03):
        outcomes: set[str] = set()
        while proxy.seen.flaps < 4 or len(outcomes) < 2:
            try:
                async with connected(proxy) as client:
                    await client.ask(b"?")
                    outcomes.add("there")
            except (ConnectionError, asyncio.IncompleteReadError):
                outcomes.add("gone")
            await asyncio.sleep(0.005)
    async with connected(proxy) as client:
        assert await client.ask(b"there") == b"THERE"


async def test_a_server_that_is_not_there_is_a_reset(proxy: FaultProxy) -> None:
    elsewhere, proxy.target = proxy.target, ("127.0.0.1", 9)
    async with connected(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.read()
    assert proxy.seen.unreachable == 1
    proxy.target = elsewhere
    async with connected(proxy) as client:
        assert await client.ask(b"back") == b"BACK"


@pytest.mark.parametrize("then", [Then.RESET, Then.CLOSE, Then.HANG])
async def test_a_swallowed_answer(proxy: FaultProxy, echo: Echo, then: Then) -> None:
    fault = proxy.swallow(skip=1, then=then)
    async with connected(proxy) as client:
        assert await client.ask(b"one ") == b"ONE "
        assert fault.happened == 0
        client.say(b"two ")
        await fault.over()
        if then is Then.RESET:
            with pytest.raises(ConnectionResetError):
                await client.read()
        elif then is Then.CLOSE:
            assert await client.read() == b""
        else:
            client.say(b"three ")
            assert await client.silent()
    assert echo.heard == (b"one two three " if then is Then.HANG else b"one two "), "it reached the server"
    async with connected(proxy) as client:
        assert await client.ask(b"four") == b"FOUR"
    assert fault.happened == 1


async def test_a_truncated_answer(proxy: FaultProxy) -> None:
    fault = proxy.truncate(after=3)
    async with connected(proxy) as client:
        client.say(b"hello")
        assert await client.exactly(3) == b"HEL"
        with pytest.raises(ConnectionResetError):
            await client.read()
    proxy.truncate(after=100, then=Then.CLOSE)
    async with connected(proxy) as client:
        client.say(b"hello")
        assert [await client.exactly(4), await client.read()] == [b"HELL", b""]
    assert fault.happened == 1


async def test_a_fault_of_answers_can_be_stopped(proxy: FaultProxy) -> None:
    fault = proxy.swallow(times=None)
    async with connected(proxy) as client:
        client.say(b"x")
        with pytest.raises(ConnectionResetError):
            await client.read()
    proxy.clear()
    async with connected(proxy) as client:
        assert await client.ask(b"x") == b"X"
    assert fault.happened == 1


async def test_who_does_not_read_holds_up_only_itself(proxy: FaultProxy) -> None:
    async with connected(proxy) as stalled, connected(proxy) as client:
        stalled.say(b"x" * 50_000_000)
        assert await client.ask(b"hello") == b"HELLO"
    assert proxy.seen.connects == 2


async def test_who_comes_while_the_proxy_goes_leaves_nothing_open(proxy: FaultProxy) -> None:
    """Without care these connections were nobody's: a ResourceWarning in some later test."""
    for steps in range(8):
        async with FaultProxy(proxy.target) as going:
            coming = [asyncio.create_task(asyncio.open_connection(going.host, going.port)) for _ in range(20)]
            for _ in range(steps):
                await asyncio.sleep(0)
        for outcome in await asyncio.gather(*coming, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                outcome[1].close()
    gc.collect()


async def test_who_goes_while_the_proxy_goes_leaves_nothing_open(proxy: FaultProxy) -> None:
    for steps in range(40):
        opened = AsyncExitStack()
        going = await opened.enter_async_context(FaultProxy(proxy.target))
        async with connected(going) as client:
            await client.ask(b"x")
            client.end()
            for _ in range(steps):
                await asyncio.sleep(0)
            await opened.aclose()
    gc.collect()
