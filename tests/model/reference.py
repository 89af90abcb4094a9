"""The plain model: what `semantics.md` promises a person, written down as what was typed and what was told of it.

It knows no sidecar. Clients tell it what a person typed, on top of which text, and what they were answered; it objects
(`Broken`) as soon as two things that it was told cannot both be true, and at the end it says which text is gone.
A text is a token that no other text shares, so "the same text" is never in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

FieldName = Literal["draft", "title"]
Revision = tuple[str, FieldName, int, str | None]
"""Chat, field, version, and the operation that made it."""


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(slots=True)
class Typed:
    """One text that a person typed, and what became of it."""

    chat: str
    what: Literal["draft", "title", "message"]
    later: list[tuple[str, bool]] = field(default_factory=list)
    """Texts and messages made of it: their token, and whether that counts only once the server has accepted them."""
    base: str | None = None
    """The text of the revision that it names; that one was accepted if this one is."""
    accepted: bool = False
    """Somebody was told that the server has it."""
    cleared: bool = False
    """A person removed it, and the server accepted that."""


class Reference:
    """One person's texts, revisions and answers, over all devices."""

    def __init__(self) -> None:
        self.typed: dict[str, Typed] = {}
        self.copies: set[str] = set()
        """What stands in a conflict copy on some device."""
        self.deleted: set[str] = set()
        """Chats that a person deleted or may have deleted."""
        self.gone: set[str] = set()
        """Chats of which somebody was told that they are deleted."""
        self.consumed: dict[str, str] = {}
        """Drafts that a message consumed, by text; the message's token."""
        self.unreachable: set[str] = set()
        """Texts that were only in a lost cache: the answer that gave them back was lost with it."""
        self._revisions: dict[Revision, str | None] = {}
        self._answers: dict[str, tuple[object, ...]] = {}
        self._sequences: dict[str, int] = {}

    # -- what a person does --------------------------------------------------------------------------------------------

    def type(self, token: str, chat: str, what: FieldName, over: str | None, *, unsent: bool) -> None:
        """A person typed `token` where the editor showed `over`; `unsent`: that was this device's own and had not left it."""
        self.typed[token] = Typed(chat, what)
        self._made(token, over, only_if_accepted=not unsent)

    def send(self, token: str, chat: str, over: str | None, *, unsent: bool) -> None:
        """A person sent a message made from the draft `over`."""
        self.typed[token] = Typed(chat, "message")
        self._made(token, over, only_if_accepted=not unsent)

    def _made(self, token: str, over: str | None, *, only_if_accepted: bool) -> None:
        if over is not None:
            self.typed[over].later.append((token, only_if_accepted))
            if only_if_accepted:
                self.typed[token].base = over

    def has(self, token: str) -> None:
        """The server has, or had, this text."""
        known: str | None = token
        while known is not None and not self.typed[known].accepted:
            self.typed[known].accepted = True
            known = self.typed[known].base

    def also_over(self, token: str, over: str | None) -> None:
        """`token` took the place of an unsent text that was typed over `over`."""
        self._made(token, over, only_if_accepted=True)

    def delete(self, chat: str) -> None:
        """A person deletes a chat, or clears a draft that may be all there is of it."""
        self.deleted.add(chat)

    def keep(self, token: str | None) -> None:
        """A device made a conflict copy."""
        if token is not None:
            self.copies.add(token)

    # -- what clients were told ----------------------------------------------------------------------------------------

    def revision(self, chat: str, what: FieldName, version: int, op: str | None, token: str | None) -> None:
        """Somebody was shown this text under this revision: two texts never share one (§2)."""
        key = (chat, what, version, op)
        known = self._revisions.setdefault(key, token)
        if known != token:
            raise Broken(f"{what} {version}/{op} of {chat} was {known!r} and is now {token!r}")
        if token is not None:
            typed = self.typed.get(token)
            if typed is None or typed.chat != chat or typed.what != what:
                raise Broken(f"{what} of {chat} shows {token!r}, which nobody typed there")
            self.has(token)

    def answer(self, operation: str, *outcome: object) -> None:
        """An operation was answered: the same id again has the same outcome (§1)."""
        first = self._answers.setdefault(operation, outcome)
        if first != outcome:
            raise Broken(f"operation {operation} was answered {first} and then {outcome}")

    def step(self, operation: str, base: int, version: int, chat: str) -> None:
        """A change was accepted on this base: the new version is one more (§2)."""
        if version != base + 1:
            raise Broken(f"operation {operation} on {base} of {chat} was accepted as {version}")

    def cleared(self, token: str | None) -> None:
        """The server accepted that this draft or title was removed."""
        if token is not None:
            self.typed[token].cleared = True

    def unconsumed(self, operation: str, named: tuple[int, str | None], now: tuple[int, str | None]) -> None:
        """A message did not consume the draft that it was made from: only a newer draft excuses that (§3)."""
        if now == named:
            raise Broken(f"message {operation} was made from the current draft {named} and left it standing")

    def sequence(self, message: str, sequence: int) -> None:
        """A delivered message has this place for good (§4)."""
        if self._sequences.setdefault(message, sequence) != sequence:
            raise Broken(f"message {message} moved from {self._sequences[message]} to {sequence}")

    def outcomes_lost(self) -> None:
        """The cache is lost, or a day has passed: outcomes of operations are not remembered any more."""
        self._answers.clear()

    def out_of_reach(self, revisions: Iterable[Revision]) -> None:
        """These gave way, and the answer that gives them back was lost together with its outcome: no rule of §2 saves them."""
        self.unreachable.update(filter(None, map(self._revisions.get, revisions)))

    # -- the end -------------------------------------------------------------------------------------------------------

    def lost(self, current: Iterable[str | None], messages: Iterable[str]) -> list[str]:
        """Texts that are gone and should not be, given what every device shows in the end."""
        safe: dict[str, bool] = dict.fromkeys([*filter(None, current), *messages], True)
        return [token for token in self.typed if not self._safe(token, safe)]

    def _safe(self, token: str, safe: dict[str, bool]) -> bool:
        known = safe.get(token)
        if known is not None:
            return known
        typed = self.typed[token]
        safe[token] = (
            token in self.copies
            or token in self.unreachable
            or typed.chat in self.gone
            or typed.cleared
            or any(
                (not only_if_accepted or self.typed[later].accepted) and self._safe(later, safe)
                for later, only_if_accepted in typed.later
            )
        )
        return safe[token]

    def come_back(self, current: Mapping[str, str | None], consumed: Mapping[str, str]) -> list[str]:
        """Drafts that are shown in the end although they were sent or removed. `consumed`: text by its message's token."""
        return [
            token
            for token in current.values()
            if token is not None and (self.typed[token].cleared or token in consumed)
        ]
