"""What goes back to a client: payloads as plain values, encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sidecar.cursors import Cursor
from sidecar.errors import WireError
from sidecar.frozen import frozen


@frozen
class Answer:
    """The answer to one client frame."""

    type: str
    payload: dict[str, Any]
    """JSON values; texts that were opened stand in it as `orjson.Fragment`."""
    cursor: Cursor | None = None
    """Where the log stood after the change: on its socket the answer leaves after every event before it."""
    event: dict[str, Any] | None = None
    """What the person's other connections are told of the change, under the same `type`, where its author has that at hand.
    Without it the feed reads and opens what it tells."""


def encode(type_: str, payload: Mapping[str, Any], re: str | None = None) -> bytes:
    """One frame, UTF-8."""
    if re is None:
        return orjson.dumps({"type": type_, "payload": payload})
    return orjson.dumps({"type": type_, "re": re, "payload": payload})


def error_payload(error: WireError) -> dict[str, Any]:
    """The payload of an `error` frame."""
    payload: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if error.retry_after_ms is not None:
        payload["retryAfterMs"] = error.retry_after_ms
    if error.details:
        payload["details"] = dict(error.details)
    return payload
