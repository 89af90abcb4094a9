"""The way to Vault for everything that needs a token."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_pool import Pool
from plugins.encryption.vault_tokens import Tokens
from sidecar import Unavailable

T = TypeVar("T")


class Denied(Unavailable):
    """The policy of our token does not allow this."""


class Link:
    """Asks under the token of this process. One that has ended is replaced, and the call made once more."""

    def __init__(self, pool: Pool, tokens: Tokens) -> None:
        self.pool = pool
        self.tokens = tokens
        self.barred: str | None = None
        """Why no call is made though Vault answers: what came up since the start is none that can be used."""

    async def ask(self, ask: Callable[[WireAdapter], T], what: str, *, anyway: bool = False) -> T:
        """What `ask` returns. `what`: the path, for the error of one that is denied. `anyway`: though the link is barred.

        Raises `Unavailable`, and of hvac's exceptions `InvalidRequest` and `InvalidPath`, which say something about what was asked.
        """
        if self.barred is not None and not anyway:
            raise Unavailable("encryption", self.barred, retry_after=5.0)
        token = await self.tokens.current()
        for _ in range(2):
            asked = monotonic()
            try:
                return await self.pool.run(ask, token.value)
            except (InvalidRequest, InvalidPath):
                raise
            except Forbidden:
                newer = await self.tokens.after_refusal(token, asked)
                if newer is None:
                    break
                token = newer
            except VaultError as error:
                kind = type(error).__name__
                raise Unavailable("encryption", f"Vault refuses {what} ({kind})", retry_after=5.0) from None
        raise Denied("encryption", f"Vault's policy denies {what}; see config/vault/policy.hcl", retry_after=5.0)
