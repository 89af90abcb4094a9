"""What comes off the wire either is a typed frame or a `FrameError` that says what to mend: S18, S19, S58, T16, T17."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.frames import CLIENT_FRAMES, ClientFrame, FrameError, read
from sidecar.frames.client import ChatRestore, DraftUpdateRequestData, TitleUpdate

DEPTH = 64
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
SECRET = "Quetzalcoatl sings"


def draft_update(content: Any, **more: Any) -> dict[str, Any]:
    payload = {"chatId": "chat-1", "content": content, "basedOnVersion": 4, **more}
    return {"type": "draft_update", "id": "op-1", "payload": payload}


def read_json(frame: Any, key: bytes = b"") -> ClientFrame:
    return read(json.dumps(frame), DEPTH, key)


def refused(raw: bytes | str, max_depth: int = DEPTH) -> FrameError:
    with pytest.raises(FrameError) as caught:
        read(raw, max_depth)
    assert caught.value.__context__ is None, "a cause would carry the frame along"
    assert not caught.value.retryable
    assert caught.value.close is None, "the socket stays open"
    return caught.value


def within_content(literal: str) -> bytes:
    """A draft whose content holds this JSON text as it is."""
    return (
        '{"type":"draft_update","id":"op-1","payload":{"chatId":"c","basedOnVersion":0,"content":{"v":'
        + literal
        + "}}}"
    ).encode()


def test_a_frame_is_read_into_its_model() -> None:
    frame = read_json(draft_update({"type": "doc", "z": 1, "a": [None, True, 1.5]}, basedOnOp="op-0"))
    assert (frame.type, frame.id) == ("draft_update", "op-1")
    assert isinstance(frame.payload, DraftUpdateRequestData)
    assert frame.payload.based_on_version == 4
    assert frame.payload.based_on_op == "op-0"
    assert orjson.dumps(frame.payload.content) == b'{"type":"doc","z":1,"a":[null,true,1.5]}', "keys in their order"
    assert len(frame.digest) == 16


def test_text_and_bytes_are_the_same_frame() -> None:
    raw = json.dumps(draft_update({"type": "doc", "t": "žluťoučký 🐎"}), ensure_ascii=False)
    assert read(raw, DEPTH) == read(raw.encode(), DEPTH)


def test_a_repr_shows_nothing_that_a_person_wrote() -> None:
    frames = [
        draft_update({"text": SECRET}),
        {"type": "message_send", "id": "a", "payload": {"chatId": "c", "clientMessageId": "m", "content": SECRET}},
        {"type": "title_update", "id": "a", "payload": {"chatId": "c", "title": SECRET, "basedOnVersion": 0}},
        {
            "type": "chat_restore",
            "id": "a",
            "payload": {
                "chatId": "c",
                "messagesVersion": 0,
                "draft": {"content": SECRET, "state": "edited", "version": 1, "op": None},
                "title": {"title": SECRET, "version": 1, "op": None},
            },
        },
        {
            "type": "auth",
            "id": "a",
            "payload": {"protocol": 1, "token": SECRET, "device": {"id": "d", "secret": SECRET}},
        },
        {"type": "auth_refresh", "id": "a", "payload": {"token": SECRET}},
    ]
    for frame in frames:
        assert SECRET not in repr(read_json(frame))


# -- missing, null, empty ----------------------------------------------------------------------------------------------


def test_s18_missing_null_and_empty_are_three_cases() -> None:
    """S18, lesson L13: a missing text is refused, null and the empty document arrive as two different values."""
    frame = draft_update(None)
    assert read_json(frame).payload.content is None  # type: ignore[attr-defined]
    assert read_json(draft_update({"type": "doc", "content": []})).payload.content == {"type": "doc", "content": []}  # type: ignore[attr-defined]
    del frame["payload"]["content"]
    error = refused(json.dumps(frame))
    assert (error.code, error.details, error.re) == ("bad_payload", {"path": "payload.content"}, "op-1")


def test_s18_a_title_must_be_said_to_be_cleared() -> None:
    payload = {"chatId": "c", "basedOnVersion": 1}
    frame = {"type": "title_update", "id": "op-1", "payload": payload}
    assert refused(json.dumps(frame)).details == {"path": "payload.title"}
    cleared = read_json({**frame, "payload": {**payload, "title": None}}).payload
    emptied = read_json({**frame, "payload": {**payload, "title": ""}}).payload
    assert isinstance(cleared, TitleUpdate)
    assert isinstance(emptied, TitleUpdate)
    assert (cleared.title, emptied.title) == (None, "")


@pytest.mark.parametrize("key", ["draft", "title"])
def test_s18_a_restore_takes_no_null_for_a_text(key: str) -> None:
    payload = {"chatId": "c", "messagesVersion": 0}
    absent = read_json({"type": "chat_restore", "id": "op-1", "payload": payload}).payload
    assert isinstance(absent, ChatRestore)
    assert (absent.draft, absent.title) == (None, None)
    error = refused(json.dumps({"type": "chat_restore", "id": "op-1", "payload": {**payload, key: None}}))
    assert (error.code, error.details) == ("bad_payload", {"path": f"payload.{key}"})


# -- not JSON for us ---------------------------------------------------------------------------------------------------

CORPUS = {
    "empty": b"",
    "white space": b"  \n",
    "truncated": within_content("1")[:-1],
    "truncated in a string": b'{"type":"ping","id":"a',
    "trailing garbage": b'{"type":"ping"} x',
    "two objects": b'{"type":"ping"}{"type":"ping"}',
    "byte order mark": b'\xef\xbb\xbf{"type":"ping"}',
    "UTF-16": '{"type":"ping"}'.encode("utf-16"),
    "UTF-32": '{"type":"ping"}'.encode("utf-32-le"),
    "Latin-1": '{"type":"ping","x":"é"}'.encode("latin-1"),
    "overlong UTF-8": b'{"type":"ping","x":"\xc0\xaf"}',
    "surrogate in UTF-8": b'{"type":"ping","x":"\xed\xa0\x80"}',
    "control character in a string": b'{"type":"ping","x":"\x01"}',
    "comment": b'{"type":"ping"/* x */}',
    "single quotes": b"{'type':'ping'}",
    "trailing comma": b'{"type":"ping",}',
    "leading zero": within_content("01"),
    "plus": within_content("+1"),
    "bare point": within_content(".5"),
    "NaN": within_content("NaN"),
    "Infinity": within_content("Infinity"),
    "-Infinity": within_content("-Infinity"),
    "1e999": within_content("1e999"),
    "-1e999": within_content("-1e999"),
    "1e999 beside nulls": within_content("[null,1e999,null]"),
    "1e999 beside an escaped null": within_content('[1e999,"\\u006eull"]'),
    "1e999 and a line feed before ull": within_content('[1e999,"\\null"]'),
    "500 digits and a fraction": within_content("1" * 500 + ".5"),
    "21 digits": within_content("1" + "0" * 20),
    "-21 digits": within_content("-1" + "0" * 20),
    "21 digits and 1e999": within_content("[1e999,111111111111111111111]"),
    "400 digits": within_content("9" * 400),
    "5,000 digits": within_content("9" * 5000),
    "200,000 digits": within_content("9" * 200_000),
    "duplicate key": b'{"type":"ping","type":"auth"}',
    "duplicate key in the payload": b'{"type":"ping","payload":{"a":1,"a":1}}',
    "duplicate key in content": within_content('{"a":{"b":[{"c":1,"d":2,"c":1}]}}'),
    "duplicate key, escaped": within_content('{"ab":1,"a\\u0062":2}'),
    "duplicate key among many": within_content(
        "{" + ",".join(f'"k{n}":0' for n in range(20_000)) + ',"k9999":0}'
    ),
    "lone surrogate": within_content('"\\ud800"'),
    "lone low surrogate": within_content('"\\udc00"'),
    "surrogates the wrong way round": within_content('"\\udc00\\ud800"'),
    "lone surrogate in a key": within_content('{"\\ud800":1}'),
    "half a surrogate and a letter": within_content('"\\ud800a"'),
    "a list": b'[{"type":"ping"}]',
    "a string": b'"ping"',
    "a number": b"1",
    "null": b"null",
    "no type": b'{"id":"a","payload":{}}',
    "type is a number": b'{"type":1,"id":"a","payload":{}}',
    "type is null": b'{"type":null,"id":"a"}',
    "type is a list": b'{"type":["ping"],"id":"a"}',
    "73 levels": within_content("[" * 70 + "]" * 70),
    "73 levels of objects": within_content('{"a":' * 69 + "{}" + "}" * 69),
    "199 levels": within_content("[" * 196 + "]" * 196),
    "80 levels between escaped quotes": within_content('["\\"",' + "[" * 80 + "]" * 80 + ',"\\""]'),
    "80 levels between escaped backslashes": within_content('["\\\\",' + "[" * 80 + "]" * 80 + ',"\\\\"]'),
    "80 levels after both": within_content('["\\\\\\"",' + "[" * 80 + "]" * 80 + ',"\\"\\\\"]'),
    "300 levels": within_content("[" * 300 + "]" * 300),
    "100,000 levels": b"[" * 100_000,
    "100,000 levels in an unknown key": b'{"type":"ping","x":' + b'{"a":' * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", CORPUS)
def test_t16_hostile_json_is_a_bad_frame(name: str) -> None:
    """T16 (and S58, S19): each of these is refused as `bad_frame`."""
    assert refused(CORPUS[name]).code == "bad_frame"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"ping","x":1e999}',
        b'{"type":"ping","id":"a","payload":{},"x":[{"y":-1e999}]}',
        b'{"type":"ping","id":"a","x":1e999}',
        b'{"type":"ping","id":1e999}',
        b'{"type":"no_such","id":"a","payload":{"x":1e999}}',
        b'{"type":"ping","id":"null","payload":{"x":1e999}}',
        b'{"type":"ping","id":"a","payload":1e999}',
        b'{"type":"ping","id":"a","payload":{},"x":123456789012345678901}',
    ],
)
def test_t16_no_corner_of_a_frame_hides_a_number_that_is_none(raw: bytes) -> None:
    """T16: in keys that nobody reads, beside an id that is called "null", in a frame type that does not exist."""
    assert refused(raw).code == "bad_frame"


def test_t16_a_text_with_half_a_surrogate_pair_is_a_bad_frame() -> None:
    assert refused('{"type":"ping","x":"\ud800"}').code == "bad_frame"


@pytest.mark.parametrize(
    "literal",
    [
        "12345678901234567890",
        "-12345678901234567890",
        "99999999999999999999",
        "18446744073709551616",
        "1e308",
        "0.1",
        "-0.0",
    ],
)
def test_t16_numbers_within_the_limits_pass_unchanged(literal: str) -> None:
    payload = read(within_content(literal), DEPTH).payload
    assert isinstance(payload, DraftUpdateRequestData)
    assert repr(payload.content["v"]) == repr(json.loads(literal))


@pytest.mark.parametrize(
    "text", ["null", "nullnull", '\\"null', "\\\\null", "\\null", "nul\\u006c", '{\\"[[[[\\"}', "]]}}{{"]
)
def test_t16_texts_that_look_like_something_else_pass_unchanged(text: str) -> None:
    payload = read(within_content(f'["{text}", null]'), DEPTH).payload
    assert isinstance(payload, DraftUpdateRequestData)
    assert payload.content == {"v": [json.loads(f'"{text}"'), None]}


def test_t16_many_keys_are_read() -> None:
    content = {f"key {n}": n for n in range(20_000)}
    payload = read_json(draft_update(content)).payload
    assert isinstance(payload, DraftUpdateRequestData)
    assert payload.content == content


@pytest.mark.parametrize("filler", ["", '"]"', '"\\\\"', '"\\"[{"', '"x",[],{"y":[[]]}'])
@pytest.mark.parametrize("max_depth", [4, 64, 150])
def test_t16_depth_is_counted_exactly(filler: str, max_depth: int) -> None:
    """T16: `max_depth` + 8 levels pass, one more does not, whatever strings and siblings stand between."""
    most = max_depth + 8
    inside = most - 3  # the frame, its payload and the content are levels too
    before = (f"[{filler}," if filler else "[") * (inside - 3) + "[[["  # a filler has up to three levels of its own
    fits = within_content(before + "1" + "]" * inside)
    assert read(fits, max_depth).type == "draft_update"
    too_deep = within_content(before + "[1]" + "]" * inside)
    error = refused(too_deep, max_depth)
    assert (error.code, error.re) == ("bad_frame", "op-1")
    assert str(most) in error.message


def _levels(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_levels, value.values()), default=0)
    return 1 + max(map(_levels, value), default=0) if isinstance(value, list) else 0


def test_t17_explosive_documents_at_the_limits() -> None:
    """T17: legal JSON that is wide, or deep in its marks, is read or refused by its depth; nothing else happens."""
    wide = {"type": "doc", "content": [{"type": "text", "marks": [{"type": "b"}] * 20, "text": "x"}] * 900}
    assert read_json(draft_update(wide)).payload.content == wide  # type: ignore[attr-defined]
    nested: dict[str, Any] = {"type": "b"}
    for _ in range(34):  # two levels each: the document has 69, the frame 71 of 72
        nested = {"type": "b", "marks": [nested]}
    assert read_json(draft_update(nested)).payload.content == nested  # type: ignore[attr-defined]
    assert refused(json.dumps(draft_update({"marks": [nested]}))).code == "bad_frame"


_nodes = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20) + 1, 10**20 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), inner, max_size=4),
    max_leaves=40,
)  # fmt: skip


@unhurried
@given(_nodes)
def test_t17_every_json_value_within_the_limits_arrives_as_it_is(content: Any) -> None:
    """T17: no document is refused for what its strings look like, and none is changed."""
    payload = read_json(draft_update(content)).payload
    assert isinstance(payload, DraftUpdateRequestData)
    assert json.dumps(payload.content) == json.dumps(content)


_bracketed = st.recursive(
    st.text("[]{}\"\\\nä", max_size=5) | st.just(0),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3),
    max_leaves=30,
)  # fmt: skip


@unhurried
@given(_bracketed, st.booleans())
def test_t16_strings_full_of_brackets_do_not_deceive_the_depth(content: Any, escaped: bool) -> None:
    """T16: exactly the frames within the limit pass, whatever their strings and keys look like."""
    raw = json.dumps(draft_update(content), ensure_ascii=escaped)
    levels = 2 + _levels(content)
    assert read(raw, levels - 8).type == "draft_update"
    assert refused(raw, levels - 9).code == "bad_frame"


_jsonish = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"null", b"1e999", b"-", b"0", b'"type"', b'"ping"', b'"id"',
         b'"payload"', b'"draft_update"', b'"a"', b"\xff", b"\\u", b"d800", b" ", b"9" * 25, b"NaN"]
    ),
    max_size=40,
).map(b"".join)  # fmt: skip


@unhurried
@given(
    st.binary(max_size=200) | _jsonish | st.text(st.characters(), max_size=60) | st.builds(within_content, st.just("1"))
)
def test_t16_any_bytes_are_read_or_refused_and_nothing_else(raw: bytes | str) -> None:
    """T16: no input raises anything but `FrameError`."""
    try:
        frame = read(raw, DEPTH)
    except FrameError as error:
        assert error.code in ("bad_frame", "bad_payload", "unknown_type")  # noqa: PT017  # either outcome is right
    else:
        assert frame.type in CLIENT_FRAMES


@unhurried
@given(st.sampled_from(sorted(CLIENT_FRAMES)), st.dictionaries(
    st.sampled_from(["chatId", "tempChatId", "content", "basedOnVersion", "basedOnOp", "title", "draft", "messagesVersion", "limit",
                     "ids", "before", "chats", "cursor", "protocol", "token", "device", "hasMessages", "code", "method"]),
    _nodes,
))  # fmt: skip
def test_t16_any_payload_is_read_or_refused_with_its_path(name: str, payload: dict[str, Any]) -> None:
    try:
        frame = read_json({"type": name, "id": "op-1", "payload": payload})
    except FrameError as error:
        assert error.code == "bad_payload"  # noqa: PT017
        assert error.re == "op-1"  # noqa: PT017
        assert str((error.details or {})["path"]).startswith("payload")  # noqa: PT017
    else:
        assert isinstance(frame.payload, CLIENT_FRAMES[name].payload)


# -- what an error says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code", "re", "path"),
    [
        ({"type": "draft_updat", "id": "op-1", "payload": {}}, "unknown_type", "op-1", None),
        ({"type": "no_such"}, "unknown_type", None, None),
        ({"type": "chat_deleted", "id": "op-1", "payload": {}}, "unknown_type", "op-1", None),
        ({"type": "chat_delete", "payload": {"chatId": "c"}}, "bad_payload", None, "id"),
        ({"type": "chat_delete", "id": 5, "payload": {"chatId": "c"}}, "bad_payload", None, "id"),
        ({"type": "chat_delete", "id": "", "payload": {"chatId": "c"}}, "bad_payload", None, "id"),
        ({"type": "chat_delete", "id": "a" * 65, "payload": {"chatId": "c"}}, "bad_payload", None, "id"),
        ({"type": "chat_delete", "id": "a\n", "payload": {"chatId": "c"}}, "bad_payload", None, "id"),
        ({"type": "ping", "id": "a b"}, "bad_payload", None, "id"),
        ({"type": "chat_delete", "id": "a", "payload": ["c"]}, "bad_payload", "a", "payload"),
        ({"type": "ping", "id": "a", "payload": None}, "bad_payload", "a", "payload"),
        ({"type": "chat_delete", "id": "a"}, "bad_payload", "a", "payload.chatId"),
        ({"id": "a", "payload": {}}, "bad_frame", "a", None),
    ],
)
def test_s58_wrong_frames_are_named(frame: dict[str, Any], code: str, re: str | None, path: str | None) -> None:
    """S58, S19: the right code, the frame's own id where it has one, and where to look."""
    error = refused(json.dumps(frame))
    assert (error.code, error.re) == (code, re)
    assert error.details == (None if path is None else {"path": path})


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps({"type": SECRET, "id": "a", "payload": {}}),
        json.dumps({"type": "draft_update", "id": SECRET, "payload": {}}),
        json.dumps({SECRET: 1, "id": "a"}),
        json.dumps(draft_update({}, chatId=SECRET)),
        json.dumps(draft_update({}, basedOnVersion=SECRET)),
        json.dumps(draft_update({}, basedOnOp=[SECRET])),
        json.dumps({"type": "title_update", "id": "a", "payload": {"chatId": "c", "title": [SECRET], "basedOnVersion": 1}}),
        json.dumps({"type": "reauth", "id": "a", "payload": {"challengeId": "c", "method": SECRET, "code": SECRET}}),
        json.dumps({"type": "sync_request", "id": "a", "payload": {"chats": [{"id": SECRET}]}}),
        json.dumps({"type": "chats_request", "id": "a", "payload": {"limit": 1, "before": {"timestamp": SECRET, "id": "c"}}}),
        json.dumps({SECRET: 1})[:-1] + "," + json.dumps({SECRET: 2})[1:],
        json.dumps({"type": SECRET})[:-2],
        within_content(f'["{SECRET}", 1e999]').decode(),
    ],
)  # fmt: skip
def test_s19_an_error_repeats_nothing_that_was_written(raw: str) -> None:
    error = refused(raw)
    for words in (str(error), error.message, repr(error.details), repr(error)):
        assert "Quetzal" not in words


# -- the digest --------------------------------------------------------------------------------------------------------


def test_s71_the_digest_is_of_type_and_payload_alone() -> None:
    """S71: white space, the order of keys, the id and keys that nobody knows beside them do not make another frame.

    Within `content` the order of keys does: the document is kept as it came.
    """
    frame = draft_update({"type": "doc", "content": [{"b": 1, "a": "ü"}]})
    turned = {
        "x": 1,
        "payload": {
            "basedOnVersion": 4,
            "content": {"type": "doc", "content": [{"b": 1, "a": "ü"}]},
            "chatId": "chat-1",
        },
        "id": "op-2",
        "type": "draft_update",
    }
    digest = read_json(frame).digest
    assert read(json.dumps(turned, indent=2), DEPTH).digest == digest
    assert read(json.dumps(turned, ensure_ascii=False), DEPTH).digest == digest
    others = [
        draft_update({"type": "doc", "content": [{"a": "ü", "b": 1}]}),
        draft_update({"type": "doc", "content": [{"b": 2, "a": "ü"}]}),
        draft_update({"type": "doc", "content": [{"b": 1, "a": "ü"}]}, basedOnVersion=5),
        draft_update({"type": "doc", "content": [{"b": 1, "a": "ü"}]}, basedOnOp="op-0"),
        draft_update({"type": "doc", "content": [{"b": None, "a": "ü"}]}),
        draft_update({"type": "doc", "content": [{"b": 10**19 * 2, "a": "ü"}]}),
        draft_update({"type": "doc", "content": [{"b": 10**19 * 3, "a": "ü"}]}),
    ]
    assert len({digest, *(read_json(each).digest for each in others)}) == len(others) + 1


def test_s71_two_types_with_one_payload_have_two_digests() -> None:
    rename = {"deviceId": "d", "name": "n"}
    digests = {
        read_json({"type": name, "id": "a", "payload": rename}).digest for name in ("device_rename", "device_revoke")
    }
    assert len(digests) == 2


def test_the_digest_of_large_integers_does_not_depend_on_the_order_of_keys() -> None:
    one = read(within_content('{"b":12345678901234567890,"a":99999999999999999999}'), DEPTH)
    other = read(within_content('{"a":99999999999999999999, "b":12345678901234567890}'), DEPTH)
    assert one.digest == other.digest


def test_the_digest_is_keyed() -> None:
    frame = draft_update({"type": "doc"})
    digests = {read_json(frame, key).digest for key in (b"", b"one", b"two", b"k" * 64)}
    assert len(digests) == 4
