"""What a Directus answers that is no success, in words of our own: its own texts may repeat what was sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_LOCKED = frozenset({"LICENSE_LOCKED", "INSTANCE_LOCKED", "RESOURCE_LOCKED"})
_AWAY = frozenset({"REQUESTS_EXCEEDED", "SERVICE_UNAVAILABLE", "UNEXPECTED_RESPONSE"}) | _LOCKED
_LONGEST_WAIT = 60.0


class DirectusRefused(Exception):
    """Directus answered, and did not do it. Whoever asked knows what that means for them.

    No text of Directus is in it, and no value: only the kind of the refusal and the names of collection and field.
    """

    def __init__(self, status: int, code: str, collection: str | None = None, field: str | None = None) -> None:
        where = f" on {collection}.{field}" if field else ""
        super().__init__(f"Directus answered {status} {code}{where}")
        self.status = status
        self.code = code
        """`extensions.code` of its answer, such as `FORBIDDEN`; `HTTP_413` and the like where a proxy answered."""
        self.collection = collection
        self.field = field
        """The field that it complains about, where it names one."""

    @property
    def foreign(self) -> bool:
        """Whether it is no word of Directus: a page of what stands before it, or of something else altogether."""
        return self.code.startswith("HTTP_")

    @property
    def credentials(self) -> bool:
        """Whether it is the token that was refused."""
        return (self.status == 401 and not self.foreign) or self.code == "INVALID_TOKEN"


class DirectusFailed(DirectusRefused):
    """Directus failed over it (500). Whether over this very request, or over every one (a full disk), nobody can tell from one answer."""


def refusal_of(status: int, body: Any) -> DirectusRefused:
    """The refusal in an answer of this status; `body` is its JSON, None where it had none."""
    code, extensions = f"HTTP_{status}", {}
    errors = body.get("errors") if isinstance(body, Mapping) else None
    if isinstance(errors, list) and errors and isinstance(errors[0], Mapping):
        found = errors[0].get("extensions")
        if isinstance(found, Mapping):
            extensions = dict(found)
            code = _word(extensions.get("code")) or code
    kind = DirectusFailed if status >= 500 else DirectusRefused
    return kind(status, code, _word(extensions.get("collection")), _word(extensions.get("field")))


def _word(value: object) -> str | None:
    # A name and nothing else: what is longer or has blanks in it may be something that a person wrote.
    if isinstance(value, str) and 0 < len(value) <= 64 and value.replace("_", "").replace("-", "").isalnum():
        return value
    return None


def away(refusal: DirectusRefused) -> bool:
    """Whether it says that Directus, or what stands before it, cannot serve anything just now."""
    return refusal.status in (408, 429, 502, 503, 504) or refusal.code in _AWAY


def wait_of(headers: Mapping[str, str], body: Any) -> float | None:
    """How many seconds it asks to be left alone: the `reset` of a rate limit (its `Retry-After` is 0), else `Retry-After`."""
    waits = []
    try:
        reset = body["errors"][0]["extensions"]["reset"]
        moment = datetime.fromisoformat(reset).timestamp() if isinstance(reset, str) else float(reset) / 1000
        waits.append(moment - time.time())
    except (KeyError, IndexError, TypeError, ValueError):
        pass
    try:
        waits.append(float(headers.get("Retry-After", "")))
    except ValueError:
        pass
    wait = max(waits, default=0.0)
    return min(wait, _LONGEST_WAIT) if wait > 0 else None
