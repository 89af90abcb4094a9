"""The Directus of (k): prepared as `sidecar bootstrap` leaves one, with people who can sign in."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import orjson

from bench.cores import Cores, on_core
from bench.editing import BenchFailed
from bench.link import Link
from bench.missing import Missing
from bench.pair import type_and_code
from bench.served import Served, ours
from plugins.directus.schema import Names
from tests.services.directus.installing import find_directus
from tests.services.directus.server import SECRET, DirectusServer
from tests.services.directus.sidecars import prepare
from tests.services.programs import Missing as NoProgram

_HOURS = 4 * 3600
_A_CALL = 100
_READY = b'{"type":"ready"'
_LIMITS = {
    "frames_per_second": 100_000,
    "burst": 1_000_000,
    "connections_per_address": 100_000,
    "bytes_per_user": "1024MiB",
}
_NUMBERS = itertools.count()


def described() -> str:
    """Name and version, for the table's head. Raises `Missing`."""
    try:
        return f"Directus {find_directus().version}"
    except NoProgram as missing:
        raise Missing(str(missing)) from None


class Refused(BenchFailed):
    """A sign-in that was not let in."""

    def __init__(self, told: str, after: float | None) -> None:
        super().__init__(told)
        self.after = after
        """Seconds after which the server asks to be asked again; None: it does not."""


@dataclass(slots=True)
class Person:
    """A user of Directus with an access token, on one device."""

    id: str
    token: str = field(repr=False)
    device: bytes = field(default=b"", repr=False)
    """Id and secret, as the next `auth` has them; empty before the first one."""

    async def sign_in(self, url: str) -> Link:
        """A link that has heard `ready`. Raises `Refused`."""
        link = await Link.open(url)
        try:
            device = b',"device":%b' % self.device if self.device else b""
            link.send(
                b'{"type":"auth","id":"auth","payload":{"token":"%b","protocol":1%b}}' % (self.token.encode(), device)
            )
            answer = await link.next_frame(_READY, b'{"type":"error"', b'{"type":"reauth_required"')
            payload = orjson.loads(answer)["payload"]
            if not answer.startswith(_READY):
                after = payload.get("retryAfterMs")
                raise Refused(type_and_code(answer), None if after is None else after / 1e3)
        except BaseException:
            link.abort()
            raise
        if "secret" in payload["device"]:
            self.device = orjson.dumps({name: payload["device"][name] for name in ("id", "secret")})
        return link


@dataclass(frozen=True, slots=True)
class Home:
    """A running Directus, and the token of the sidecar's account on it."""

    server: DirectusServer
    token: str = field(repr=False)
    names: Names = field(default_factory=Names)

    @classmethod
    @asynccontextmanager
    async def opened(cls, folder: Path, cores: Cores) -> AsyncIterator[Home]:
        """Raises `tests.services.programs.Missing` where no Directus is installed. Not on the sidecar's core: it serves the bare loop too."""
        with on_core(cores.redis if cores.redis != cores.server else cores.generator):
            async with DirectusServer(folder) as server:
                yield cls(server, await prepare(server))

    def options(self, url: str | None = None) -> dict[str, Any]:
        """What plugins on this Directus are told; `url`: of what stands before it."""
        return {"url": url or self.server.url, "token": self.token}

    def sidecar(
        self,
        folder: Path,
        core: int | None,
        url: str | None = None,
        *,
        auth: Mapping[str, Any] | None = None,
        changes: str = "websocket",
    ) -> Served:
        """The sidecar, which signs people in by this Directus and stores there.

        `auth`: more options for signing in; `changes`: how it hears of changes that are made in Directus.
        """
        return ours(
            folder,
            core,
            auth={"use": "directus", "options": {**self.options(url), **(auth or {})}},
            persistence={"use": "directus", "options": {**self.options(url), "changes": changes}},
            limits=_LIMITS,
        )

    async def people(self, count: int) -> Sequence[Person]:
        """So many new users, with the tokens that a login would give them: a login takes Directus a second of hashing."""
        ids: list[str] = []
        for at in range(0, count, _A_CALL):
            rows = [
                {"email": f"bench-{next(_NUMBERS)}-{secrets.token_hex(4)}@example.com", "status": "active"}
                for _ in range(min(_A_CALL, count - at))
            ]
            ids += [row["id"] for row in await self.server.ask("POST", "/users?fields=id", rows)]
        return [Person(each, _access_token(each)) for each in ids]


def _access_token(user: str) -> str:
    now = int(time.time())
    claims = {"id": user, "role": None, "app_access": False, "admin_access": False}
    return jwt.encode({**claims, "iat": now, "exp": now + _HOURS, "iss": "directus"}, SECRET, algorithm="HS256")


def secret() -> str:
    """With which this Directus signs its tokens."""
    return SECRET
