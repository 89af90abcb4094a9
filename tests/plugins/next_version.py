"""A sidecar of a later version, as far as Redis can tell: every record that it writes there has one field more, at its end.

`install` is run in a process before it serves. The field says `ADDED`, so that a test can see that it is there, and stays.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any

from plugins.cache import redis_changes, redis_chats, redis_layout, redis_link, redis_records
from plugins.cache.redis_layout import Script

ADDED = "n+1"
_ONE_MORE = {
    "a person": (r"now \+ 3600000, \{\} \}", "now + 3600000, {}, 'n+1' }"),
    "a chat": (r"0, now, 0, 0, 0, 0, 0, false,\n  \}", "0, now, 0, 0, 0, 0, 0, false, 'n+1',\n  }"),
    "a message": (r"('sent', CH\[\d+\], W\[\d+\], 0) \}", r"\1, 'n+1' }"),
    "an entry of the log": (r"(CH\[\d+\], CH\[\d+\], now) \}\)", r"\1, 'n+1' })"),
    "an entry of the outbox": (r"at, wanted \}\)", "at, wanted, 'n+1' })"),
    "a notice": (r"D\.deleted or false,\n          \}\)", "D.deleted or false, 'n+1',\n          })"),
    "an outcome": (r"or false, now,\n    \}", "or false, now, 'n+1',\n    }"),
}
"""Where the scripts make what they write: what stands there, and what a later version would write."""


def install() -> None:
    """From now on this process is a later version."""
    script = redis_layout.script
    found: set[str] = set()

    @cache
    def later(name: str) -> Script:
        made = script(name)
        text = made.text.decode()
        for what, (pattern, replacement) in _ONE_MORE.items():
            text, times = re.subn(pattern, replacement, text)
            found.update([what] if times else [])
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()
        return Script(name, text.encode(), sha, made.many)

    for name in redis_layout._PARTS:
        later(name)
    assert found == set(_ONE_MORE), f"the scripts were changed: {set(_ONE_MORE) - found} is made elsewhere"
    vars(redis_link)["script"] = later
    fields_of, body_of, pack, unpack = (
        redis_records.fields_of,
        redis_records.body_of,
        redis_records.pack,
        redis_records.unpack,
    )

    def longer_fields(chat: Any) -> list[Any]:
        return [*fields_of(chat), ADDED]

    def longer_body(message: Any) -> bytes:
        return pack([*unpack(body_of(message)), ADDED])

    vars(redis_chats).update(fields_of=longer_fields, body_of=longer_body)
    vars(redis_changes)["body_of"] = longer_body
