"""Everything that can go wrong, in one tree.

    SidecarError
    ├── Unavailable        a part cannot serve this now; the same call may go through later
    ├── Unstorable         the store will never take this entry: it is parked at once
    ├── Unauthenticated    the credential or session is bad, expired or revoked
    ├── Refused            a guard's word: this change is not wanted
    ├── KeyGone            the chat's key was destroyed: the chat is deleted, for good
    ├── Undecryptable      stored bytes do not open
    ├── LeaseLost          somebody else holds the lease now; nothing was changed
    ├── WireError          becomes an `error` frame (`protocol.md` *Errors*)
    ├── ConfigError        the configuration is wrong: exit 2, one line per problem
    └── StartRefused       a part answered and refused at start (credentials, schema): exit 3

Plugins raise the first seven. No error carries content: neither its text nor its attributes may hold what a person wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class SidecarError(Exception):
    """The root of the tree."""


class Unavailable(SidecarError):
    """A part (`cache`, `encryption`, `persistence`, `auth`) cannot serve this now; nothing was changed.

    `retry_after` is in seconds; None leaves the time to the caller.
    """

    def __init__(self, part: str, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{part} is unavailable{': ' + reason if reason else ''}")
        self.part = part
        self.reason = reason
        self.retry_after = retry_after


class Unstorable(SidecarError):
    """The store answered and will never take this; the outbox entry is parked without further tries."""


class Unauthenticated(SidecarError):
    """The credential or session is bad, expired or revoked. The text says which, never the credential."""


class Refused(SidecarError):
    """Raised by a `before_…` hook: the change is refused, `reason` goes to the client (no content in it)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeyGone(SidecarError):
    """The chat's key was destroyed and its mark found: the chat is deleted and no key is ever made for it again."""


class Undecryptable(SidecarError):
    """Stored bytes do not open: wrong place, wrong key, damaged, or of an unknown format."""


class LeaseLost(SidecarError):
    """The fence is too old: another worker holds this lease now."""


class WireError(SidecarError):
    """What becomes an `error` frame. `message` says what to do and never repeats content.

    `close` is the code with which the socket is closed after the frame, None leaves it open.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after_ms: int | None = None,
        details: Mapping[str, Any] | None = None,
        close: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.details = details
        self.close = close


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration: where, what, and what to write instead."""

    path: str
    """YAML path, such as `cache.options.url`."""
    message: str
    remedy: str
    line: int | None = None
    source: str | None = None
    """The file, environment variable or flag that the value came from."""

    def __str__(self) -> str:
        where = f"{self.source or 'configuration'}{f':{self.line}' if self.line is not None else ''}"
        return f"{where}: {self.path or '(top level)'}: {self.message}; {self.remedy}"


class ConfigError(SidecarError):
    """The configuration is wrong; nothing was started. Exit status 2."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class StartRefused(SidecarError):
    """A part answered and refused at start, or its files are damaged; the text names the part and the remedy. Exit status 3."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(f"{part}: {message}")
        self.part = part
