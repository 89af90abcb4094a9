"""Every frame that a test sees goes through here: does it fit the one schema of the wire?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sidecar.frames.client import CLIENT_FRAMES
from sidecar.frames.complaint import complaint
from sidecar.frames.envelope import WebSocketMessage
from sidecar.frames.server import SERVER_FRAMES
from sidecar.frames.values import Payload


def check(frame: Mapping[str, Any]) -> None:
    """Raises `AssertionError` unless this parsed server frame fits its model: with `re` its answer, without its event.

    Stricter than a client is: a key that the model does not know is an error, so that drift is found.
    """
    name = _envelope(frame, ("type", "re", "payload"))
    say = SERVER_FRAMES.get(name)
    assert say is not None, f"the server sent {name!r}, a frame type that the protocol does not have"
    model = say.answer if "re" in frame else say.event
    assert model is not None, f"`{name}` {'is no answer but has' if 're' in frame else 'is an answer but lacks'} `re`"
    _fits(name, model, frame["payload"])


def check_client(frame: Mapping[str, Any]) -> None:
    """Raises `AssertionError` unless this client frame would be understood. Keys that the protocol lacks are an error too."""
    name = _envelope({"payload": {}, **frame}, ("type", "id", "payload"))
    ask = CLIENT_FRAMES.get(name)
    assert ask is not None, f"{name!r} is a frame type that the protocol does not have"
    assert "id" in frame or not ask.needs_id, f"`{name}` lacks `id`"
    payload = frame.get("payload", {})
    _fits(name, ask.payload, payload)
    keys = {field.alias or key for key, field in ask.payload.model_fields.items()}
    unknown = payload.keys() - keys
    assert not unknown, f"`{name}` has keys that the protocol lacks: {sorted(unknown)}"


def _envelope(frame: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    unknown = frame.keys() - set(keys)
    assert not unknown, f"beside {', '.join(keys)} a frame has no keys, and this one has {sorted(unknown)}"
    nulls = [key for key in keys if key in frame and frame[key] is None]
    assert not nulls, f"{nulls} of a frame are never null"
    _fits("a frame", WebSocketMessage, dict(frame))
    name: str = frame["type"]
    return name


def _fits(name: str, model: type[Payload], payload: Any) -> None:
    problem = None
    try:
        model.model_validate(payload)
    except ValidationError as error:
        problem = complaint(error)
    assert problem is None, f"{name} ({model.__name__}): {problem[0]}: {problem[1]}"
