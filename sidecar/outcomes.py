"""Outcomes that every use case answers alike."""

from __future__ import annotations

from sidecar.answers import Answer
from sidecar.changes import Outcome, OverQuota, Reused
from sidecar.errors import WireError
from sidecar.records import Deleted, rfc3339


def refuse_over_quota(outcome: Outcome) -> WireError:
    """The error for what is neither accepted nor a conflict."""
    if isinstance(outcome, OverQuota):
        what = "chats without a message" if outcome.what == "draft_chats" else "bytes not yet stored"
        return WireError(
            "quota_exceeded",
            f"this person has {outcome.limit} {what}, which is the limit; send or delete some",
            details={"limit": outcome.limit, "unit": outcome.what},
        )
    if isinstance(outcome, Reused):
        return WireError(
            "bad_payload",
            "this id was used for another frame; every new operation needs an id of its own",
            details={"path": "id"},
        )
    raise AssertionError("every other outcome is answered by its use case")


def chat_deleted(gone: Deleted) -> Answer:
    """`chat_deleted`, as an answer and as an event."""
    return Answer("chat_deleted", {"chatId": gone.chat_id, "deletedAt": rfc3339(gone.at)})
