"""Chats whose messages have run ahead of their row.

To change a chat's row costs Directus more than to create a message. While a chat gets one message after the other, only the first
brings its row along; then the row is marked (`ahead`), each message carries the number that the row would have got
(`messages_version`), and the row follows when the chat is quiet. Whoever reads a marked row looks at its messages too. Drafts and
titles never run ahead: a message that consumes a draft brings the row along.

The mark names the process. One that took a chat over marks it anew, and then nobody else takes the mark away.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plugins.persistence.directus_merge import Unit, Write, changes_of
from plugins.persistence.directus_rows import Row
from sidecar import UserHash

FOLLOWING = frozenset({"messages_version", "updated_at", "last_message_timestamp"})
"""What of a chat's row may follow its messages."""
_AGAIN_SECONDS = 60.0
"""After a message that came with the row, one that follows it within this time runs ahead."""
_QUIET_SECONDS = 30.0
_LONGEST_SECONDS = 120.0
_MOST = 10_000


@dataclass(slots=True)
class _Chat:
    state: Row
    """As the row would be."""
    write: Write
    since: float
    last: float


class Ahead:
    """Those of this process. No I/O."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._chats: dict[str, _Chat] = {}
        self._written: dict[str, float] = {}
        """When a message of a chat was last written together with the row."""
        self.mark = secrets.token_hex(8)

    def __len__(self) -> int:
        return len(self._chats)

    def state(self, key: str) -> Row | None:
        """What the row of this chat would say; None: the row itself says all, as far as this process knows."""
        chat = self._chats.get(key)
        return chat.state if chat is not None else None

    def continued(self, writes: Sequence[Write]) -> Row | None:
        """As `state`, where these, of one chat, leave its row alone; else None."""
        state = self.state(writes[0].key)
        if state is None or not all(
            write.message is not None
            and write.row["vault_key_reference"] == state.get("vault_key_reference")
            and changes_of(state, write.row).keys() <= FOLLOWING
            for write in writes
        ):
            return None
        return state

    def may_run(self, unit: Unit) -> bool:
        """Whether this may go without the chat's row."""
        if not unit.exists or not unit.messages or not unit.changes.keys() <= FOLLOWING:
            return False
        return unit.key in self._chats or (
            len(self._chats) < _MOST and self._clock() - self._written.get(unit.key, float("-inf")) <= _AGAIN_SECONDS
        )

    def ran(self, unit: Unit, state: Mapping[str, Any]) -> None:
        """Its messages were written, and the marked row was not."""
        now, before = self._clock(), self._chats.get(unit.key)
        write = unit.writes[-1][1]
        last = replace(write, message=None, message_key=None, message_row=None, behind=True)
        self._chats[unit.key] = _Chat({**state, **unit.changes}, last, before.since if before is not None else now, now)

    def level(self, unit: Unit) -> None:
        """The row was written, and says all again."""
        self._chats.pop(unit.key, None)
        if unit.messages:
            self._written.pop(unit.key, None)
            self._written[unit.key] = self._clock()
            while len(self._written) > _MOST:
                del self._written[next(iter(self._written))]

    def forget(self, keys: Iterable[str], user: UserHash | None = None) -> None:
        """These are to be looked at before they are written again, or are about to be deleted; or all of this person."""
        gone = [
            *keys,
            *(key for key in (*self._chats, *self._written) if user is not None and key.startswith(f"{user}_")),
        ]
        for key in gone:
            self._chats.pop(key, None)
            self._written.pop(key, None)

    def latest(self, key: str) -> Write | None:
        """What is to be written of this chat's row by now."""
        chat = self._chats.get(key)
        return chat.write if chat is not None else None

    def due(self, *, everything: bool = False) -> list[Write]:
        """Those whose row is to follow now."""
        now = self._clock()
        return [
            chat.write
            for chat in self._chats.values()
            if everything or now - chat.last >= _QUIET_SECONDS or now - chat.since >= _LONGEST_SECONDS
        ]

    def put_off(self, key: str) -> None:
        """It could not be written; it is due again later."""
        chat = self._chats.get(key)
        if chat is not None:
            chat.last = chat.since = self._clock()
