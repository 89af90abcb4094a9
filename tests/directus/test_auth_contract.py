"""`auth.directus` keeps to the contract of its slot on a real Directus, with and without the secret (S65)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from plugins.auth.directus import Directus
from sidecar import Authenticator
from sidecar.testing.auth import AuthenticatorContract, Known
from tests.directus.conftest import SERVICE_TOKEN, signing_in
from tests.directus.people import Human, human
from tests.services.directus.server import SECRET, DirectusServer
from tests.services.proxy import FaultProxy


@pytest.fixture(scope="module")
def peopled() -> dict[str, dict[str, Human]]:
    """The people of each class by their tokens: made once, and anew where a test has ended a session. A password costs Directus a second."""
    return {}


class _Contract(AuthenticatorContract):
    """Two people, and what Directus would never take."""

    ends = True
    reports = True
    can_break = True
    secret: str | None = None
    bad = (SERVICE_TOKEN, f"{'A' * 40}", "eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "a.b.c")

    async def token_of(self, person: Human) -> str:
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def auth(
        self, directus: DirectusServer, peopled: dict[str, dict[str, Human]]
    ) -> AsyncIterator[Authenticator]:
        self.people = peopled.setdefault(type(self).__name__, {})
        while len(self.people) < 2:
            person = await human(directus, f"Person{len(self.people)}")
            self.people[await self.token_of(person)] = person
        self.good = [Known(token, person.id) for token, person in self.people.items()]
        async with FaultProxy(directus.address) as self.proxy:
            options: dict[str, Any] = {"url": f"http://{self.proxy.host}:{self.proxy.port}", "timeout": "1s"}
            if self.secret is not None:
                options["secret"] = self.secret
            async with signing_in(directus, **options) as plugin:
                yield await plugin.provide_auth()

    async def end(self, auth: Authenticator, known: Known) -> None:
        assert isinstance(auth, Directus)
        await self.people.pop(known.token).change(status="suspended")

    async def break_backend(self, auth: Authenticator) -> None:
        self.proxy.refuse()
        self.proxy.reset()


class TestSessionTokens(_Contract):
    async def token_of(self, person: Human) -> str:
        return await person.session_token()


class TestSessionTokensWithTheSecret(TestSessionTokens):
    secret = SECRET


class TestAccessTokens(_Contract):
    async def token_of(self, person: Human) -> str:
        return await person.access_token()


class TestAccessTokensWithTheSecret(TestAccessTokens):
    secret = SECRET


class TestStaticTokens(_Contract):
    async def token_of(self, person: Human) -> str:
        return await person.static_token()
