"""The ways to sign in to Vault: a token, an AppRole, the service account of a Kubernetes pod. Everything here blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hvac.api.auth_methods import AppRole, Kubernetes, Token
from hvac.api.system_backend.wrapping import Wrapping
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized

from plugins.encryption.vault_adapter import WireAdapter

_WORD = re.compile(r"[\x21-\x7e]{1,8192}")
REFUSALS = (InvalidRequest, Unauthorized, Forbidden, InvalidPath)


class SignInRefused(Exception):
    """Vault, or a file, says that this is no way in; the text says what to mend and holds no secret."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A token and how long it lives."""

    token: str = field(repr=False)
    seconds: float
    """0: for good."""
    renewable: bool
    own: bool
    """It was made by signing in, and for this process alone."""
    looks_itself_up: bool = True
    """It may ask about itself: then a refusal can be told from a token that has ended."""


class SignIn(Protocol):
    """A way to get a token. Errors: `SignInRefused`, and what the adapter raises."""

    @property
    def again(self) -> bool:
        """A new token can be had when the old one cannot be renewed."""
        ...

    def __call__(self, adapter: WireAdapter) -> Grant: ...


def secret_in(path: Path, what: str) -> str:
    """What stands in a file. Read at each use: whoever exchanges secrets exchanges the file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise SignInRefused(f"{path} ({what}) cannot be read: {error.strerror}") from None
    return word(text, f"{path} ({what})")


def word(text: str, where: str) -> str:
    """A secret as it can stand in a header; the error does not repeat it."""
    if not _WORD.fullmatch(text):
        raise SignInRefused(f"{where} holds no secret: one word of printable characters belongs there")
    return text


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token that somebody else made, and that perhaps somebody else renews in its file (`vault agent`)."""

    value: str | None = field(default=None, repr=False)
    file: Path | None = None

    @property
    def again(self) -> bool:
        return self.file is not None

    def __call__(self, adapter: WireAdapter) -> Grant:
        if self.file is not None:
            adapter.token = secret_in(self.file, "the Vault token")
        else:
            adapter.token = word(self.value or "", "auth.token")
        try:
            told = Token(adapter).lookup_self()["data"]
        except REFUSALS:
            raise SignInRefused(
                "Vault refuses this token: it was revoked, has ended, or may not look itself up "
                '(policy: path "auth/token/lookup-self" {capabilities = ["read"]}); see auth.token'
            ) from None
        return Grant(adapter.token, float(told["ttl"]), bool(told.get("renewable")), own=False)


class AppRoleSignIn:
    """By role id and secret id. A wrapped secret id is unwrapped once, and kept in memory."""

    again = True

    def __init__(
        self,
        role_id: str,
        *,
        secret_id: str | None = None,
        secret_id_file: Path | None = None,
        wrapped_file: Path | None = None,
        mount: str,
    ) -> None:
        self._role_id = role_id
        self._secret_id = secret_id
        self._secret_id_file = secret_id_file
        self._wrapped_file = wrapped_file
        self._mount = mount

    def __call__(self, adapter: WireAdapter) -> Grant:
        secret_id = self._secret(adapter)
        adapter.token = None
        try:
            told = AppRole(adapter).login(self._role_id, secret_id, use_token=False, mount_point=self._mount)
        except REFUSALS as error:
            raise SignInRefused(
                f"Vault refuses this AppRole ({_said(error)}): role id or secret id is wrong, used up or expired, "
                f"or auth.approle.mount ({self._mount}) is"
            ) from None
        return _granted(adapter, told)

    def _secret(self, adapter: WireAdapter) -> str | None:
        if self._secret_id_file is not None:
            return secret_in(self._secret_id_file, "the secret id")
        if self._secret_id is None and self._wrapped_file is not None:
            self._secret_id = self._unwrapped(adapter, self._wrapped_file)
        return word(self._secret_id, "auth.approle.secret_id") if self._secret_id is not None else None

    def _unwrapped(self, adapter: WireAdapter, file: Path) -> str:
        """The secret id of the first wrapping token in the file that is still good: one a line, for as many processes."""
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").split()
        except OSError as error:
            raise SignInRefused(f"{file} (wrapping tokens) cannot be read: {error.strerror}") from None
        for line in lines:
            adapter.token = None
            wrapping = word(line, f"{file} (wrapping tokens)")
            try:
                told = adapter.post("/v1/sys/wrapping/lookup", json={"token": wrapping})["data"]
            except REFUSALS:
                continue  # used, or expired
            made_by = str(told.get("creation_path", ""))
            if not re.fullmatch(rf"auth/{re.escape(self._mount)}/role/[^/]+/secret-id", made_by):
                raise SignInRefused(
                    f"a wrapping token in {file} wraps something else than a secret id of auth/{self._mount}: "
                    "it may have been exchanged on its way; find out by whom"
                )
            adapter.token = wrapping
            try:
                return str(Wrapping(adapter).unwrap()["data"]["secret_id"])
            except REFUSALS:
                continue  # another process was first
        raise SignInRefused(
            f"no wrapping token in {file} can be used (any more): each is good once, for one process and until it expires. "
            "If nobody of yours used it, somebody else has the secret id: revoke it. Else wrap a new one"
        )


class KubernetesSignIn:
    """By the token of the pod's service account, which Kubernetes exchanges in its file."""

    again = True

    def __init__(self, role: str, *, token_file: Path, mount: str) -> None:
        self._role = role
        self._token_file = token_file
        self._mount = mount

    def __call__(self, adapter: WireAdapter) -> Grant:
        account = secret_in(self._token_file, "the service account's token")
        adapter.token = None
        try:
            told = Kubernetes(adapter).login(self._role, account, use_token=False, mount_point=self._mount)
        except REFUSALS as error:
            raise SignInRefused(
                f"Vault refuses this pod ({_said(error)}): see the role {self._role} at auth/{self._mount}, "
                "its service accounts and namespaces"
            ) from None
        return _granted(adapter, told)


def _granted(adapter: WireAdapter, told: Any) -> Grant:
    auth = told["auth"]
    adapter.token = str(auth["client_token"])
    try:
        Token(adapter).lookup_self()
        looks_itself_up = True
    except REFUSALS:
        looks_itself_up = False
    return Grant(
        adapter.token, float(auth["lease_duration"]), bool(auth["renewable"]), own=True, looks_itself_up=looks_itself_up
    )


def _said(error: Any) -> str:
    return ", ".join(error.errors or ())[:200] or "no reason given"
