"""What a Directus token says of itself, and whether its signature is right. Pure: no I/O, no clock.

Directus knows four kinds. An access token (15 minutes) and a session token (a day; with a `session` claim) are JWTs signed with
HS256 and its `SECRET`; a static token is any text; a share token is a JWT without a person, and signs nobody in here.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import jwt

from sidecar import Unauthenticated

ALGORITHM = "HS256"
ISSUER = "directus"
LONGEST = 8192
"""Characters of a token. A header line of more is refused by Node anyway."""
_TEXT = re.compile(r"[\x21-\x7e]{1,8192}\Z")
_OBJECT = "eyJ"
"""How base64url of a JSON object begins."""
_USER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_FUTURE_SECONDS = 30.0
"""A token may have been issued so far ahead of the clock that it is read by: two hosts' clocks are never quite alike."""
_LONGEST_ACCESS = 30 * 86_400.0
_LONGEST_SESSION = 400 * 86_400.0
"""No Directus is set up to issue tokens for longer; whoever made such a one is not it (400 days: what browsers keep a cookie)."""


class Kind(Enum):
    ACCESS = "access"
    SESSION = "session"
    STATIC = "static"


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose claims are plausible. That it is genuine is another question."""

    text: str = field(repr=False)
    kind: Kind
    user_id: str | None = None
    """Whom it claims to be of; None for a static token, which claims nothing."""
    session: str | None = field(default=None, repr=False)
    """The `session` claim, which is a secret itself."""
    expires: float | None = None
    """Seconds since 1970, on Directus' clock."""

    @property
    def session_id(self) -> str:
        """What this session is called: the same for every token of one Directus session, and no secret."""
        return digest(self.session if self.session is not None else self.text)

    def detail(self) -> Mapping[str, str]:
        """For `Session.detail`; `from_detail` makes the token of it again."""
        return {"token": self.text, "kind": self.kind.value, "session": self.session or ""}

    @classmethod
    def from_detail(cls, user_id: str, detail: Mapping[str, str]) -> Token:
        """The token that a session began with, without its times."""
        return cls(detail["token"], Kind(detail["kind"]), user_id, detail["session"] or None)

    def expires_at(self, ahead: float = 0.0) -> datetime | None:
        """When it ends on our clock, which is `ahead` of Directus' by so many seconds."""
        return datetime.fromtimestamp(self.expires + ahead, UTC) if self.expires is not None else None


def digest(text: str) -> str:
    """A name for what must not be named."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_token(text: str, now: float, *, secret: str | None = None, from_cookie: bool = False) -> Token:
    """The token, if what it claims can be; with `secret` its signature is checked too. `now` is on Directus' clock.

    Raises `Unauthenticated`, whose text never repeats the token. A static token is neither checked nor refused here.
    """
    if not _TEXT.match(text):
        raise Unauthenticated("that is no Directus token")
    header = _header(text)
    if header is None:
        if from_cookie:
            raise Unauthenticated("the cookie holds no Directus session token")
        return Token(text, Kind.STATIC)
    if header.get("alg") != ALGORITHM:
        raise Unauthenticated("Directus signs its tokens with HS256, and this one is signed otherwise")
    token = _from_claims(text, _claims(text, secret), now)
    if from_cookie and token.kind is not Kind.SESSION:
        raise Unauthenticated("the cookie holds no Directus session token")
    return token


def mint(user_id: str, secret: str, now: float, seconds: float = 60.0) -> str:
    """An access token as Directus makes them, without any right of its own: whether Directus takes it tells whether `secret` is its."""
    claims = {"id": user_id, "role": None, "app_access": False, "admin_access": False}
    times = {"iat": int(now), "exp": int(now + seconds), "iss": ISSUER}
    return jwt.encode({**claims, **times}, secret, algorithm=ALGORITHM)


def _header(text: str) -> Mapping[str, Any] | None:
    """The header of a JWT, None for a text that is none: a static token may hold dots too."""
    if text.count(".") != 2:
        return None
    try:
        return jwt.get_unverified_header(text)
    except jwt.InvalidTokenError:
        if text.startswith(_OBJECT):
            raise Unauthenticated("that is no Directus token") from None
        return None


def _claims(text: str, secret: str | None) -> Mapping[str, Any]:
    # Times are read below, on Directus' clock and with bounds.
    checks: Any = {"verify_signature": secret is not None, "verify_iss": False}
    checks |= {f"verify_{name}": False for name in ("exp", "iat", "nbf", "aud", "sub", "jti")}
    try:
        return jwt.decode(text, secret or "", algorithms=[ALGORITHM], options=checks)
    except jwt.InvalidSignatureError:
        raise Unauthenticated("the token's signature is wrong") from None
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise Unauthenticated("that is no Directus token") from None


def _from_claims(text: str, claims: Mapping[str, Any], now: float) -> Token:
    if claims.get("iss") != ISSUER:
        raise Unauthenticated("the token was not issued by Directus")
    if "share" in claims:
        raise Unauthenticated("a share token signs nobody in")
    user_id = claims.get("id")
    if not isinstance(user_id, str) or not _USER_ID.match(user_id):
        raise Unauthenticated("the token names no person")
    session = claims.get("session")
    if session is not None and (not isinstance(session, str) or not session):
        raise Unauthenticated("that is no Directus token")
    expires, issued = _seconds(claims, "exp"), _seconds(claims, "iat")
    longest = _LONGEST_ACCESS if session is None else _LONGEST_SESSION
    if expires <= now:
        raise Unauthenticated("the token has expired")
    if issued > now + _FUTURE_SECONDS:
        raise Unauthenticated("the token was issued in the future: see that the clocks of both hosts are right")
    if expires > now + longest or expires - issued > longest:
        raise Unauthenticated("the token lasts longer than any token of Directus")
    if claims.get("enforce_tfa"):
        raise Unauthenticated("this person has to set up the second factor in Directus first")
    return Token(text, Kind.ACCESS if session is None else Kind.SESSION, user_id, session, expires)


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unauthenticated("the token does not say from when to when it is good")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise Unauthenticated("the token does not say from when to when it is good")
    return seconds
