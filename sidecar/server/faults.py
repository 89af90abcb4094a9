"""Every exception becomes a frame here and nowhere else (protocol *Errors*). Details never leave."""

from __future__ import annotations

import secrets

import structlog

from sidecar.errors import KeyGone, Unauthenticated, Unavailable, Undecryptable, WireError

log = structlog.get_logger("sidecar.server")

UNAUTHENTICATED = 4401


def wire_error(error: BaseException, frame: str) -> WireError:
    """The `error` frame for this exception; what nobody expected gets an incident number that is also in the log."""
    match error:
        case WireError():
            return error
        case Unavailable():
            return WireError(
                "unavailable",
                f"{error.part} cannot serve this now; nothing was lost, send it again with the same id",
                retryable=True,
                retry_after_ms=max(100, round((error.retry_after or 1.0) * 1000)),
                details={"part": error.part},
            )
        case Unauthenticated():
            return WireError("unauthenticated", "sign in again with a fresh token", close=UNAUTHENTICATED)
        case Undecryptable():
            return WireError("undecryptable", "the stored data does not open; it was left as it is")
        case KeyGone():
            return WireError("not_found", "this chat was deleted")
        case TimeoutError():
            return WireError(
                "unavailable",
                "this took too long; send it again with the same id",
                retryable=True,
                retry_after_ms=1000,
                details={"part": "server"},
            )
        case _:
            incident = secrets.token_hex(6)
            log.error("unexpected", incident=incident, frame=frame, exc_info=error)
            return WireError(
                "internal",
                "something unexpected happened; the incident is in the server's log",
                details={"incident": incident},
            )
