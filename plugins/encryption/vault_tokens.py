"""The token that this process has at Vault: signed in for, renewed, replaced, given back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any, Self, TypeVar

import structlog
from hvac.api.auth_methods import Token as TokenApi
from hvac.exceptions import InternalServerError, InvalidRequest, VaultError

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_pool import Pool
from plugins.encryption.vault_sign_in import REFUSALS, Grant, SignIn, SignInRefused
from sidecar import Unavailable

log = structlog.get_logger("plugins.encryption.vault")

T = TypeVar("T")

_AGAIN_SECONDS = 1.0
"""Between two tries to sign in after a refusal, at first; it doubles."""
_LONGEST_SECONDS = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    grant: Grant
    got: float

    @property
    def value(self) -> str:
        return self.grant.token

    @property
    def ends(self) -> float:
        """By the monotonic clock."""
        return self.got + self.grant.seconds if self.grant.seconds else float("inf")

    @property
    def renewed_at(self) -> float:
        """At two thirds of its life."""
        return self.got + self.grant.seconds * 2 / 3 if self.grant.seconds else float("inf")


class Tokens:
    """An async context manager, while which the token is kept alive. Belongs to one event loop."""

    def __init__(self, pool: Pool, sign_in: SignIn) -> None:
        self.trouble: str | None = None
        """Why there is no token, or soon will be none."""
        self._pool = pool
        self._method = sign_in
        self._token: Token | None = None
        self._signing_in: asyncio.Task[Token] | None = None
        self._checking: asyncio.Task[bool] | None = None
        self._changed = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._refused_until = 0.0
        self._pause = _AGAIN_SECONDS
        self._sure = 0.0

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.get_running_loop().create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [task for task in (self._keeping, self._signing_in, self._checking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        token, self._token = self._token, None
        if token is not None and token.grant.own:
            try:
                await self._pool.run(lambda adapter: TokenApi(adapter).revoke_self(), token.value)
            except (VaultError, Unavailable):
                pass  # it ends by itself

    @property
    def token(self) -> Token | None:
        """What is held now."""
        return self._token

    async def current(self) -> Token:
        """A token that has not ended, as far as this process knows. Raises `Unavailable`."""
        token = self._token
        if token is not None and monotonic() < token.ends:
            return token
        try:
            return await self.sign_in()
        except SignInRefused as error:
            raise Unavailable("encryption", str(error), retry_after=5.0) from None

    async def sign_in(self) -> Token:
        """A new token; who asks meanwhile gets the same. Raises `SignInRefused` and `Unavailable`."""
        if monotonic() < self._refused_until:
            raise SignInRefused(self.trouble or "Vault refused the sign-in")
        if self._signing_in is None:
            self._signing_in = asyncio.create_task(self._sign_in())
            self._signing_in.add_done_callback(self._signed_in)
        return await _shared(self._signing_in)

    def _signed_in(self, task: asyncio.Task[Token]) -> None:
        self._signing_in = None
        if not task.cancelled():
            task.exception()  # callers may all have gone

    async def _sign_in(self) -> Token:
        asked = monotonic()
        try:
            grant = await self._pool.run(self._method.__call__, None)
        except SignInRefused as error:
            self._refused(str(error))
            raise
        except REFUSALS as error:  # by a step of which the method did not think
            self._refused(f"Vault refuses the sign-in ({type(error).__name__})")
            raise SignInRefused(self.trouble) from None
        token = self._token = Token(grant, asked)
        self._sure, self._pause, self.trouble = monotonic(), _AGAIN_SECONDS, None
        self._changed.set()
        log.info("vault_signed_in", seconds=grant.seconds)
        return token

    def _refused(self, reason: str) -> None:
        if self.trouble != reason:
            log.error("vault_sign_in_refused", reason=reason)
        self.trouble = reason
        self._refused_until = monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_SECONDS)

    async def after_refusal(self, token: Token, asked: float) -> Token | None:
        """What to ask with after this token, in a call that began then, was denied: None where it is its policy that denies.

        Raises `Unavailable`.
        """
        if self._token is not token:
            return await self.current()
        if not token.grant.looks_itself_up:
            # Nothing tells a token that has ended from one that may not do this: at most one sign-in now and again.
            good = monotonic() - token.got < _LONGEST_SECONDS
        else:
            good = self._sure > asked or await self._check(token)
        if good:
            return None
        if self._token is token:
            self._token = None
        return await self.current()

    async def _check(self, token: Token) -> bool:
        """Whether Vault still knows the token. Who asks meanwhile gets the same answer."""
        if self._checking is None:
            self._checking = asyncio.create_task(self._look_up(token))
            self._checking.add_done_callback(self._checked)
        return await _shared(self._checking)

    def _checked(self, task: asyncio.Task[bool]) -> None:
        self._checking = None
        if not task.cancelled():
            task.exception()

    async def _look_up(self, token: Token) -> bool:
        try:
            await self._pool.run(lambda adapter: TokenApi(adapter).lookup_self(), token.value)
        except REFUSALS:
            return False
        self._sure = monotonic()
        return True

    # -- keeping it alive ----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renews at two thirds of the life, and signs in anew where that does not help. Runs for good."""
        while True:
            self._changed.clear()
            token = self._token
            due = token.renewed_at if token is not None else float("inf")
            try:
                async with asyncio.timeout(max(due - monotonic(), 0) if due != float("inf") else None):
                    await self._changed.wait()
                continue
            except TimeoutError:
                pass
            if token is None or self._token is not token:
                continue
            try:
                await self._extend(token)
            except (Unavailable, SignInRefused) as error:
                if self.trouble is None:
                    log.warning("vault_token_ends", seconds=round(token.ends - monotonic(), 1), reason=str(error))
                self.trouble = f"the Vault token ends soon and cannot be renewed: {error}"
                await asyncio.sleep(min(max((token.ends - monotonic()) / 10, 0.2), 5.0))
                if monotonic() >= token.ends and self._token is token:
                    self._token = None  # the next call signs in

    async def _extend(self, token: Token) -> None:
        if token.grant.renewable:
            asked = monotonic()
            try:
                told = await self._pool.run(_renew, token.value)
            except REFUSALS:
                told = None  # it ended, or may not be renewed
            except Unavailable:
                if not self._method.again:
                    raise
                told = None  # a new sign-in may go through where this did not
            # Vault counts in whole seconds: the last one before the end of its longest life is 0, which elsewhere means for good.
            if told is not None and told[0] > 0:
                seconds, renewable = told
                # At the end of its longest life each renewal gives less: then it is replaced, where that can be done.
                short = seconds < token.grant.seconds * 0.9
                renewable = renewable and not (short and self._method.again)
                grant = Grant(token.value, seconds, renewable, token.grant.own, token.grant.looks_itself_up)
                if self._token is token:
                    self._token, self.trouble = Token(grant, asked), None
                return
        if not self._method.again:
            raise SignInRefused("it is a token that was given; make one that can be renewed, or sign in by AppRole")
        await self.sign_in()


def _renew(adapter: WireAdapter) -> tuple[float, bool]:
    try:
        auth: Any = TokenApi(adapter).renew_self()["auth"]
    except InternalServerError as error:
        if "renew" in " ".join(error.errors or ()):
            raise InvalidRequest(
                errors=error.errors
            ) from None  # "past the max TTL, cannot renew" is no failure of Vault's
        raise
    return float(auth["lease_duration"]), bool(auth["renewable"])


async def _shared(task: asyncio.Task[T]) -> T:
    """What the task returns; a caller that is cancelled does not take it away from the others."""
    await asyncio.wait((task,))
    if task.cancelled():
        raise Unavailable("encryption", "it is closed")
    return task.result()
