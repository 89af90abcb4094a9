"""Whether a record from the store may take the place of one that is here."""

from __future__ import annotations

from sidecar import ChatInCache


def loses(here: ChatInCache, other: ChatInCache, epoch: str | None) -> bool:
    """Whether putting `other` in the place of `here` would lose anything.

    A number that falls, an unstored text of the present epoch, or a message that nobody else has. Of an older epoch the
    texts were merged with the store on purpose: of equal numbers the store's counts.
    """
    if (
        other.version < here.version
        or other.title_version < here.title_version
        or other.messages_version < here.messages_version
        or (here.doomed and not other.doomed)
    ):
        return True
    if here.epoch == epoch and (
        (here.version > here.stored_version and other.version == here.version and other.draft_op != here.draft_op)
        or (
            here.title_version > here.stored_title_version
            and other.title_version == here.title_version
            and other.title_op != here.title_op
        )
    ):
        return True
    if here.undelivered:
        there = {message.id for message in other.messages}
        return any(message.status != "delivered" and message.id not in there for message in here.messages)
    return False
