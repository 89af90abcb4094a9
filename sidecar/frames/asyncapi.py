"""The wire protocol as an AsyncAPI 3.0 document, made from the models (https://www.asyncapi.com/docs/reference/specification/v3.0.0).

The document is that of the sidecar: it *receives* what clients ask and *sends* what it states.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from sidecar.frames.client import CLIENT_FRAMES, Ask
from sidecar.frames.envelope import WebSocketMessage
from sidecar.frames.errors import CLOSE_CODES, ERROR_CODES, FINAL_CLOSE_CODES
from sidecar.frames.server import SERVER_FRAMES
from sidecar.frames.values import PROTOCOL_VERSION, Payload

_SCHEMAS = "#/components/schemas/"
_MESSAGES = "#/components/messages/"
_CHANNEL = "#/channels/socket"
_FRAME_ID = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}

Json = dict[str, Any]


class _Schemas(GenerateJsonSchema):
    """Without a title on every field, and without `default: null`, which would read as if null stood for absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default", ...) is None:
            del made["default"]
        return made


def text() -> str:
    """The document as `sidecar asyncapi` prints it."""
    return json.dumps(document(), ensure_ascii=False, indent=2) + "\n"


def document() -> Json:
    """The whole document; the same at every call."""
    server = list(_server_messages())
    messages = {name: _client_message(name, ask) for name, ask in CLIENT_FRAMES.items()}
    messages |= {key: _server_message(name, answers, model, summary) for key, name, answers, model, summary in server}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "directus-sync-sidecar",
            "version": str(PROTOCOL_VERSION),
            "description": _description(),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "socket": {
                "address": "/ws",
                "title": "The WebSocket",
                "description": "JSON text frames, one object per frame.",
                "messages": {name: {"$ref": _MESSAGES + name} for name in messages},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": _operations(server),
        "components": {"messages": messages, "schemas": _schemas()},
    }


def _server_messages() -> Iterator[tuple[str, str, bool | None, type[Payload], str]]:
    """Key, frame type, whether it answers (None: it may), payload and summary of each server message."""
    for name, say in SERVER_FRAMES.items():
        if say.answer is not None and say.answer is say.event:
            yield name, name, None, say.answer, say.summary
            continue
        if say.answer is not None:
            yield name, name, True, say.answer, say.summary
        if say.event is not None:
            yield name if say.answer is None else f"{name}_event", name, False, say.event, say.summary


def _client_message(name: str, ask: Ask) -> Json:
    required = ["type", *(["id"] if ask.needs_id else []), *(["payload"] if _has_required(ask.payload) else [])]
    message: Json = {
        "name": name,
        "title": name,
        "summary": ask.summary,
        "correlationId": {"location": "$message.payload#/id"},
        "payload": _frame_schema(name, required, {"id": _FRAME_ID}, ask.payload),
    }
    if ask.mutation:
        message["x-mutation"] = True
    return message


def _server_message(name: str, answers: bool | None, model: type[Payload], summary: str) -> Json:
    required = ["type", *(["re"] if answers else []), "payload"]
    message: Json = {"name": name, "title": f"{name} (event)" if answers is False else name, "summary": summary}
    if answers is not False:
        message["correlationId"] = {"location": "$message.payload#/re"}
    message["payload"] = _frame_schema(name, required, {} if answers is False else {"re": _FRAME_ID}, model)
    return message


def _frame_schema(name: str, required: list[str], ids: Json, payload: type[Payload]) -> Json:
    return {
        "type": "object",
        "required": required,
        "properties": {
            "type": {"type": "string", "const": name},
            **ids,
            "payload": {"$ref": _SCHEMAS + payload.__name__},
        },
    }


def _has_required(model: type[Payload]) -> bool:
    return any(field.is_required() for field in model.model_fields.values())


def _operations(server: list[tuple[str, str, bool | None, type[Payload], str]]) -> Json:
    def on_channel(name: str) -> Json:
        return {"$ref": f"{_CHANNEL}/messages/{name}"}

    operations: Json = {}
    for name, ask in CLIENT_FRAMES.items():
        operations[f"receive_{name}"] = {
            "action": "receive",
            "channel": {"$ref": _CHANNEL},
            "summary": ask.summary,
            "messages": [on_channel(name)],
            "reply": {
                "channel": {"$ref": _CHANNEL},
                "messages": [on_channel(answer) for answer in (*ask.answers, "error")],
            },
        }
    for key, _, answers, _, summary in server:
        if answers is not True:
            operations[f"send_{key}"] = {
                "action": "send",
                "channel": {"$ref": _CHANNEL},
                "summary": summary,
                "messages": [on_channel(key)],
            }
    return operations


def _schemas() -> Json:
    models: dict[str, type[Payload]] = {WebSocketMessage.__name__: WebSocketMessage}
    for ask in CLIENT_FRAMES.values():
        models[ask.payload.__name__] = ask.payload
    for _, _, _, model, _ in _server_messages():
        models[model.__name__] = model
    _, made = models_json_schema(
        [(model, "validation") for model in models.values()],
        ref_template=_SCHEMAS + "{model}",
        schema_generator=_Schemas,
    )
    schemas: Json = made["$defs"]
    for schema in schemas.values():
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]  # the tests' strictness; a client ignores keys that it does not know
    return schemas


def _description() -> str:
    errors = [f"- `{code}` ({row.socket}): {row.meaning}" for code, row in ERROR_CODES.items()]
    closes = [
        f"- {code}: {meaning}{' (final)' if code in FINAL_CLOSE_CODES else ''}" for code, meaning in CLOSE_CODES.items()
    ]
    return "\n".join(
        [
            "Keeps a person's chats and unsent drafts the same on all devices.",
            "Every client frame gets exactly one answer, which carries its `id` as `re` (a sync: one run of frames).",
            "Frames without `re` are events. A receiver ignores keys that it does not know.",
            "",
            "Error codes, and what becomes of the socket:",
            "",
            *errors,
            "",
            "Close codes:",
            "",
            *closes,
        ]
    )
