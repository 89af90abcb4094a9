"""Texts that gave way to a restore or a message, until the answer that gives them back has arrived (semantics §2, §3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar import Replaced
from tests.model.reference import Revision


@dataclass
class Replacements:
    """What the cache alone has meanwhile: nobody shows these texts any more, and their outcome is remembered for a day."""

    _waiting: dict[str, set[Revision]] = field(default_factory=dict)
    """By the operation whose answer gives them back."""
    _given: set[Revision] = field(default_factory=set)

    def gave_way(self, operation: str, chat_id: str, replaced: Replaced) -> None:
        """The server has accepted this operation, and these texts gave way to it."""
        revisions: set[Revision] = set()
        if replaced.draft is not None:
            revisions.add((chat_id, "draft", replaced.draft_version, replaced.draft_op))
        if replaced.title is not None:
            revisions.add((chat_id, "title", replaced.title_version, replaced.title_op))
        revisions -= self._given  # a client has kept it, or need not
        if revisions:
            self._waiting.setdefault(operation, set()).update(revisions)

    def answered(self, operation: str) -> None:
        """A client has taken the answer to this operation."""
        self._given |= self._waiting.pop(operation, set())

    def forgotten(self) -> set[Revision]:
        """The outcomes are remembered no more, so these texts cannot be asked for again."""
        gone = set().union(*self._waiting.values())
        self._waiting.clear()
        return gone
