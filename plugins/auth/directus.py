"""`auth.directus`: people sign in with what Directus gave them (docs/directus.md).

An access token, a session token (in the first frame, or as Directus' own HttpOnly cookie with `server.cookie`), or a static token.
The token says who somebody is; whether that person may still come in says the service account. The parts, from here down:
`directus_tokens` (what a token claims), `directus_vouchers` (whether Directus takes it), `directus_people` (who it is),
`directus_line` and `directus_pace` (how many of them in a second), `directus_sessions` (which are open here), `directus_changes`
(who is ended elsewhere), `directus_source` (the calls).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import structlog
from pydantic import Field, SecretStr, field_validator

from plugins.auth.directus_changes import Changes
from plugins.auth.directus_findings import sign_in_findings
from plugins.auth.directus_line import Line
from plugins.auth.directus_pace import Pace
from plugins.auth.directus_people import People, Person
from plugins.auth.directus_sessions import OpenSessions
from plugins.auth.directus_source import Source
from plugins.auth.directus_tokens import Kind, Token, read_token
from plugins.auth.directus_vouchers import Vouched, Vouchers
from plugins.directus.account import READ_PEOPLE
from plugins.directus.bootstrap import bootstrap
from plugins.directus.client import AnswerTooLarge, NoDirectus
from plugins.directus.options import DirectusOptions
from plugins.directus.plan import Needed
from sidecar import (
    Authenticator,
    Credential,
    Ended,
    Finding,
    Session,
    StartRefused,
    Unauthenticated,
    Unavailable,
    hookimpl,
)

log = structlog.get_logger("plugins.auth.directus")

_HEARD_SECONDS = 45.0
"""How long an answer is good while Directus reports every change."""
_UNHEARD_SECONDS = 2.0
_SESSION_SECONDS = 2.0
"""For the tabs of one browser that come back at once: Directus reports no end of a session."""
_AGAIN_SECONDS = 2.0
_LOOKS_A_SECOND = 100
"""At sessions that are open: 5,000 with session tokens in each process once a minute."""
_PATIENCE, _PATIENCE_OF_LOOKS = 4.0, 8.0
"""Seconds in the line; the core gives a sign-in ten, and a look as many. What a sign-in asks Directus after it takes its time too."""


class Directus(Authenticator):
    """`auth.directus`. A Directus that does not answer is waited for; one that refuses the service account refuses the start."""

    api = 1

    class Options(DirectusOptions):
        secret: SecretStr | None = Field(
            default=None,
            description="Directus' own SECRET, to check tokens here instead of asking Directus about each. Whoever holds it can make "
            "tokens of anybody, so leave it out unless very many people sign in.",
        )
        roles: tuple[str, ...] = Field(
            default=(), description="Ids of the roles that may use the sidecar; empty: everybody."
        )
        names: Literal["full", "first", "none"] = Field(
            default="full",
            description="What is shown as the sender of a message: first and last name, the first alone, nothing.",
        )
        sign_ins_per_second: Annotated[int, Field(ge=1, le=1000)] = Field(
            default=44,
            description="How many calls those who come make in a second at most: one about each token, unless there is a `secret`, "
            "and a few that read all of these people. Who comes beyond that waits, or is told when to come again.",
        )

        @field_validator("secret")
        @classmethod
        def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
            if secret is not None and len(secret.get_secret_value().encode()) < 32:
                raise ValueError(
                    "is shorter than 32 bytes, so can be guessed; leave it out, tokens are asked of Directus then"
                )
            return secret

    def __init__(self, options: Options) -> None:
        self._options = options
        self._secret = options.secret.get_secret_value() if options.secret is not None else None
        self._source = Source(options)
        pace = Pace(options.sign_ins_per_second)
        self._people = People(self._read_people, kept=self._kept, pace=pace)
        self._vouchers = Vouchers(
            self._source.vouch, Line(pace, _PATIENCE), Line(Pace(_LOOKS_A_SECOND), _PATIENCE_OF_LOOKS)
        )
        self._open = OpenSessions()
        self._changes = Changes(self._source.client, self._people, self._vouchers, self._open, self._still)
        self._inspected = False
        self._barred: str | None = None
        self._stack = AsyncExitStack()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._source)
            stack.push_async_callback(self._vouchers.close)
            try:
                await self._inspect()
            except (NoDirectus, AnswerTooLarge) as error:
                raise StartRefused("auth", error.reason) from None
            except Unavailable as error:
                log.warning("directus_waited_for", reason=error.reason)
                looking = asyncio.create_task(self._look_until_inspected())
                stack.push_async_callback(_end, looking)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _inspect(self) -> None:
        """Raises `StartRefused` where sign-in cannot work like this, `Unavailable` where Directus cannot be asked."""
        await self._source.inspect(self._secret)
        self._inspected, self._barred = True, None

    async def _look_until_inspected(self) -> None:
        """Directus was away at the start. The process serves already: what is wrong ends nothing, but nobody is let in on it."""
        while not self._inspected:
            await asyncio.sleep(_AGAIN_SECONDS)
            try:
                await self._inspect()
            except Unavailable:
                continue
            except StartRefused as error:
                if self._barred != str(error):
                    log.error("directus_refuses", reason=str(error))
                self._barred = str(error)

    @hookimpl
    async def provide_auth(self) -> Authenticator:
        return self

    def state(self) -> Mapping[str, Any]:
        """For `/readyz`: whether Directus answers, and whether it reports changes of users."""
        trouble = self._barred or self._source.trouble
        state: dict[str, Any] = {"ok": trouble is None, "hears_changes": self._changes.heard}
        if trouble is not None:
            state["reason"] = trouble
        elif not self._changes.heard:
            state["detail"] = f"changes of users are seen within a minute: {self._changes.unheard_because}"
        return state

    async def bootstrap(self, dry_run: bool) -> Sequence[str]:
        """The service account, with the right to see who may sign in."""
        return await bootstrap(self._options, Needed(permissions=READ_PEOPLE), part="auth", dry_run=dry_run)

    async def findings(self) -> Sequence[Finding]:
        """For `sidecar doctor`."""
        return await sign_in_findings(self._source, self._secret, self._options.roles)

    # -- the slot ------------------------------------------------------------------------------------------------------

    async def sign_in(self, credential: Credential) -> Session:
        token = read_token(credential.token, self._now(), secret=self._secret, from_cookie=credential.from_cookie)
        if self._barred is not None:
            raise Unavailable("auth", self._barred)
        vouched = await self._genuine(token)
        person = await self._allowed(vouched, fresh=False)
        self._open.shown(person.user_id, token)
        return Session(
            user_id=person.user_id,
            name=person.name,
            session_id=token.session_id,
            expires_at=token.expires_at(self._source.clock_ahead),
            second_factor=False,
            detail=token.detail(),
        )

    async def recheck(self, session: Session) -> None:
        token = Token.from_detail(session.user_id, session.detail)
        try:
            await self._still(session.user_id, token)
        except Unauthenticated:
            self._open.ended(session.user_id, token)
            raise
        self._open.shown(session.user_id, token)

    async def ended(self) -> AsyncIterator[Ended]:
        async with aclosing(self._changes.ended()) as reports:
            async for report in reports:
                yield report

    # -- how -----------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """The time on Directus' clock."""
        return time.time() - self._source.clock_ahead

    def _kept(self) -> float:
        return _HEARD_SECONDS if self._changes.heard else _UNHEARD_SECONDS

    async def _genuine(self, token: Token) -> Vouched:
        if token.kind is Kind.ACCESS:
            if self._secret is not None and token.user_id is not None:
                return Vouched(token.user_id)
            # Directus itself takes an access token until it expires, whatever happens to its person.
            return await self._vouchers.of(token, (token.expires or 0.0) - self._now())
        return await self._vouchers.of(token, _SESSION_SECONDS if token.kind is Kind.SESSION else self._kept())

    async def _still(self, user_id: str, token: Token) -> None:
        """Raises `Unauthenticated` when the session is over, as Directus says now."""
        vouched = Vouched(user_id)
        if token.kind is not Kind.ACCESS:
            vouched = await self._vouchers.of(token, 0.0, fresh=True)
        await self._allowed(vouched, fresh=True)

    async def _allowed(self, vouched: Vouched, *, fresh: bool) -> Person:
        person = await self._people.find(vouched.user_id, fresh=fresh)
        if person is None:
            raise Unauthenticated("there is no such person in Directus")
        if not person.active:
            raise Unauthenticated("this person's account is not active in Directus")
        if person.user_id == self._source.account:
            raise Unauthenticated("the service account is nobody who signs in")
        if self._options.roles and person.role not in self._options.roles:
            raise Unauthenticated("this person's role may not use the sidecar")
        if vouched.wants_second_factor and not person.second_factor:
            raise Unauthenticated("this person has to set up the second factor in Directus first")
        return person

    async def _read_people(self, user_ids: Sequence[str]) -> Mapping[str, Person]:
        return await self._source.people(user_ids, self._options.names)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
