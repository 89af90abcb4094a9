"""`docs/asyncapi.json` is what the models say, and says it in valid JSON Schema and AsyncAPI 3.0."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, ValidationError  # type: ignore[import-untyped]  # it has no stubs

from sidecar.frames import CLIENT_FRAMES, CLOSE_CODES, ERROR_CODES, SERVER_FRAMES
from sidecar.frames.asyncapi import document, text

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = document()
EXAMPLES: list[dict[str, Any]] = [
    json.loads(block)
    for block in re.findall(r"```json\n(.*?)```", (DOCS / "protocol.md").read_text(encoding="utf-8"), re.DOTALL)
]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


def resolve(reference: str) -> Any:
    assert reference.startswith("#/"), "nothing outside of the document is referred to"
    found: Any = DOCUMENT
    for step in reference[2:].split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


def message_of(frame: dict[str, Any]) -> dict[str, Any]:
    event = f"{frame['type']}_event"
    messages: dict[str, dict[str, Any]] = DOCUMENT["components"]["messages"]
    is_event = "re" not in frame and "id" not in frame and event in messages
    return messages[event if is_event else frame["type"]]


def validate(frame: dict[str, Any]) -> None:
    schema = {**message_of(frame)["payload"], "components": DOCUMENT["components"]}
    Draft7Validator(schema).validate(frame)


def test_the_file_does_not_drift() -> None:
    written = (DOCS / "asyncapi.json").read_text(encoding="utf-8")
    assert written == text(), "the models changed: run `sidecar asyncapi > docs/asyncapi.json`"


def test_the_document_is_the_same_at_every_call() -> None:
    assert text() == text()
    assert json.loads(text()) == DOCUMENT


def test_every_reference_resolves() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 50
    for reference in found:
        assert isinstance(resolve(reference), dict)


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_schema_is_json_schema(name: str) -> None:
    Draft7Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_every_frame_is_a_message_of_the_channel() -> None:
    messages = DOCUMENT["components"]["messages"]
    names = {message["name"] for message in messages.values()}
    assert names == {*CLIENT_FRAMES, *SERVER_FRAMES}
    assert set(DOCUMENT["channels"]["socket"]["messages"]) == set(messages)
    for message in messages.values():
        Draft7Validator.check_schema(message["payload"])
        assert message["payload"]["properties"]["type"]["const"] == message["name"]


def test_requests_name_their_replies() -> None:
    operations = DOCUMENT["operations"]
    for name, ask in CLIENT_FRAMES.items():
        operation = operations[f"receive_{name}"]
        assert operation["action"] == "receive"
        replies = [resolve(resolve(each["$ref"])["$ref"])["name"] for each in operation["reply"]["messages"]]
        assert replies == [*ask.answers, "error"]
    sent = {key for key, operation in operations.items() if operation["action"] == "send"}
    events = {name for name, say in SERVER_FRAMES.items() if say.event is not None}
    assert {key.removeprefix("send_").removesuffix("_event") for key in sent} == events


def test_operations_refer_to_messages_of_their_channel() -> None:
    """AsyncAPI 3.0: an operation's messages are references into its channel, not into the components."""
    for operation in DOCUMENT["operations"].values():
        for each in (*operation["messages"], *operation.get("reply", {}).get("messages", ())):
            assert each["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_the_description_lists_all_codes() -> None:
    description = DOCUMENT["info"]["description"]
    for code in (*ERROR_CODES, *map(str, CLOSE_CODES)):
        assert code in description


@pytest.mark.parametrize("frame", EXAMPLES, ids=lambda frame: frame["type"])
def test_the_examples_of_the_documentation_fit_the_schemas(frame: dict[str, Any]) -> None:
    """The generated schemas say the same as the models, for those who read only them."""
    validate(frame)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "draft_update", "id": "a", "payload": {"content": {}, "basedOnVersion": 0}},
        {"type": "draft_update", "id": "a", "payload": {"content": {}, "basedOnVersion": 0, "chatId": "a", "tempChatId": "a"}},
        {"type": "draft_update", "id": "a", "payload": {"content": {}, "basedOnVersion": 2**53, "chatId": "a"}},
        {"type": "draft_update", "id": "a", "payload": {"chatId": "a", "content": {}}},
        {"type": "draft_update", "payload": {"chatId": "a", "content": {}, "basedOnVersion": 0}},
        {"type": "chat_restore", "id": "a", "payload": {"chatId": "a", "messagesVersion": 0, "draft": None}},
        {"type": "messages_request", "id": "a", "payload": {"chatId": "a", "limit": 201}},
        {"type": "chat_deleted", "re": "a", "payload": {"chatId": "e3b0c442_a", "deletedAt": "yesterday"}},
    ],
)  # fmt: skip
def test_the_schemas_refuse_what_the_models_refuse(frame: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate(frame)


def test_the_schemas_let_unknown_keys_pass() -> None:
    """A receiver ignores unknown keys: a client that validates must not refuse a newer server."""
    for frame in EXAMPLES:
        validate({**frame, "payload": {**frame.get("payload", {}), "keyOfTheFuture": 1}, "anotherKey": 1})
