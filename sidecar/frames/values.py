"""The values that frames are made of: ids, versions, times, by their grammar on the wire."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

PROTOCOL_VERSION = 1
"""The version of the wire protocol that these models are."""

_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"
_TIME_FORM = re.compile(_TIME[:-1] + r"\Z", re.ASCII)


def _read_time(value: Any) -> datetime:
    if value.__class__ is not str or not _TIME_FORM.match(value):
        raise PydanticCustomError("time", "is a time such as 2026-01-31T09:30:00.000Z: RFC 3339, UTC, milliseconds, Z")
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("time", "names a day or an hour that does not exist") from None


FrameId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""`id` and `re` of a frame; on a mutation the operation id, and so also the `op` of a revision."""
TempChatId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
"""The client chat id alone, of a chat that may not exist yet."""
WireChatId = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{8}_)?[A-Za-z0-9-]{1,64}$")]
"""A chat id as a client may write it: full, or the client chat id alone."""
FullChatId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}_[A-Za-z0-9-]{1,64}$")]
"""A chat id as the server writes it."""
ClientMessageId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
WireMessageId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
"""A message id: our own are UUIDs, but the grammar leaves a row that somebody else made its own."""
WireDeviceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
WireUserHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Epoch = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{20}$")]
WireCursor = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{20}\.[0-9]{1,15}\.[0-9a-f]{8}$")]

Version = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A version: an integer that JavaScript holds exactly too; 0 is before the first change."""
MadeVersion = Annotated[int, Field(ge=1, le=2**53 - 1)]
"""The version of a change that took place."""
Milliseconds = Annotated[int, Field(ge=0)]

WireTime = Annotated[
    datetime,
    BeforeValidator(_read_time),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _TIME}),
]
"""RFC 3339, UTC, with milliseconds and `Z`; an aware datetime once it is read."""


class Payload(BaseModel):
    """What a client may send: keys in camelCase, unknown ones ignored, no kind taken for another (`"5"` is not 5, true is not 1).

    A key marked optional that holds an id, an operation id or a version may also be null, which is as if it were absent.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", alias_generator=to_camel, hide_input_in_errors=True
    )


class Statement(Payload):
    """What the server sends. Unknown keys are refused, so that tests find drift; clients must ignore them all the same."""

    model_config = ConfigDict(extra="forbid")
