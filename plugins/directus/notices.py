"""Signed notices from Directus: a Flow tells that an item changed (threats T42)."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import SecretStr

from sidecar import Refused, Unauthenticated

TIME_HEADER = "x-sidecar-time"
SIGNATURE_HEADER = "x-sidecar-signature"
WINDOW_SECONDS = 300.0
"""How old a notice may be, and how far ahead the clock of whoever sent it."""
_MOST_KEYS = 10_000


class Notices:
    """Reads notices under a shared secret. That none is taken twice is the core's to see to."""

    def __init__(self, secret: SecretStr | None) -> None:
        self._secret = secret.get_secret_value().encode() if secret is not None else b""
        self.taken = 0
        """How many were genuine, since the start."""

    def read(self, headers: Mapping[str, str], body: bytes) -> tuple[str, Sequence[str], bool]:
        """Collection, keys, and whether the items were deleted. Raises `Unauthenticated`, `Refused`.

        `x-sidecar-time` is in seconds since 1970, `x-sidecar-signature` the hex HMAC-SHA-256 of time, a full stop, and the body.
        """
        sent, signature = _header(headers, TIME_HEADER), _header(headers, SIGNATURE_HEADER)
        if not self._secret:
            raise Unauthenticated("no notices are taken: options.notice_secret is not set")
        expected = sign(self._secret, sent, body)
        if not hmac.compare_digest(expected.encode(), _bytes(signature.strip().lower())):
            raise Unauthenticated("the signature of the notice does not fit")
        try:
            age = time.time() - float(sent)
        except ValueError:
            raise Unauthenticated("the notice has no time") from None
        if not abs(age) <= WINDOW_SECONDS:
            raise Unauthenticated("the notice is too old, or the clocks of Directus and the sidecar differ")
        told = _told(body)
        self.taken += 1
        return told

    def identity(self, headers: Mapping[str, str], body: bytes) -> str:
        """What makes it this notice and no other: all that is signed, and nothing else, for whoever sends it again may change the rest."""
        return hashlib.sha256(_bytes(_header(headers, TIME_HEADER)) + b"." + body).hexdigest()


def sign(secret: bytes, sent: str, body: bytes) -> str:
    """The signature of a notice."""
    return hmac.new(secret, _bytes(sent) + b"." + body, hashlib.sha256).hexdigest()


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for each, value in headers.items() if each.lower() == name), "")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # a header may hold bytes that are no text


def _told(body: bytes) -> tuple[str, Sequence[str], bool]:
    try:
        told: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict):
        raise Refused("a notice is a JSON object with event, collection, and key or keys")
    event, collection, keys = told.get("event"), told.get("collection"), told.get("keys")
    if keys is None:
        keys = told.get("key")
    keys = [keys] if isinstance(keys, str) else keys
    action = event.rpartition(".")[2] if isinstance(event, str) else ""
    if action not in ("create", "update", "delete"):
        raise Refused("event is the name of an event of items, such as items.update")
    if not isinstance(collection, str) or not isinstance(keys, list) or not all(isinstance(each, str) for each in keys):
        raise Refused("collection is a name, and key or keys are those of its items")
    return collection, keys[:_MOST_KEYS], action == "delete"
