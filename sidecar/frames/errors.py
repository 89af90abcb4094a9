"""Error codes and close codes of the wire (protocol.md *Errors*), and the error of a frame that is not understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sidecar.errors import WireError

Code = Literal[
    "bad_frame",
    "bad_payload",
    "unknown_type",
    "unsupported_protocol",
    "not_ready",
    "not_found",
    "refused",
    "too_large",
    "quota_exceeded",
    "rate_limited",
    "unavailable",
    "undecryptable",
    "unauthenticated",
    "reauth_failed",
    "internal",
]


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the table: what the code means and what becomes of the socket."""

    meaning: str
    socket: str = "stays"


ERROR_CODES: Mapping[str, ErrorCode] = MappingProxyType(
    {
        "bad_frame": ErrorCode("not JSON, not an object, binary, too deep, duplicate keys, no `type`"),
        "bad_payload": ErrorCode("a field is missing or of the wrong kind; `details.path` says where"),
        "unknown_type": ErrorCode("this frame type does not exist"),
        "unsupported_protocol": ErrorCode("no common protocol version", "closes 4400"),
        "not_ready": ErrorCode("not allowed before `ready`"),
        "not_found": ErrorCode("not this person's, or no such message or device"),
        "refused": ErrorCode("a plugin refused it; `details.plugin`, `details.reason`"),
        "too_large": ErrorCode("a value is over a limit; `details.limit`"),
        "quota_exceeded": ErrorCode("a person has as much as one may have; `details.limit`"),
        "rate_limited": ErrorCode("too many; `retryAfterMs`", "stays, floods close 4429"),
        "unavailable": ErrorCode("cache, key service or store cannot serve this now; `details.part`"),
        "undecryptable": ErrorCode("stored data does not open"),
        "unauthenticated": ErrorCode("bad, expired or revoked token", "closes 4401"),
        "reauth_failed": ErrorCode(
            "wrong code; `details.attemptsLeft`", "stays; closes 4403 when out of tries or time"
        ),
        "internal": ErrorCode("unexpected; `details.incident` is also in the log"),
    }
)

CLOSE_CODES: Mapping[int, str] = MappingProxyType(
    {
        1001: "the server leaves",
        1009: "a frame was too big",
        1012: "the server restarts",
        1013: "try again later",
        4008: "the reader is too slow; sync by cursor",
        4400: "no common protocol version",
        4401: "not authenticated",
        4403: "the second factor failed",
        4408: "no `auth` in time",
        4410: "the device was revoked",
        4429: "a flood of frames",
    }
)
FINAL_CLOSE_CODES = frozenset({4400, 4403, 4410})
"""After these a client does not reconnect by itself."""


class FrameError(WireError):
    """A frame that was not understood; `re` is its id, where that could be read, so that the answer can name it."""

    def __init__(self, code: Code, message: str, *, re: str | None = None, path: str | None = None) -> None:
        super().__init__(code, message, details=None if path is None else {"path": path})
        self.re = re
