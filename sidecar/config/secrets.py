"""Secrets that came into the configuration, kept only to be taken out of whatever is printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"

_SENSITIVE = re.compile(
    r"(?:^|_)(?:password|passwd|passphrase|secret|token|pepper|credential|key|secret_id)s?$", re.IGNORECASE
)
_NOT_SENSITIVE = frozenset({"public_key", "public_keys"})
_USER_INFO = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@")


class Secrets:
    """What came through `${…}`. `redact` takes every one of them out of a text, also where it is a part of something larger."""

    __slots__ = ("_pattern",)

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for value in values:
            for text in {value, value.strip(), *value.splitlines()}:
                if text.strip():
                    # As it is, and as it looks within a URL, a JSON text and a Python repr.
                    forms |= {text, quote(text, safe=""), quote_plus(text), json.dumps(text)[1:-1], repr(text)[1:-1]}
        # The longest first, so that a secret that begins like another leaves no rest. A very short one is taken out as a
        # whole word only: as a part of words it would make every text unreadable, which shows it rather than hides it.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        parts = [re.escape(form) if len(form) >= 4 else rf"(?<!\w){re.escape(form)}(?!\w)" for form in ordered]
        self._pattern = re.compile("|".join(parts)) if parts else None

    def __repr__(self) -> str:
        return "Secrets(…)"

    def redact(self, text: str) -> str:
        """The text without any secret, and without the passwords of URLs."""
        if self._pattern is not None:
            text = self._pattern.sub(REDACTED, text)
        return _USER_INFO.sub(rf"\1:{REDACTED}@", text)


def is_sensitive(key: str) -> bool:
    """Whether a key of this name holds a secret by its nature, whichever way it came."""
    return key not in _NOT_SENSITIVE and bool(_SENSITIVE.search(key))
