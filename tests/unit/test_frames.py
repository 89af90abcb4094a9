"""The models of the wire: what they take, what they refuse, and that `docs/protocol.md` agrees with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from sidecar import frames
from sidecar.errors import WireError
from sidecar.frames import CLIENT_FRAMES, CLOSE_CODES, ERROR_CODES, SERVER_FRAMES, FrameError, read
from sidecar.frames.errors import Code
from sidecar.ids import hash_user, resolve_chat_id
from sidecar.testing.frames import check, check_client

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
EXAMPLES: list[dict[str, Any]] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PROTOCOL, re.DOTALL)]
CLIENT_EXAMPLES = [example for example in EXAMPLES if example["type"] in CLIENT_FRAMES]
SERVER_EXAMPLES = [example for example in EXAMPLES if example["type"] not in CLIENT_FRAMES]


def name_of(example: dict[str, Any]) -> str:
    name: str = example["type"]
    return name + ("" if "re" in example or "id" in example else "-event")


def an_example(name: str, **payload: Any) -> dict[str, Any]:
    example = next(each for each in EXAMPLES if name_of(each) == name)
    return {**example, "payload": {**example.get("payload", {}), **payload}}


def without(example: dict[str, Any], key: str) -> dict[str, Any]:
    return {**example, "payload": {name: value for name, value in example["payload"].items() if name != key}}


def problem(name: str, payload: dict[str, Any]) -> str | None:
    """The path of what is wrong with this client payload, or None."""
    try:
        read(json.dumps({"type": name, "id": "op-1", "payload": payload}), 64)
    except FrameError as error:
        assert error.code == "bad_payload"  # noqa: PT017
        return str((error.details or {})["path"])
    return None


# -- docs/protocol.md --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", CLIENT_EXAMPLES, ids=name_of)
def test_client_examples_of_the_documentation_are_understood(example: dict[str, Any]) -> None:
    check_client(example)
    assert read(json.dumps(example), 64).type == example["type"]


@pytest.mark.parametrize("example", SERVER_EXAMPLES, ids=name_of)
def test_server_examples_of_the_documentation_fit(example: dict[str, Any]) -> None:
    check(example)


def test_the_documentation_has_an_example_of_every_frame() -> None:
    wanted = {name if ask.needs_id else f"{name}-event" for name, ask in CLIENT_FRAMES.items()}
    for name, say in SERVER_FRAMES.items():
        wanted |= {name} if say.answer is not None and say.answer is not say.event else set()
        wanted |= {f"{name}-event"} if say.event is not None and say.answer is not say.event else set()
    shown = {name_of(example) for example in EXAMPLES}
    assert wanted <= shown, f"docs/protocol.md shows no {sorted(wanted - shown)}"
    assert {name for name, say in SERVER_FRAMES.items() if say.answer is say.event} <= {
        each["type"] for each in EXAMPLES
    }


def test_the_documentation_marks_the_mutations() -> None:
    found = re.findall(r"\*\*`(\w+)`\*\*( M\b)?", PROTOCOL)
    bold = {name: bool(mark) for name, mark in found if name in CLIENT_FRAMES}
    assert bold.keys() >= {
        "draft_update",
        "draft_delete",
        "title_update",
        "chat_restore",
        "message_send",
        "chat_delete",
    }
    assert bold == {name: CLIENT_FRAMES[name].mutation for name in bold}


def test_the_documentation_has_the_tables_of_codes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PROTOCOL, re.MULTILINE)
    assert rows == [(code, row.meaning, row.socket) for code, row in ERROR_CODES.items()]
    closes = re.findall(r"^\| (\d{4}) \| (.*) \|$", PROTOCOL, re.MULTILINE)
    assert closes == [(str(code), meaning) for code, meaning in CLOSE_CODES.items()]


def test_every_error_code_has_its_row() -> None:
    assert set(ERROR_CODES) == set(get_args(Code))


# -- client payloads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIENT_FRAMES)
def test_every_required_key_is_asked_for(name: str) -> None:
    """Lesson L1: above all no base may be left out."""
    payload = next(each for each in CLIENT_EXAMPLES if each["type"] == name).get("payload", {})
    for key, field in CLIENT_FRAMES[name].payload.model_fields.items():
        alias = field.alias or key
        if field.is_required():
            assert problem(name, {k: v for k, v in payload.items() if k != alias}) == f"payload.{alias}"


@pytest.mark.parametrize("name", ["draft_update", "draft_delete", "title_update"])
def test_l1_a_change_without_a_base_is_refused(name: str) -> None:
    example = next(each for each in CLIENT_EXAMPLES if each["type"] == name)
    assert problem(name, without(example, "basedOnVersion")["payload"]) == "payload.basedOnVersion"
    assert problem(name, {**example["payload"], "basedOnVersion": None}) == "payload.basedOnVersion"


@pytest.mark.parametrize("wrong", ["5", 5.0, True, None, -1, 2**53, [5], {}])
def test_s19_a_version_is_an_integer_and_nothing_else(wrong: Any) -> None:
    base = {"chatId": "c", "content": {}}
    assert problem("draft_update", {**base, "basedOnVersion": wrong}) == "payload.basedOnVersion"
    assert problem("draft_update", {**base, "basedOnVersion": 2**53 - 1}) is None


@pytest.mark.parametrize(
    ("name", "payload", "path"),
    [
        ("draft_update", {"content": {}, "basedOnVersion": 0}, "payload.chatId"),
        ("draft_update", {"content": {}, "basedOnVersion": 0, "chatId": None}, "payload.chatId"),
        ("draft_update", {"content": {}, "basedOnVersion": 0, "chatId": "a", "tempChatId": "a"}, "payload.chatId"),
        ("draft_update", {"content": {}, "basedOnVersion": 0, "tempChatId": "01234567_a"}, "payload.tempChatId"),
        ("draft_update", {"content": {}, "basedOnVersion": 0, "chatId": "a", "basedOnOp": "a b"}, "payload.basedOnOp"),
        ("message_send", {"content": {}, "clientMessageId": "m"}, "payload.chatId"),
        ("message_send", {"content": {}, "clientMessageId": "m\n", "chatId": "a"}, "payload.clientMessageId"),
        ("message_send", {"content": {}, "clientMessageId": "m", "chatId": "a", "draftVersion": 0}, "payload.draftVersion"),
        ("message_send", {"content": {}, "clientMessageId": "m", "chatId": "a", "draftOp": "o"}, "payload.draftOp"),
        ("draft_delete", {"chatId": "a", "basedOnVersion": 1, "hasMessages": 1}, "payload.hasMessages"),
        ("title_update", {"chatId": "a", "title": 5, "basedOnVersion": 1}, "payload.title"),
        ("sync_request", {"chats": None}, "payload.chats"),
        ("sync_request", {"chats": [{"id": "a", "version": 1, "titleVersion": 0, "messagesVersion": 0}] * 1001}, "payload.chats"),
        ("sync_request", {"chats": [{"id": "a", "version": 1, "titleVersion": 0}]}, "payload.chats.0.messagesVersion"),
        ("messages_request", {"chatId": "a", "limit": 0}, "payload.limit"),
        ("messages_request", {"chatId": "a", "limit": 201}, "payload.limit"),
        ("chats_request", {"limit": 101}, "payload.limit"),
        ("chats_request", {"limit": 0}, "payload.limit"),
        ("chats_request", {}, "payload.limit"),
        ("chats_request", {"ids": ["a"] * 101}, "payload.ids"),
        ("chats_request", {"ids": ["a", "b c"]}, "payload.ids.1"),
        ("chats_request", {"ids": ["a"], "before": {"timestamp": "2026-01-31T09:30:00.000Z", "id": "a"}}, "payload.before"),
        ("chats_request", {"limit": 1, "before": {"timestamp": "2026-02-31T09:30:00.000Z", "id": "a"}}, "payload.before.timestamp"),
        ("chats_request", {"limit": 1, "before": {"timestamp": "2026-01-31T09:30:00Z", "id": "a"}}, "payload.before.timestamp"),
        ("chats_request", {"limit": 1, "before": {"timestamp": 1769851800, "id": "a"}}, "payload.before.timestamp"),
        ("set_active_chat", {}, "payload.chatId"),
        ("reauth", {"challengeId": "c", "method": "totp", "code": "12345"}, "payload.code"),
        ("reauth", {"challengeId": "c", "method": "totp", "code": "123 456"}, "payload.code"),
        ("reauth", {"challengeId": "c", "method": "totp", "code": "123456\n"}, "payload.code"),
        ("reauth", {"challengeId": "c", "method": "totp", "code": "１２３４５６"}, "payload.code"),
        ("reauth", {"challengeId": "c", "method": "sms", "code": "123456"}, "payload.method"),
        ("device_rename", {"deviceId": "d", "name": ""}, "payload.name"),
        ("auth", {"protocol": "1"}, "payload.protocol"),
        ("auth", {"protocol": 1, "device": {"id": "d"}}, "payload.device.secret"),
    ],
)  # fmt: skip
def test_s19_malformed_payloads_say_where(name: str, payload: dict[str, Any], path: str) -> None:
    """S19, S58: a field that is missing or of the wrong kind is `bad_payload` with its path."""
    assert problem(name, payload) == path


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("draft_update", {"content": "sealed by the client", "basedOnVersion": 0, "tempChatId": "a"}),
        ("draft_update", {"content": {}, "basedOnVersion": 0, "chatId": "01234567_a", "basedOnOp": None, "tempChatId": None}),
        ("draft_update", {"content": {}, "basedOnVersion": 0, "chatId": "a", "keyOfTheFuture": {"x": 1}}),
        ("message_send", {"content": {}, "clientMessageId": "m_1", "chatId": "a", "draftVersion": 1}),
        ("sync_request", {}),
        ("sync_request", {"cursor": "none of ours"}),
        ("sync_request", {"chats": [{"id": "a", "version": 0, "titleVersion": 0, "messagesVersion": 0}] * 1000}),
        ("chats_request", {"limit": 100}),
        ("chats_request", {"ids": []}),
        ("chats_request", {"ids": ["a"] * 100}),
        ("set_active_chat", {"chatId": None}),
        ("title_update", {"chatId": "a", "title": "tab\there \x00 ends", "basedOnVersion": 1}),
        ("auth", {"protocol": 7}),
        ("auth", {"protocol": 1, "signals": {"language": "de"}}),
    ],
)  # fmt: skip
def test_payloads_at_the_edge_are_taken(name: str, payload: dict[str, Any]) -> None:
    assert problem(name, payload) is None


@pytest.mark.parametrize("state", ["none", "edited", "consumed", "deleted"])
def test_a_restored_draft_has_a_text_exactly_when_edited(state: str) -> None:
    def path(content: Any) -> str | None:
        draft = {"content": content, "state": state, "version": 1, "op": None}
        return problem("chat_restore", {"chatId": "a", "messagesVersion": 0, "draft": draft})

    wrong = "payload.draft.content"
    assert (path({"type": "doc"}), path(None)) == ((None, wrong) if state == "edited" else (wrong, None))


@pytest.mark.parametrize("key", ["version", "op", "state", "content"])
def test_a_restored_revision_is_whole(key: str) -> None:
    draft: dict[str, Any] = {"content": {}, "state": "edited", "version": 1, "op": "o"}
    del draft[key]
    assert problem("chat_restore", {"chatId": "a", "messagesVersion": 0, "draft": draft}) == f"payload.draft.{key}"


def test_a_restored_revision_was_made_by_a_change() -> None:
    draft = {"content": {}, "state": "edited", "version": 0, "op": "o"}
    assert problem("chat_restore", {"chatId": "a", "messagesVersion": 0, "draft": draft}) == "payload.draft.version"
    title = {"title": None, "version": 0, "op": "o"}
    assert problem("chat_restore", {"chatId": "a", "messagesVersion": 0, "title": title}) == "payload.title.version"


@pytest.mark.parametrize(
    "chat_id", ["a", "A-9", "a" * 64, "01234567_a", "abcdef01_" + "Z" * 64, "", "a" * 65, "a_b", "0123456_a", "ABCDEF01_a",
                "01234567_", "01234567_a_b", "a b", "a\n", "é", "../x"]
)  # fmt: skip
def test_a_chat_id_that_the_models_take_is_one_that_can_be_resolved(chat_id: str) -> None:
    """The grammar here and in `sidecar.ids` are the same: what passes here is an id, one's own or not found."""
    user = hash_user("anna")
    taken = problem("chat_delete", {"chatId": chat_id}) is None
    try:
        resolve_chat_id(user, chat_id)
        known = True
    except WireError as error:
        known = error.code == "not_found" and bool(re.fullmatch(r"[0-9a-f]{8}_[A-Za-z0-9-]{1,64}", chat_id))
    assert taken == known


def test_the_protocol_has_these_frames_and_no_others() -> None:
    assert set(CLIENT_FRAMES) == {
        "auth",
        "reauth",
        "auth_refresh",
        "ping",
        "sync_request",
        "messages_request",
        "chats_request",
        "draft_update",
        "draft_delete",
        "title_update",
        "chat_restore",
        "message_send",
        "set_active_chat",
        "message_stop",
        "chat_delete",
        "devices_request",
        "device_rename",
        "device_revoke",
    }
    assert set(SERVER_FRAMES) == {
        "hello",
        "ready",
        "reauth_required",
        "auth_refreshed",
        "session_expiring",
        "pong",
        "initial_sync_data",
        "sync_delta",
        "resync_required",
        "messages_page",
        "chats_page",
        "chat_initiated",
        "draft_updated",
        "draft_conflict",
        "title_updated",
        "title_conflict",
        "chat_restored",
        "chat_added",
        "chat_stored",
        "message_accepted",
        "message_new",
        "message_update",
        "message_deleted",
        "active_chat_set",
        "chat_deleted",
        "devices",
        "device_added",
        "error",
    }
    mutations = {
        "draft_update",
        "draft_delete",
        "title_update",
        "chat_restore",
        "message_send",
        "message_stop",
        "chat_delete",
        "device_rename",
        "device_revoke",
    }
    assert {name for name, ask in CLIENT_FRAMES.items() if ask.mutation} == mutations
    assert [name for name, ask in CLIENT_FRAMES.items() if not ask.needs_id] == ["ping"]


def test_every_answer_is_a_frame_that_answers() -> None:
    for ask in CLIENT_FRAMES.values():
        for answer in ask.answers:
            assert SERVER_FRAMES[answer].answer is not None


def test_the_names_of_the_protocol_are_here() -> None:
    for name in ("DraftUpdateRequestData", "WebSocketMessage", "ChatInitiatedPayload", "NewMessagePayload"):
        assert getattr(frames, name).__name__ == name
    assert set(frames.__all__) <= set(dir(frames))


# -- the check of server frames finds drift ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ({**an_example("pong-event"), "type": "pang"}, "pang"),
        ({**an_example("pong-event"), "id": "a"}, "'id'"),
        ({**an_example("pong-event"), "re": None}, "never null"),
        ({"type": "pong"}, "payload"),
        ({**an_example("draft_updated"), "re": "a b"}, "`re`"),
        ({**an_example("hello-event"), "re": "a"}, "is no answer but has"),
        ({key: value for key, value in an_example("draft_conflict").items() if key != "re"}, "lacks `re`"),
        (an_example("draft_updated", surprise=1), "no key of this frame"),
        (an_example("draft_updated", updatedAt="2026-01-31T09:31:00Z"), "updatedAt"),
        (an_example("draft_updated", updatedAt="2026-01-31T09:31:00.000+00:00"), "updatedAt"),
        (an_example("draft_updated", updatedAt="2026-01-31T09:31:00.000123Z"), "updatedAt"),
        (an_example("draft_updated", version="2"), "version"),
        (an_example("draft_updated", chatId="no-prefix"), "chatId"),
        (an_example("draft_updated", cursor=None), "cursor"),
        (an_example("draft_updated", durability="safe"), "durability"),
        (without(an_example("draft_updated"), "op"), "op"),
        (without(an_example("draft_updated-event"), "cursor"), "cursor"),
        (without(an_example("draft_updated-event"), "content"), "content"),
        (without(an_example("message_update-event"), "cursor"), "cursor"),
        (an_example("message_update-event", piece=1), "append"),
        (an_example("message_update-event", status="sending"), "status"),
        (an_example("error", code="oops"), "code"),
        (an_example("chats_page", chats=[{"title": "x"}]), "id"),
        (an_example("chats_page", chats=[{"id": "e3b0c442_a", "updatedAt": "2026-01-31T09:31:00.000Z"}]), "updatedAt"),
        (an_example("chats_page", chats=[{"id": "e3b0c442_a", "version": None}]), "version"),
        (an_example("messages_page", messages=[{"id": "a"}]), "content"),
    ],
)  # fmt: skip
def test_the_check_refuses_what_the_protocol_does_not_have(frame: dict[str, Any], why: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(why)):
        check(frame)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ({"type": "pong", "payload": {}}, "pong"),
        ({"type": "devices_request"}, "lacks `id`"),
        ({"type": "ping", "re": "a"}, "'re'"),
        (an_example("draft_delete", surprise=1), "surprise"),
        (without(an_example("draft_delete"), "hasMessages"), "hasMessages"),
    ],
)
def test_the_check_refuses_what_a_client_must_not_send(frame: dict[str, Any], why: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(why)):
        check_client(frame)


def test_server_models_show_no_content_in_their_reprs() -> None:
    secret = "what Anna wrote"
    for example in (
        an_example("draft_updated-event", content=secret),
        an_example("draft_conflict", content=secret),
        an_example("title_updated", title=secret),
        an_example("title_conflict", title=secret),
        an_example("chats_page", chats=[{"id": "e3b0c442_a", "title": secret, "draft": secret}]),
        an_example("message_update-event", content=secret),
    ):
        check(example)
        say = SERVER_FRAMES[example["type"]]
        model = say.answer if "re" in example else say.event
        assert model is not None
        assert secret not in repr(model.model_validate(example["payload"]))
