"""What stands around every payload."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydantic import Field

from sidecar.frames.values import FrameId, Payload
from sidecar.frozen import frozen


class WebSocketMessage(Payload):
    """One frame of either direction: one JSON object in one text frame."""

    type: str
    id: FrameId | None = Field(
        default=None, description="Client frames; required on all but `ping`. On a mutation the operation id."
    )
    re: FrameId | None = Field(
        default=None, description="Server frames: the `id` that this answers. Without it the frame is an event."
    )
    payload: dict[str, Any] = Field(repr=False)


@frozen
class ClientFrame:
    """A client frame that fits its model. Its repr shows nothing that a person wrote."""

    type: str
    id: str | None
    """The operation id of a mutation; None only on a `ping`."""
    payload: Payload
    """An instance of `CLIENT_FRAMES[type].payload`."""
    digest: bytes
    """16 bytes of type and payload; white space does not count, nor the order of keys but within `content`."""
    content: bytes | None = field(default=None, repr=False)
    """How the payload's `content` is written, compact; None where there is none, or it was not cheap to tell."""
    levels: int | None = None
    """`content` has no more levels of objects and arrays than this; None where that was not looked at."""
