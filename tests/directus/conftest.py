"""A real Directus with a service account, and `auth.directus` on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from plugins.auth.directus import Directus
from plugins.directus.account import READ_PEOPLE
from plugins.directus.bootstrap import bootstrap
from plugins.directus.options import DirectusOptions
from plugins.directus.plan import Needed
from tests.services.directus.server import ADMIN_TOKEN, DirectusServer

SERVICE_TOKEN = "the-service-token-of-these-tests"
Signing = Callable[..., AbstractAsyncContextManager[Directus]]


async def make_account(server: DirectusServer) -> None:
    """The service account, with the right to read people."""
    options = DirectusOptions.model_validate({"url": server.url, "token": SERVICE_TOKEN})
    await bootstrap(
        options, Needed(permissions=READ_PEOPLE), dry_run=False, environment={"DIRECTUS_ADMIN_TOKEN": ADMIN_TOKEN}
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def directus(directus_server: DirectusServer) -> DirectusServer:
    """The shared Directus, with the service account whose token is `SERVICE_TOKEN`."""
    await make_account(directus_server)
    return directus_server


@asynccontextmanager
async def signing_in(server: DirectusServer, **options: Any) -> AsyncIterator[Directus]:
    """The plugin, entered."""
    given = {"url": server.url, "token": SERVICE_TOKEN, **options}
    told = Directus.Options.model_validate({name: value for name, value in given.items() if value is not None})
    async with Directus(told) as plugin:
        yield plugin


@pytest.fixture
def signing(directus: DirectusServer) -> Signing:
    """`async with signing(secret=…) as auth` on the shared Directus."""
    return lambda **options: signing_in(directus, **options)
