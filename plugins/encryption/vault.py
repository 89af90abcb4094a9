"""`encryption.vault`: one key per chat in HashiCorp Vault (or OpenBao), for any number of processes on any number of hosts.

Vault keeps the keys, the sidecar seals. docs/keys.md says what is where, and who can see what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, Self

import structlog

from plugins.encryption.vault_bootstrap import make_transit_key
from plugins.encryption.vault_cipher import VaultCipher
from plugins.encryption.vault_entries import Entries
from plugins.encryption.vault_flaw import refuse
from plugins.encryption.vault_inspection import inspect
from plugins.encryption.vault_link import Link
from plugins.encryption.vault_options import VaultOptions
from plugins.encryption.vault_pool import Pool
from plugins.encryption.vault_sign_in import SignInRefused
from plugins.encryption.vault_tokens import Tokens
from plugins.encryption.vault_transit import Transit
from plugins.encryption.vault_wire import Wire
from sidecar import Cipher, Finding, StartRefused, Unavailable, hookimpl

log = structlog.get_logger("plugins.encryption.vault")

_AGAIN_SECONDS = 0.5
"""Between two tries to sign in to a Vault that did not answer at the start."""


class Vault:
    """Fills the slot `encryption` with keys from Vault.

    A Vault that answers and cannot be used refuses the start (`StartRefused`): a sign-in that it denies, an engine that is not
    there, is no KV v2, or deletes by itself. One that does not answer, or is sealed, is waited for.
    """

    api = 1
    Options = VaultOptions

    def __init__(self, options: VaultOptions) -> None:
        self._options = options
        self._link: Link | None = None
        self._cipher: VaultCipher | None = None
        self._inspected = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            link = self._link = await self._open(stack)
            options = self._options
            entries = Entries(link, options.mount, options.path)
            transit = Transit(link, options.transit.mount, options.transit.name)
            self._cipher = VaultCipher(entries, transit, wraps=options.mode == "transit")
            stack.push_async_callback(self._cipher.close)
            try:
                await self._inspect(link)
            except Unavailable as error:
                log.warning("vault_waited_for", reason=error.reason)
                waiting = asyncio.get_running_loop().create_task(self._wait_for(link))
                stack.push_async_callback(_end, waiting)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> Link:
        options = self._options
        try:
            wire = Wire(options.url, options.ca)
        except OSError as error:  # TLS errors are among them
            raise StartRefused("encryption", f"{options.ca} (ca) cannot be used: {error.strerror or error}") from None
        pool = Pool(wire, namespace=options.namespace, timeout=options.timeout)
        stack.push_async_callback(pool.close)
        return Link(pool, await stack.enter_async_context(Tokens(pool, options.auth.sign_in())))

    async def _inspect(self, link: Link) -> None:
        """Signs in and looks. Raises `StartRefused` and `Unavailable`."""
        try:
            await link.tokens.sign_in()
        except SignInRefused as error:
            raise StartRefused("encryption", str(error)) from None
        found = await inspect(link, self._options)
        refuse(found)
        link.barred = None
        for finding in found:
            log.warning("vault_finding", code=finding.code, reason=finding.says, remedy=finding.remedy)
        self._inspected = True

    async def _wait_for(self, link: Link) -> None:
        """The process serves already, so that a Vault which cannot be used is no reason to end: it says so."""
        while not self._inspected:
            await asyncio.sleep(_AGAIN_SECONDS)
            try:
                await self._inspect(link)
            except Unavailable:
                continue
            except StartRefused as error:
                if link.barred is None:
                    log.error("vault_cannot_be_used", reason=str(error))
                link.barred = str(error)
                await asyncio.sleep(_AGAIN_SECONDS * 10)

    @hookimpl
    async def provide_encryption(self) -> Cipher:
        if self._cipher is None:
            raise RuntimeError("encryption.vault is used before it was entered")
        return self._cipher

    async def bootstrap(self, dry_run: bool) -> Sequence[str]:
        """Makes the transit key, where the mode wants one and it is missing. For a token that may: the policy of the sidecar does not."""
        if self._options.mode != "transit":
            return []
        async with AsyncExitStack() as stack:
            link = await self._open(stack)
            try:
                await link.tokens.sign_in()
            except SignInRefused as error:
                raise Unavailable("encryption", str(error)) from None
            return await make_transit_key(link, self._options.transit, dry_run=dry_run)

    async def findings(self) -> Sequence[Finding]:
        """For `doctor`: what is wrong, each with what mends it. Raises `Unavailable`."""
        if self._link is None:
            raise RuntimeError("encryption.vault is used before it was entered")
        return [flaw.finding() for flaw in await inspect(self._link, self._options, audit=True)]

    def state(self) -> Mapping[str, Any]:
        """For `/readyz`: whether Vault answers, and how long the token lives."""
        if self._link is None or self._cipher is None:
            raise RuntimeError("encryption.vault is used before it was entered")
        tokens, token = self._link.tokens, self._link.tokens.token
        signed_in = token is not None and monotonic() < token.ends
        trouble = self._link.barred or self._link.pool.circuit.reason or (None if signed_in else tokens.trouble)
        state: dict[str, Any] = {"ok": trouble is None and self._inspected, "mode": self._options.mode}
        if not state["ok"]:
            state["reason"] = trouble or "Vault was not looked at yet"
        elif tokens.trouble is not None:
            state["warning"] = tokens.trouble
        if token is not None and token.grant.seconds:
            state["token_seconds_left"] = max(round(token.ends - monotonic()), 0)
        return state


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
