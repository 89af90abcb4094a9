"""HTTP to Vault where what answers is none, or answers badly. What a real Vault can show is in tests/vault."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hvac.exceptions import InvalidPath

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_pool import THREADS, Pool
from plugins.encryption.vault_wire import Wire
from sidecar import Unavailable
from tests.unit.pretended_vault import PretendedVault, answer, drip, drop, hang, pretending

TOKEN = "hvs.a-token-of-a-test"
HTML = b"<!doctype html><title>Welcome</title>"


@asynccontextmanager
async def pool_to(url: str, timeout: float = 2.0) -> AsyncIterator[Pool]:
    pool = Pool(Wire(url), namespace="team", timeout=timeout)
    try:
        yield pool
    finally:
        await pool.close()


def get(adapter: WireAdapter) -> dict[str, Any]:
    return dict(adapter.get("/v1/secret/data/x"))


async def reason(pretended: PretendedVault, timeout: float = 2.0) -> str:
    async with pool_to(pretended.url, timeout) as pool:
        with pytest.raises(Unavailable) as caught:
            await pool.run(get, TOKEN)
        assert TOKEN not in str(caught.value)
        assert pool.circuit.reason == caught.value.reason
        return caught.value.reason


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (answer(HTML, kind="text/html"), "not as Vault does"),
        (answer(HTML, 404, kind="text/html; charset=utf-8"), "not as Vault does"),
        (answer(b"", 404), "not as Vault does"),
        (answer({"detail": "Not Found"}, 404), "not as Vault does"),
        (answer(b"[1]"), "not as Vault does"),
        (answer(HTML, 502, kind="text/html"), "what stands before Vault answers with status 502"),
        (answer(HTML, 503, kind="text/html"), "what stands before Vault answers with status 503"),
        (answer(b"", 504), "what stands before Vault answers with status 504"),
        (answer(b'{"data": {"a"'), "cut short or garbled"),
        (answer(b'{"data": {"a"', length=900), "cut short or garbled"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (drop, "connection to Vault broke"),
    ],
)
async def test_what_is_no_answer_of_a_vault_is_never_taken_for_one(reply: Any, told: str) -> None:
    """Above all a page with status 404 is no "there is no key"."""

    async def then_close(writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()
        writer.close()
        raise ConnectionResetError

    async with pretending(then_close if isinstance(reply, bytes) else reply) as pretended:
        assert told in await reason(pretended)


async def test_a_404_of_vault_is_not_found() -> None:
    async with pretending(answer({"errors": []}, 404)) as pretended, pool_to(pretended.url) as pool:
        with pytest.raises(InvalidPath):
            await pool.run(get, TOKEN)
        assert pool.circuit.reason is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_t40_a_redirect_is_not_followed_and_takes_the_token_nowhere(status: int) -> None:
    """T40: the place is named, without its path, and never asked."""
    async with pretending(answer({"data": {}})) as elsewhere:
        place = f"Location: {elsewhere.url}/v1/secret/data/x\r\n".encode()
        redirect = answer(b"", status).replace(b"\r\n\r\n", b"\r\n" + place + b"\r\n")
        async with pretending(redirect) as pretended:
            told = await reason(pretended)
            assert f"sends on to {elsewhere.url} instead" in told
            assert TOKEN.encode() in pretended.asked[0]
        assert elsewhere.connections == 0


async def test_environment_and_home_folder_are_not_asked_for_proxies_and_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pretending(answer({"data": {}})) as elsewhere, pretending(answer({"data": {}})) as pretended:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "VAULT_ADDR", "VAULT_HTTP_PROXY"):
            monkeypatch.setenv(name, elsewhere.url)
        monkeypatch.setenv("VAULT_TOKEN", "hvs.of-the-environment")
        monkeypatch.setenv("VAULT_NAMESPACE", "of-the-environment")
        async with pool_to(pretended.url) as pool:
            await pool.run(get, None)
        assert elsewhere.connections == 0
        assert b"of-the-environment" not in pretended.asked[0]
        assert b"X-Vault-Namespace: team\r\n" in pretended.asked[0]
        assert b"X-Vault-Request: true\r\n" in pretended.asked[0]


# -- deadlines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [hang, drip])
async def test_f19_a_call_ends_at_its_deadline_and_frees_its_thread(reply: Any) -> None:
    """F19: also where a byte comes now and again, which no wait for the next byte would end."""
    async with pretending(reply) as pretended, pool_to(pretended.url, 1.5) as pool:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            await pool.run(get, TOKEN)
        assert time.monotonic() - began < 20
        pretended.replies[:] = [answer({"data": {"a": "b"}})]
        pool.circuit.answered()
        answers = await asyncio.gather(*(pool.run(get, TOKEN) for _ in range(THREADS * 2)))
        assert all(each["data"] == {"a": "b"} for each in answers)


async def test_f19_threads_are_bounded_and_who_finds_none_is_told_in_time() -> None:
    async with pretending(hang) as pretended, pool_to(pretended.url, 0.4) as pool:
        calls = asyncio.gather(*(pool.run(get, TOKEN) for _ in range(100)), return_exceptions=True)
        await asyncio.sleep(0.3)
        assert pretended.connections <= THREADS
        assert all(isinstance(each, Unavailable) for each in await calls)
        assert sum(1 for thread in threading.enumerate() if thread.name.startswith("vault")) <= THREADS


async def test_f19_a_vault_that_hangs_is_left_alone_and_asked_one_call_at_a_time() -> None:
    """F19: after the first deadline calls fail at once, but for one now and again; the first answer ends that."""
    async with pretending(hang) as pretended, pool_to(pretended.url, 0.2) as pool:
        with pytest.raises(Unavailable):
            await pool.run(get, TOKEN)
        before = len(pretended.asked)
        end = time.monotonic() + 1.0
        refused = 0
        while time.monotonic() < end:
            with pytest.raises(Unavailable) as caught:
                await pool.run(get, TOKEN)
            assert caught.value.retry_after is not None
            refused += 1
            await asyncio.sleep(0.01)
        assert len(pretended.asked) - before < refused / 2
        pretended.replies[:] = [answer({"data": {}})]
        async with asyncio.timeout(10):
            while pool.circuit.reason is not None:
                try:
                    await pool.run(get, TOKEN)
                except Unavailable:
                    await asyncio.sleep(0.02)


async def test_one_path_that_hangs_stops_no_other() -> None:
    async def by_path(writer: asyncio.StreamWriter) -> None:
        if b"/slow" in pretended.asked[-1]:
            await hang(writer)
        writer.write(answer({"data": {}}))

    async with pretending(by_path) as pretended, pool_to(pretended.url, 1.5) as pool:
        slow = asyncio.create_task(pool.run(lambda adapter: adapter.get("/v1/slow"), TOKEN))
        for _ in range(20):
            await pool.run(get, TOKEN)
            await asyncio.sleep(0.08)
        with pytest.raises(Unavailable):
            await slow
        assert pool.circuit.reason is None
        await pool.run(get, TOKEN)


async def test_a_caller_that_is_cancelled_frees_its_thread_and_its_connection() -> None:
    async with pretending(hang) as pretended, pool_to(pretended.url, 30) as pool:
        calls = [asyncio.create_task(pool.run(get, TOKEN)) for _ in range(THREADS)]
        await asyncio.sleep(0.2)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        pretended.replies[:] = [answer({"data": {}})]
        async with asyncio.timeout(5):
            await pool.run(get, TOKEN)


async def test_closing_waits_for_nobody_who_hangs() -> None:
    async with pretending(hang) as pretended:
        pool = Pool(Wire(pretended.url), namespace=None, timeout=30)
        call = asyncio.create_task(pool.run(get, TOKEN))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await pool.close()
        with pytest.raises(Unavailable):
            await call
        with pytest.raises(Unavailable, match="it is closed"):
            await pool.run(get, TOKEN)


# -- connections -------------------------------------------------------------------------------------------------------


async def test_connections_are_kept_and_one_that_was_closed_meanwhile_is_not_used() -> None:
    async def once(writer: asyncio.StreamWriter) -> None:
        writer.write(answer({"data": {}}))
        await writer.drain()
        writer.close()

    async with pretending(answer({"data": {}})) as pretended, pool_to(pretended.url) as pool:
        for _ in range(10):
            await pool.run(get, TOKEN)
        assert pretended.connections == 1
        pretended.replies[:] = [once]
        for _ in range(5):
            await pool.run(get, TOKEN)
            await asyncio.sleep(0.02)  # for the end to arrive
        assert pretended.connections == 5


async def test_an_answer_that_came_late_is_nobody_elses() -> None:
    """T50: the connection of a call that was given up is not used again."""
    calls = 0

    async def late(writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        number = calls
        if number == 1:
            await asyncio.sleep(2.0)
        writer.write(answer({"data": {"call": number}}))

    async with pretending(late) as pretended, pool_to(pretended.url, 1.5) as pool:
        with pytest.raises(Unavailable):
            await pool.run(get, TOKEN)
        await asyncio.sleep(0.7)
        for number in range(2, 10):
            assert (await pool.run(get, TOKEN))["data"] == {"call": number}
