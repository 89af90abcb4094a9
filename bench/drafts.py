"""The drafts that are sent: a real document of 2 KB, with one number in it that differs from edit to edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples" / "drafts"
_PLACE = "·place·"


def example(name: str) -> dict[str, Any]:
    """The Tiptap document of this name, from `examples/drafts`."""
    document: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return document


class Drafts:
    """Encoded `draft_update` frames."""

    def __init__(self, name: str = "draft_2kb") -> None:
        document = example(name)
        document["content"][0]["content"][0]["text"] += _PLACE
        raw = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        before, _, after = raw.partition(_PLACE)
        self._before, self._after = before.encode(), after.encode()

    @property
    def pattern(self) -> bytes:
        """The document with a mark where the number goes, for a load generator that is not ours."""
        return self._before + _PLACE.encode() + self._after

    def content(self, number: int) -> bytes:
        """The document of this edit, as compact JSON."""
        return b"%b%d%b" % (self._before, number, self._after)

    def update(self, op: bytes, chat: bytes, number: int, version: int, base_op: bytes, *, new: bool = False) -> bytes:
        """The frame of one edit. `base_op` may be empty: then the number alone is compared. `new`: it begins the chat."""
        return b'{"type":"draft_update","id":"%b","payload":{"%b":"%b","content":%b,"basedOnVersion":%d%b}}' % (
            op,
            b"tempChatId" if new else b"chatId",
            chat,
            self.content(number),
            version,
            b',"basedOnOp":"%b"' % base_op if base_op else b"",
        )
