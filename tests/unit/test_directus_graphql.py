"""What answers at the GraphQL WebSocket and does not do what it should: said so, or tried again, and never waited for in vain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from plugins.directus.client import DirectusClient, NotServed
from plugins.directus.graphql_subscriptions import follow_graphql
from plugins.directus.options import DirectusOptions
from plugins.directus.subscriptions import Heard, Wanted
from sidecar import Unavailable
from tests.services.answering import answering

Talk = Callable[[web.WebSocketResponse], Awaitable[None]]
WANTED = [Wanted("rows", "delete"), Wanted("rows", "update", ("id", "by"))]


@asynccontextmanager
async def served(talk: Talk, protocols: tuple[str, ...] = ("graphql-transport-ws",)) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=protocols)
        await socket.prepare(request)
        await talk(socket)
        await socket.close()
        return socket

    async with answering(answer, "/graphql") as url:
        yield url


async def followed(url: str, wanted: list[Wanted] = WANTED) -> list[Heard | None]:
    """What is heard until the connection ends."""
    heard: list[Heard | None] = []
    told = DirectusOptions.model_validate({"url": url, "token": "a-token"})
    async with DirectusClient(told, "persistence") as client:
        try:
            async for each in follow_graphql(client, "/graphql", wanted):
                heard.append(each)  # noqa: PERF401  # kept when it ends with an error
        except NotServed:
            raise
        except Unavailable:
            return heard
    raise AssertionError("it ended without a word")


async def opened(socket: web.WebSocketResponse) -> None:
    """As Directus answers, up to where both subscriptions hold."""
    assert (await socket.receive_json())["payload"] == {"access_token": "a-token"}
    await socket.send_json({"type": "connection_ack"})
    for count in (1, 3):
        for _ in range(count):
            asked = await socket.receive_json()
        await socket.send_json({"id": asked["id"], "type": "next", "payload": {"data": {"__typename": "Query"}}})
        await socket.send_json({"id": asked["id"], "type": "complete"})


async def test_reports_are_keys_and_rows_and_everything_else_is_passed_over() -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await opened(socket)
        event: dict[str, Any] = {"key": "a", "event": "delete"}
        for payload in ({}, {"data": None}, {"data": {"rows_mutated": None}}, {"data": {"rows_mutated": event}}):
            await socket.send_json({"id": "0", "type": "next", "payload": payload})
        await socket.send_json({"id": "9", "type": "next", "payload": {"data": {"rows_mutated": event}}})
        await socket.send_json({"type": "pong"})
        gone = {"key": "b", "event": "update", "data": None}
        await socket.send_json({"id": "1", "type": "next", "payload": {"data": {"rows_mutated": gone}}})
        edited = {"key": "c", "event": "update", "data": {"by": "somebody"}}
        await socket.send_json({"id": "1", "type": "next", "payload": {"data": {"rows_mutated": edited}}})

    async with served(talk) as url:
        assert await followed(url) == [
            None,
            Heard("rows", "delete", keys=["a"]),
            Heard("rows", "update", rows=[{"by": "somebody", "id": "c"}]),
        ]


async def test_what_is_reported_before_all_hold_is_heard_afterwards() -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.receive_json()
        await socket.send_json({"type": "connection_ack"})
        await socket.receive_json()
        await socket.send_json({"id": "probe", "type": "complete"})
        for _ in range(3):
            await socket.receive_json()
        early = {"data": {"rows_mutated": {"key": "early", "event": "delete"}}}
        await socket.send_json({"id": "0", "type": "next", "payload": early})
        await socket.send_json({"id": "probe", "type": "complete"})

    async with served(talk) as url:
        assert await followed(url) == [None, Heard("rows", "delete", keys=["early"])]


@pytest.mark.parametrize("kind", ["error", "complete"])
async def test_a_subscription_that_is_refused_or_ended_is_not_served(kind: str) -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await opened(socket)
        await socket.send_json({"id": "1", "type": kind, "payload": []})

    async with served(talk) as url:
        with pytest.raises(NotServed, match="changes of rows"):
            await followed(url)


async def test_a_name_that_graphql_cannot_have_is_not_asked_for() -> None:
    async def talk(_: web.WebSocketResponse) -> None:
        raise AssertionError("nothing is to be asked")

    async with served(talk) as url:
        with pytest.raises(NotServed, match="my-rows"):
            await followed(url, [Wanted("my-rows", "delete")])


async def test_another_protocol_and_no_websocket_at_all_are_not_served() -> None:
    async def talk(_: web.WebSocketResponse) -> None:
        return

    async with served(talk, protocols=()) as url:
        with pytest.raises(NotServed, match="graphql-transport-ws"):
            await followed(url)
        async with DirectusClient(DirectusOptions.model_validate({"url": url, "token": "a-token"}), "x") as client:
            with pytest.raises(NotServed, match="404"):
                async for _ in follow_graphql(client, "/elsewhere", WANTED):
                    pass


async def test_a_refused_token_is_read_again_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("an-old-token")
    shown: list[str] = []

    async def talk(socket: web.WebSocketResponse) -> None:
        shown.append((await socket.receive_json())["payload"]["access_token"])
        await socket.close(code=4403)

    async with served(talk) as url:
        options = DirectusOptions.model_validate({"url": url, "token_file": str(file)})
        async with DirectusClient(options, "persistence") as client:
            assert client.token.value == "an-old-token"
            file.write_text("a-new-token")
            for _ in range(2):
                with pytest.raises(Unavailable):
                    async for _heard in follow_graphql(client, "/graphql", WANTED):
                        pass
    assert shown == ["an-old-token", "a-new-token"]
