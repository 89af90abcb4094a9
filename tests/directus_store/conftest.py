"""A Directus that was prepared for the sidecar: shared by the tests of a worker, or the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from plugins.directus.schema import Names
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.directus_store.world import Prepared
from tests.integration.world import AT_ONCE, FAST
from tests.services.directus.front import DirectusFront
from tests.services.directus.server import DirectusServer
from tests.services.directus.sidecars import names_of, prepare
from tests.services.fixtures import StartDirectus

ServeOn = Callable[..., AbstractAsyncContextManager[Server]]
StartPrepared = Callable[..., Awaitable[Prepared]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _prepared(directus_server: DirectusServer) -> Prepared:
    names = names_of("store")
    return Prepared(directus_server, names, await prepare(directus_server, names))


@pytest.fixture
def directus(_prepared: Prepared) -> Prepared:
    """Collections in the shared Directus, that this test shares with others: use people of your own, `somebody()`."""
    return _prepared


@pytest.fixture
async def start_prepared(start_directus: StartDirectus) -> StartPrepared:
    """A Directus of the test's own, prepared: `directus = await start_prepared(RATE_LIMITER_ENABLED="true", …)`."""

    async def start(**options: Any) -> Prepared:
        server = await start_directus(**options)
        return Prepared(server, Names(), await prepare(server))

    return start


@pytest.fixture
async def front(directus: Prepared) -> AsyncIterator[DirectusFront]:
    """Before the shared Directus."""
    async with DirectusFront(directus.server.url) as front:
        yield front


@pytest.fixture
def serve_on(serve: Serve) -> ServeOn:
    """A sidecar whose store is this Directus: `async with serve_on(directus, url=front.url) as server`."""

    @asynccontextmanager
    async def run(
        directus: Prepared, url: str | None = None, options: dict[str, Any] | None = None, **sections: Any
    ) -> AsyncIterator[Server]:
        sections.setdefault("drafts", AT_ONCE)
        sections.setdefault("limits", FAST)
        async with serve(persistence=directus.section(url, **(options or {})), **sections) as server:
            yield server

    return run
