"""Documents are kept as they came, within their limits: Tiptap's own (examples/drafts) and hostile ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.documents import Document, DocumentLimits, document, dump, same, surely_within
from sidecar.errors import WireError

DRAFTS = Path(__file__).parents[2] / "examples" / "drafts"
FILES = sorted(path.name for path in DRAFTS.glob("*.json"))
LIMITS = DocumentLimits()
WIDE = 1 << 30
"""A limit that no test reaches."""


def read(name: str) -> str:
    return (DRAFTS / name).read_text("utf-8")


def ordered(text: str | bytes) -> str:
    """A JSON text as the one text that its value has: unlike ==, this tells an order of keys, true from 1, and 1 from 1.0."""
    return json.dumps(json.loads(text))


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from objects(child)


def depth(value: Any) -> int:
    """The definition of depth, written down once more and plainly: the tests hold the fast walk to it."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def nested(levels: int, text: str = "") -> dict[str, Any]:
    """A document of exactly this depth, by turns an object and an array."""
    value: Any = text
    for level in range(levels, 0, -1):
        value = {"content": value} if level % 2 else [value]
    return {"type": "doc", **value}


def marked(count: int) -> dict[str, Any]:
    """A document with exactly this many objects, most of them marks upon marks of one letter."""
    text = {"type": "text", "text": "x", "marks": [{"type": "bold"}] * (count - 3)}
    return {"type": "doc", "content": [{"type": "paragraph", "content": [text]}]}


def refusal(tree: Any, limits: DocumentLimits = LIMITS, path: str = "content") -> WireError:
    with pytest.raises(WireError) as caught:
        document(tree, limits, path)
    return caught.value


# Tiptap's own documents


def test_the_examples_are_there() -> None:
    assert FILES == [
        "code.json",
        "draft_2kb.json",
        "emoji.json",
        "emoji_nodes.json",
        "empty.json",
        "lists.json",
        "long.json",
        "mentions.json",
        "rtl.json",
        "short.json",
        "table.json",
    ]


@pytest.mark.parametrize("name", FILES)
def test_s18_a_document_of_tiptap_is_kept_as_it_came(name: str) -> None:
    kept = document(json.loads(read(name)), LIMITS)
    assert ordered(kept.raw) == ordered(read(name))
    assert json.dumps(kept.tree()) == ordered(read(name))


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("lists.json", {"bulletList", "orderedList", "taskList", "taskItem", "listItem"}),
        (
            "code.json",
            {"codeBlock", "code", "bold", "italic", "strike", "underline", "link", "blockquote", "hardBreak"},
        ),
        ("mentions.json", {"mention", "bulletList"}),
        ("emoji_nodes.json", {"emoji"}),
        ("table.json", {"table", "tableRow", "tableHeader", "tableCell", "heading"}),
        ("long.json", {"heading", "bulletList", "taskList", "blockquote", "link"}),
        ("draft_2kb.json", {"mention", "bulletList", "orderedList", "codeBlock", "blockquote", "link", "code", "bold"}),
    ],
)
def test_an_example_shows_what_it_is_for(name: str, types: set[str]) -> None:
    assert types <= {each.get("type") for each in objects(json.loads(read(name)))}


def test_examples_of_script_and_direction_hold_their_invisible_characters() -> None:
    assert {"\u200d", "\ufe0f", "\u20e3", "\U0001f1e9", "\U0001f3fd", "\U000e007f", "\u0301"} <= set(read("emoji.json"))
    assert {"\u200e", "\u200f", "\u2067", "\u2069", "\u05e9", "\u0645"} <= set(read("rtl.json"))
    assert {each["attrs"]["dir"] for each in json.loads(read("rtl.json"))["content"]} == {"auto", "ltr", "rtl"}


def test_examples_have_the_sizes_that_others_count_on() -> None:
    assert 1_900 <= len(dump(json.loads(read("draft_2kb.json")))) <= 2_200
    assert 18_000 <= len(dump(json.loads(read("long.json")))) <= 24_000
    assert json.loads(read("empty.json")) == {"type": "doc", "content": [{"type": "paragraph"}]}


def test_the_readme_names_the_versions_that_the_lock_file_fixes() -> None:
    package = json.loads(read("make/package.json"))["devDependencies"]
    lock = json.loads(read("make/package-lock.json"))["packages"]
    assert {name: lock[f"node_modules/{name}"]["version"] for name in package} == package
    assert dict(re.findall(r"^\| `(@?[a-z/-]+)` \| ([0-9.]+) \|$", read("make/README.md"), re.MULTILINE)) == package


# What is kept


def test_s18_null_empty_and_a_value_are_three_cases() -> None:
    assert refusal(None).code == "bad_payload"
    assert document({}, LIMITS).raw == b"{}"
    assert document(json.loads(read("empty.json")), LIMITS).tree() == {
        "type": "doc",
        "content": [{"type": "paragraph"}],
    }


@pytest.mark.parametrize("tree", [None, [], [{"type": "doc"}], "", "secret words", 0, 1.5, True, b"{}"])
def test_s19_what_is_no_object_is_a_bad_payload_that_names_its_place(tree: Any) -> None:
    error = refusal(tree, path="draft.content")
    assert error.code == "bad_payload"
    assert error.details == {"path": "payload.draft.content"}
    assert error.close is None
    assert "secret" not in f"{error!r}{error}{error.message}"


def test_unknown_nodes_marks_and_attributes_are_kept() -> None:
    text = (
        '{"z":0,"type":"doc","x-vendor":{"b":null,"a":[]},"content":[{"type":"of-tomorrow","attrs":{"deep":{"er":[1,[2]]}},'
        '"marks":[{"attrs":{},"type":"unheard-of"}]},{"content":[],"type":""},null,true,"text"],"a":"last"}'
    )
    assert document(json.loads(text), LIMITS).raw == text.encode()


@pytest.mark.parametrize(
    "number",
    ["0", "-1", "9007199254740993", "9223372036854775808", "18446744073709551615", "18446744073709551616",
     "-9223372036854775809", "99999999999999999999", "-99999999999999999999", "1.0", "0.1", "-0.0", "1e300", "5e-324"],
)  # fmt: skip
def test_t16_a_number_keeps_every_digit(number: str) -> None:
    """T16: what the parser lets in (20 digits at most) is not rounded, whichever of the two writers takes it."""
    kept = document({"type": "doc", "attrs": {"n": json.loads(number)}, "text": "é\u2028🙏🏽"}, LIMITS)
    assert ordered(kept.raw) == ordered(f'{{"type":"doc","attrs":{{"n":{number}}},"text":"é\u2028🙏🏽"}}')


def test_the_two_writers_agree_to_the_byte() -> None:
    tree = json.loads(read("long.json"))
    plain, big = dump(tree), dump({**tree, "n": 1 << 64})
    assert big == plain[:-1] + b',"n":18446744073709551616}'


def test_nobody_can_change_anothers_copy() -> None:
    came = {"type": "doc", "content": [{"type": "paragraph"}]}
    kept = document(came, LIMITS)
    came["content"] = []
    kept.tree()["content"].clear()
    assert kept.tree() == {"type": "doc", "content": [{"type": "paragraph"}]}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20) + 1, 10**20 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])) | st.text('{}[]"\\ ', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab{}[]"\\', max_size=4), inner, max_size=4),
    max_leaves=25,
)  # fmt: skip
TREES = st.dictionaries(st.text('tc{}[]"\\', max_size=3), JSON_VALUES, max_size=5)


@given(TREES)
def test_every_json_object_is_kept_as_it_came(tree: dict[str, Any]) -> None:
    kept = document(tree, DocumentLimits(WIDE, WIDE, WIDE))
    assert json.dumps(kept.tree()) == json.dumps(tree)
    assert same(kept.raw, json.dumps(tree, indent=1).encode())


# Limits


def test_s19_bytes_are_counted_in_utf8_at_the_limit_and_one_over() -> None:
    tree = {"type": "doc", "text": "é🙏🏽" * 10}
    size = len(json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode())
    assert document(tree, DocumentLimits(max_bytes=size)).tree() == tree
    error = refusal(tree, DocumentLimits(max_bytes=size - 1))
    assert error.code == "too_large"
    assert error.details == {"limit": size - 1, "unit": "bytes", "path": "payload.content"}


@pytest.mark.parametrize("text", ["", "plain", "[[[{{{", 'say "{"', "back\\slash", '"', '\\"[{'])
@pytest.mark.parametrize("limit", [1, 2, 3, 63, 64, 65, 200, 300])
def test_t17_depth_exactly_at_the_limit_and_one_over(limit: int, text: str) -> None:
    limits = DocumentLimits(max_depth=limit)
    assert depth(nested(limit, text)) == limit
    assert document(nested(limit, text), limits).tree() == nested(limit, text)
    error = refusal(nested(limit + 1, text), limits)
    assert error.code == "too_large"
    assert error.details == {"limit": limit, "unit": "depth", "path": "payload.content"}


@pytest.mark.parametrize("opening", ["[", "{"])
def test_t17_depth_of_one_kind_only_at_the_limit_and_one_over(opening: str) -> None:
    def tree(levels: int) -> dict[str, Any]:
        value: Any = []
        for _ in range(levels - 2):
            value = [value] if opening == "[" else {"c": value}
        return {"c": value}

    assert document(tree(64), LIMITS).tree() == tree(64)
    assert refusal(tree(65)).details == {"limit": 64, "unit": "depth", "path": "payload.content"}


@pytest.mark.parametrize("text", ["x", "{" * 500, '"{"', "\\"])
@pytest.mark.parametrize("limit", [4, 1_000, 20_000])
def test_t17_nodes_exactly_at_the_limit_and_one_over(limit: int, text: str) -> None:
    """T17: marks upon marks count, brackets in what a person wrote do not."""
    limits = DocumentLimits(max_bytes=WIDE, max_nodes=limit)
    fits, over = marked(limit), marked(limit + 1)
    fits["content"][0]["content"][0]["text"] = over["content"][0]["content"][0]["text"] = text
    assert sum(1 for _ in objects(fits)) == limit
    assert document(fits, limits).tree() == fits
    error = refusal(over, limits)
    assert error.code == "too_large"
    assert error.details == {"limit": limit, "unit": "nodes", "path": "payload.content"}


def test_t17_the_limit_of_nodes_holds_where_that_of_bytes_does_not_bite() -> None:
    tree: dict[str, Any] = {"c": [{}] * 20_000}
    assert len(dump(tree)) < LIMITS.max_bytes
    assert refusal(tree).details == {"limit": 20_000, "unit": "nodes", "path": "payload.content"}


def test_brackets_in_what_a_person_wrote_are_no_structure() -> None:
    for text in ("[" * 1_000, "{" * 25_000, '"[' * 1_000, '\\"{' * 1_000, "]}" * 1_000, '"' * 999, "\\" * 999):
        tree = {"type": "doc", "content": [{"type": "text", "text": text}], text[:70]: ""}
        assert document(tree, LIMITS).tree() == tree


def test_a_repr_shows_nothing_that_a_person_wrote() -> None:
    assert "secret" not in repr(document({"text": "secret words"}, LIMITS))


@pytest.mark.parametrize(
    "limits", [DocumentLimits(max_bytes=10), DocumentLimits(max_depth=2), DocumentLimits(max_nodes=2)]
)
def test_s19_a_refusal_says_what_to_do_and_repeats_nothing(limits: DocumentLimits) -> None:
    error = refusal({"type": "secret words", "content": [{"c": [{"text": "secret words"}]}]}, limits)
    assert "secret" not in f"{error!r} {error} {error.message} {error.details}"
    assert "shorten" in error.message
    assert not error.retryable
    assert error.close is None


# The cheap bound


@pytest.mark.parametrize("name", ["empty.json", "short.json", "lists.json", "emoji.json", "long.json"])
def test_an_ordinary_document_needs_no_walk(name: str) -> None:
    assert surely_within(json.loads(read(name)), LIMITS.max_depth)


@given(TREES, st.integers(0, 6), st.integers(0, 8))
@example({"a": '"', "b": [[]]}, 1, 8)
@example({"[": "]"}, 1, 8)
@example({"a": ["{", [[]], "}"]}, 2, 8)
@example({'"': [[[]]], '"[': '"'}, 2, 8)
@example({"[": {"]": {"[": {"]": {}}}}}, 2, 8)
@example({"a": [{}, {}, {}]}, 6, 3)
@example({"a": [[[{}]]]}, 4, 8)
@example({"a": ['"]"', ['"]"', ['"]"', [], '"["'], '"["'], '"["']}, 4, 8)
def test_t17_the_cheap_bound_never_lets_through_what_the_walk_refuses(
    tree: dict[str, Any], max_depth: int, max_nodes: int
) -> None:
    """T17: and the whole of `document` refuses exactly what is over a limit."""
    limits = DocumentLimits(WIDE, max_depth, max_nodes)
    fits = depth(tree) <= max_depth and sum(1 for _ in objects(tree)) <= max_nodes
    if surely_within(tree, max_depth):
        assert depth(tree) <= max_depth
    if fits:
        assert document(tree, limits) == Document(dump(tree))
    else:
        assert refusal(tree, limits).code == "too_large"


@given(
    st.lists(st.sampled_from(["[", "{", "x", '"', "]", "}", "\\", "a[b", '"]"', '"["', ""]), max_size=12),
    st.integers(1, 8),
)
def test_t17_the_cheap_bound_counts_by_structure_whatever_the_strings_pretend(texts: list[str], levels: int) -> None:
    """T17: a tower of known depth, with strings beside each storey that look like brackets and quotes."""
    value: Any = list(texts)
    for _ in range(levels):
        value = [*texts[:2], value, *texts[-2:]]
    tree = {"type": "doc", "content": value}
    assert not surely_within(tree, levels + 1)
    assert refusal(tree, DocumentLimits(WIDE, levels + 1, WIDE)).code == "too_large"
    assert document(tree, DocumentLimits(WIDE, levels + 2, WIDE)).tree() == tree


# The same text


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (None, None, True),
        (None, b"{}", False),
        (b"{}", None, False),
        (b"{}", b"{}", True),
        (b'{"a":1,"b":[2]}', b'{ "b": [2], "a": 1 }', True),
        (b'{"a":[1,2]}', b'{"a":[2,1]}', False),
        (b'{"a":null}', b"{}", False),
        (b'{"a":""}', b'{"a":null}', False),
        (b'{"t":"\\u00e9"}', '{"t":"é"}'.encode(), True),
        (b'{"t":"e\\u0301"}', '{"t":"é"}'.encode(), False),
        (b'{"n":18446744073709551616}', b'{"n":18446744073709551617}', False),
        (b"{", b"{}", False),
    ],
)
def test_two_texts_are_the_same_if_their_json_value_is(one: bytes | None, other: bytes | None, expected: bool) -> None:
    assert same(one, other) is expected


@pytest.mark.parametrize(("one", "other"), [(b'{"checked":true}', b'{"checked":1}'), (b"[false]", b"[0]")])
def test_true_and_1_are_two_texts(one: bytes, other: bytes) -> None:
    assert not same(one, other)


def test_t16_a_tower_far_too_deep_is_too_large() -> None:
    assert refusal(nested(100_000), DocumentLimits(max_bytes=WIDE)).code == "too_large"


def test_t16_a_lone_surrogate_is_a_bad_payload() -> None:
    assert refusal({"text": "secret \ud800"}).code == "bad_payload"
