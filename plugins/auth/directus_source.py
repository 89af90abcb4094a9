"""The calls that sign-in makes: who is behind a token, who somebody is, and at the start whether all that can be asked."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from plugins.auth.directus_people import FIELDS, Person, person_of
from plugins.auth.directus_tokens import Token, mint
from plugins.auth.directus_vouchers import Vouched
from plugins.directus.blame import blamed, no_directus
from plugins.directus.client import DirectusClient
from plugins.directus.options import DirectusOptions
from plugins.directus.refusals import DirectusRefused
from sidecar import StartRefused, Unauthenticated, Unavailable

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
"""Ids of users. Another one is nobody's, and PostgreSQL would refuse the whole question for it."""


class Source:
    """An async context manager around the client."""

    def __init__(self, options: DirectusOptions) -> None:
        self.client = DirectusClient(options, "auth")
        self.account: str | None = None
        """The id of the service user."""

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, trace)

    @property
    def trouble(self) -> str | None:
        """Why Directus cannot be asked; None while it can."""
        return self.client.fault

    @property
    def clock_ahead(self) -> float:
        """By how many seconds our clock is ahead of Directus'."""
        return self.client.clock_ahead

    async def vouch(self, token: Token) -> Vouched:
        """Whose this is, as Directus takes it. Raises `Unauthenticated`, `Unavailable`.

        A JWT says itself whose it is, and Directus checks it at any call. So it is asked what only it knows: a policy may want a
        second factor, and the claim that says so is in the first token of a login alone.
        """
        path = "/users/me" if token.user_id is None else "/policies/me/globals"
        query = {"fields": "id"} if token.user_id is None else None
        try:
            found = await self.client.call("GET", path, query=query, token=token.text)
        except DirectusRefused as error:
            if error.status < 500:
                raise Unauthenticated("Directus does not take this token") from None
            raise Unavailable("auth", f"Directus answers {error.status} {error.code}") from None
        answer = found if isinstance(found, Mapping) else {}
        user_id = token.user_id if token.user_id is not None else answer.get("id")
        if not isinstance(user_id, str) or not user_id:
            raise Unauthenticated("the token names no person")
        return Vouched(user_id, answer.get("enforce_tfa") is True)

    async def people(self, user_ids: Sequence[str], names: str) -> Mapping[str, Person]:
        """Those of them that exist. Raises `Unavailable`."""
        wanted = [user_id for user_id in user_ids if _UUID.match(user_id)]
        if not wanted:
            return {}
        query = {"filter": {"id": {"_in": wanted}}, "fields": list(FIELDS), "limit": len(wanted)}
        try:
            # SEARCH, for Directus may answer a GET from its cache, minutes old.
            rows = await self.client.call("SEARCH", "/users", {"query": query})
        except DirectusRefused as error:
            raise Unavailable("auth", f"the service account may not read directus_users ({error.code})") from None
        people = [person_of(row, names) if isinstance(row, Mapping) else None for row in _list(rows)]
        found = {person.user_id: person for person in people if person is not None}
        if len(found) < len(people):  # who is not found would be sent away
            raise _no_people()
        return found

    async def inspect(self, secret: str | None) -> None:
        """Sees that the service account is one that can do its work, and `secret` Directus' own.

        Raises `StartRefused` with what mends it, and `Unavailable`.
        """
        if (lacking := self.client.token.lacking("auth")) is not None:
            raise StartRefused("auth", lacking)
        try:
            me = await self.client.call("GET", "/users/me", query={"fields": "id"})
            allowed = await self.client.call("GET", "/permissions/me")
        except DirectusRefused as error:
            raise blamed(error, "auth", self.client.url) from None
        if not isinstance(me, Mapping) or not isinstance(allowed, Mapping):
            raise no_directus("auth", self.client.url, "GET /users/me says nothing")
        self.account = str(me.get("id") or "") or None
        if self.account is None:
            raise StartRefused("auth", "the service account's token is no user's; run `sidecar bootstrap`")
        _may_read_people(allowed)
        if secret is not None and not await self.signs(secret):
            raise StartRefused(
                "auth", "auth.options.secret is not the SECRET of this Directus; copy it, or leave it out"
            )

    async def signs(self, secret: str) -> bool:
        """Whether Directus takes what is signed with this secret. Raises `Unavailable`."""
        now = time.time() - self.clock_ahead
        try:
            await self.client.call(
                "GET", "/users/me", query={"fields": "id"}, token=mint(self.account or "", secret, now)
            )
        except DirectusRefused as error:
            if error.status < 500:
                return False
            raise Unavailable("auth", f"Directus answers {error.status} {error.code}") from None
        return True


def _list(rows: object) -> Sequence[object]:
    if not isinstance(rows, list):
        raise _no_people()
    return rows


def _no_people() -> Unavailable:
    return Unavailable("auth", "Directus answers with something else than people; look at auth.options.url")


def _may_read_people(allowed: object) -> None:
    users = allowed.get("directus_users") if isinstance(allowed, Mapping) else None
    read = users.get("read") if isinstance(users, Mapping) else None
    access = read.get("access") if isinstance(read, Mapping) else "none"
    if access != "full":
        found = "only some" if access == "partial" else "no"
        raise StartRefused(
            "auth", f"the service account may read {found} rows of directus_users; run `sidecar bootstrap`"
        )
    fields = read.get("fields") if isinstance(read, Mapping) else None
    if isinstance(fields, list) and "*" not in fields and not {"id", "status", "role"} <= set(fields):
        raise StartRefused(
            "auth", "the service account may not read id, status and role of directus_users; run `sidecar bootstrap`"
        )
