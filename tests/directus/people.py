"""People, roles and tokens of a real Directus, for tests."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.services.directus.server import DirectusServer

_NUMBERS = itertools.count()


@dataclass
class Human:
    """A user of Directus who can log in."""

    server: DirectusServer
    id: str
    email: str
    password: str = field(repr=False)

    async def access_token(self) -> str:
        return str((await self.log_in())["access_token"])

    async def log_in(self, **more: str) -> dict[str, Any]:
        return await self.server.log_in(self.email, self.password, **more)

    async def session_token(self) -> str:
        """As the browser gets it, in a cookie."""
        login = {"email": self.email, "password": self.password, "mode": "session"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.server.url}/auth/login", json=login) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return answer.cookies["directus_session_token"].value

    async def log_out(self, session_token: str) -> None:
        """Ends the session of this token, as the browser does."""
        cookies = {"directus_session_token": session_token}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.server.url}/auth/logout", json={"mode": "session"}, cookies=cookies) as answer,
        ):
            assert answer.status < 300, await answer.text()

    async def static_token(self) -> str:
        token = secrets.token_urlsafe(24)
        await self.change(token=token)
        return token

    async def change(self, **values: Any) -> None:
        """By an admin."""
        await self.server.ask("PATCH", f"/users/{self.id}", values)

    async def delete(self) -> None:
        await self.server.ask("DELETE", f"/users/{self.id}")


async def human(server: DirectusServer, name: str = "Anna", **values: Any) -> Human:
    """A new person."""
    password = secrets.token_urlsafe(12)
    email = f"{name.lower()}-{next(_NUMBERS)}-{secrets.token_hex(3)}@example.com"
    values = {"email": email, "password": password, "first_name": name, "status": "active", **values}
    made = await server.ask("POST", "/users", values)
    return Human(server, made["id"], email, password)


@asynccontextmanager
async def collections_gone_after(server: DirectusServer, *names: str) -> AsyncIterator[None]:
    """These collections are deleted in the end, those first that refer to others: the free licence has room for 25."""
    try:
        yield
    finally:
        for name in names:
            await server.attempt("DELETE", f"/collections/{name}")


async def many(server: DirectusServer, count: int) -> Sequence[str]:
    """The ids of so many new people, who cannot log in."""
    rows = [
        {"email": f"many-{next(_NUMBERS)}-{secrets.token_hex(4)}@example.com", "status": "active"} for _ in range(count)
    ]
    made = []
    for at in range(0, count, 100):
        made += await server.ask("POST", "/users?fields=id", rows[at : at + 100])
    return [row["id"] for row in made]
