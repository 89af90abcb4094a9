"""For trying it out: the token `dev:NAME` is the user NAME, and nobody checks. It serves this machine alone."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
import time
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, SecretStr, field_validator

from sidecar import Authenticator, Credential, Finding, Session, StartRefused, Surroundings, Unauthenticated, hookimpl

_TOKEN = re.compile(r"dev:([a-z0-9-]{1,32})\Z")
_CODE = re.compile(r"[0-9]{6}\Z", re.ASCII)
_STEP_SECONDS = 30


class User(BaseModel, extra="forbid"):
    """A user with something to try."""

    totp_secret: SecretStr | None = None

    @field_validator("totp_secret")
    @classmethod
    def _base32(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _secret_bytes(secret.get_secret_value())
        return secret


def _secret_bytes(secret: str) -> bytes:
    text = secret.replace(" ", "").upper().rstrip("=")
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error:
        raise ValueError("is not Base32 (RFC 4648); write letters A-Z and digits 2-7") from None
    if len(raw) < 10:
        raise ValueError("is shorter than 80 bits; write at least 16 characters of Base32")
    return raw


def totp(secret: bytes, now: float) -> str:
    """The six digits of this 30-second step (RFC 6238, HMAC-SHA-1)."""
    digest = hmac.new(secret, int(now // _STEP_SECONDS).to_bytes(8, "big"), "sha1").digest()
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 1_000_000:06d}"


def _is_local(host: str) -> bool:
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Dev(Authenticator):
    """`auth.dev`: refuses to start on an address that is not loopback, and requests that came through a proxy or by another name."""

    api = 1

    class Options(BaseModel, extra="forbid"):
        users: Mapping[str, User] = {}
        """Users with a second factor, by name."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._users = options.users
        self._host = surroundings.host

    async def __aenter__(self) -> Dev:
        if not _is_local(self._host):
            raise StartRefused(
                "auth",
                f"the dev authenticator lets anybody in and so does not serve {self._host};"
                " set server.host to 127.0.0.1, or auth.use to a real authenticator",
            )
        return self

    def findings(self) -> Sequence[Finding]:
        """For `doctor`."""
        says = "auth.use is dev: whoever reaches this port signs in as whomever they like"
        return [Finding("dev", "note", says, "use a real authenticator, such as directus, where people work with it")]

    async def __aexit__(self, *_: object) -> None:
        pass

    @hookimpl
    async def provide_auth(self) -> Authenticator:
        return self

    async def sign_in(self, credential: Credential) -> Session:
        if credential.forwarded or not _is_local(credential.host) or not _is_local(credential.peer):
            raise Unauthenticated("the dev authenticator serves this machine alone, without a proxy in between")
        found = _TOKEN.match(credential.token)
        if found is None:
            raise Unauthenticated("a dev token is dev:NAME, NAME being 1 to 32 of a-z 0-9 and -")
        name = found[1]
        return Session(user_id=name, name=name, second_factor=self._secret(name) is not None)

    async def recheck(self, session: Session) -> None:
        """A dev session never ends."""

    async def check_code(self, session: Session, code: str) -> bool:
        secret = self._secret(session.user_id)
        if secret is None or not _CODE.match(code):
            return False
        now = time.time()
        return any(hmac.compare_digest(totp(secret, now + drift), code) for drift in (0, -_STEP_SECONDS))

    def _secret(self, name: str) -> bytes | None:
        user = self._users.get(name)
        if user is None or user.totp_secret is None:
            return None
        return _secret_bytes(user.totp_secret.get_secret_value())

    def state(self) -> str:
        return "for trying it out: anybody on this machine may sign in as anybody"
