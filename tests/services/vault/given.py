"""A Vault that is there already, named by VAULT_ADDR."""

from __future__ import annotations

import os
import secrets
from typing import Self

import hvac
import requests

from tests.services.programs import Missing
from tests.services.vault.vault import Vault


class GivenVault(Vault):
    """The Vault of VAULT_ADDR, for tests that only talk to it, with the token of VAULT_TOKEN, which must be a root token.

    Whatever is in it stays: everything is made under names of the tests' own, and removed again.
    """

    def __init__(self, url: str, token: str) -> None:
        super().__init__(f"sidecar-tests-{secrets.token_hex(6)}")
        self._url = url.rstrip("/")
        self.root_token = token

    @property
    def url(self) -> str:
        return self._url

    @classmethod
    def named(cls) -> Self | None:
        """None where the environment names none."""
        url = os.environ.get("VAULT_ADDR")
        return cls(url, os.environ.get("VAULT_TOKEN", "root")) if url else None

    async def __aenter__(self) -> Self:
        """Raises `Missing` where it does not serve this token."""
        try:
            told = await self.read("auth/token/lookup-self")
        except (hvac.exceptions.VaultError, requests.RequestException) as error:
            self.close()
            raise Missing(f"VAULT_ADDR is {self._url}, which does not serve with VAULT_TOKEN: {error}") from None
        assert told is not None
        if "root" not in told["data"]["policies"]:
            self.close()
            raise Missing("VAULT_TOKEN is no root token: tests make policies and engines of their own.")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.undo()
        finally:
            self.close()
