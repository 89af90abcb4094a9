"""The slot `auth`: who is it?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client showed."""

    token: str = field(repr=False)
    """From the `auth` frame, or the value of the session cookie."""
    from_cookie: bool
    peer: str
    """The client's address, behind trusted proxies the one that they report."""
    host: str
    """The Host header, lower case, with its port if one was sent."""
    forwarded: bool
    """Whether the request carried a forwarding header (`X-Forwarded-For`, `X-Real-IP`, `Forwarded`)."""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that the authenticator vouches for."""

    user_id: str
    """The authenticator's own id of the person; only its hash is stored."""
    name: str | None = None
    """Shown as `sender_name` of the person's messages."""
    session_id: str | None = None
    expires_at: datetime | None = None
    second_factor: bool = False
    """Whether the person has a second factor that `check_code` can check. From the source, never from the client."""
    detail: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The authenticator's own, for `recheck`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A session (None: every session) of this person ended elsewhere."""

    user_id: str
    session_id: str | None = None
    erased: bool = False
    """The person was deleted at the source: everything of that person is to be erased here."""


class Authenticator(ABC):
    """Errors of every method: `Unauthenticated` (final for this credential), `Unavailable`."""

    @abstractmethod
    async def sign_in(self, credential: Credential) -> Session:
        """The session of this credential."""
        ...

    @abstractmethod
    async def recheck(self, session: Session) -> None:
        """Called every 60 s while a socket is open, for the first time before; raises `Unauthenticated` when the session is over."""
        ...

    async def check_code(self, session: Session, code: str) -> bool:
        """Whether the second factor's code is right. Tries and used codes are counted by the core."""
        return False

    async def ended(self) -> AsyncIterator[Ended]:
        """Sessions that ended elsewhere, where the source reports them; may run for good."""
        return
        yield
