"""The wire schema: every frame of `protocol.md` as a pydantic model, the reading of client frames, and AsyncAPI.

The pydantic models are the one schema: `docs/asyncapi.json` and the TypeScript types come from them.
"""

from sidecar.frames.client import CLIENT_FRAMES, DraftUpdateRequestData
from sidecar.frames.envelope import ClientFrame, WebSocketMessage
from sidecar.frames.errors import CLOSE_CODES, ERROR_CODES, FINAL_CLOSE_CODES, FrameError
from sidecar.frames.reading import read
from sidecar.frames.server import SERVER_FRAMES, ChatInitiatedPayload, NewMessagePayload
from sidecar.frames.values import PROTOCOL_VERSION

__all__ = [
    "CLIENT_FRAMES",
    "CLOSE_CODES",
    "ERROR_CODES",
    "FINAL_CLOSE_CODES",
    "PROTOCOL_VERSION",
    "SERVER_FRAMES",
    "ChatInitiatedPayload",
    "ClientFrame",
    "DraftUpdateRequestData",
    "FrameError",
    "NewMessagePayload",
    "WebSocketMessage",
    "read",
]
