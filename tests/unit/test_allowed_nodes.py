"""The guard `policy.allowed_nodes`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.policy.allowed_nodes import AllowedNodes
from sidecar import Document, Refused
from sidecar.documents import DocumentLimits, document
from sidecar.errors import WireError
from tests.plugins.loading import AUTHOR, CHAT_ID, listed, loaded

LIMITS = DocumentLimits()


def text(*marks: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": "words", "marks": list(marks)}


def link(href: object, key: str = "href") -> dict[str, Any]:
    return {"type": "link", "attrs": {key: href}}


def doc(*content: object) -> Document:
    return Document(json.dumps({"type": "doc", "content": content}).encode())


async def refusal(plaintext: Document, **options: Any) -> str | None:
    """What the guard says to a draft, and that it says the same of a message."""
    guard = AllowedNodes(AllowedNodes.Options(**options))
    said: list[str | None] = []
    for hook in (guard.before_draft, guard.before_message):
        try:
            await hook(plaintext)
            said.append(None)
        except Refused as refused:
            said.append(refused.reason)
    assert said[0] == said[1]
    return said[0]


async def test_by_default_any_node_and_mark_passes() -> None:
    assert await refusal(doc({"type": "anything", "content": [text({"type": "any"})]}, {"no": "type"})) is None


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"type": "paragraph", "content": [text()]}, None),
        ({"type": "iframe"}, "node type iframe is not allowed"),
        (
            {"type": "paragraph", "content": [{"type": "paragraph", "content": [{"type": "script"}]}]},
            "node type script is not allowed",
        ),
        ({"type": "x" * 60}, f"node type {'x' * 40} is not allowed"),
        ({"type": "my secret <b>"}, "node type unknown is not allowed"),
        ({"type": "script\n"}, "node type unknown is not allowed"),
        ({"type": ["paragraph"]}, "node type unknown is not allowed"),
        ({}, "node type unknown is not allowed"),
        ("paragraph", "a node is a JSON object"),
        ({"type": "paragraph", "content": {"type": "script"}}, "the content of a node are a list"),
        ({"type": "paragraph", "marks": "bold"}, "the marks of a node are a list"),
        ({"type": "paragraph", "content": None, "marks": None, "attrs": None}, None),
    ],
)
async def test_nodes(node: object, reason: str | None) -> None:
    assert await refusal(doc(node), nodes=["paragraph"]) == reason


async def test_marks() -> None:
    assert await refusal(doc(text({"type": "bold"})), marks=["bold"]) is None
    assert (
        await refusal(doc(text({"type": "bold"}, {"type": "blink"})), marks=["bold"])
        == "mark type blink is not allowed"
    )
    assert await refusal(doc(text({"type": "bold"})), marks=[]) == "mark type bold is not allowed"
    assert await refusal(doc({"type": "text", "marks": ["bold"]}), marks=["bold"]) == "a mark is a JSON object"


@pytest.mark.parametrize(
    ("href", "scheme"),
    [
        ("https://example.org/a:b", None),
        ("HTTPS://example.org", None),
        ("mailto:a@example.org", None),
        ("/path?next=javascript:x", None),
        ("#part", None),
        ("//example.org", None),
        ("", None),
        (None, None),
        (7, None),
        ("javascript:alert(1)", "javascript"),
        ("JaVaScRiPt:alert(1)", "javascript"),
        ("\x01 java\tscr\nipt:alert(1)", "javascript"),
        ("data:text/html,x", "data"),
        ("vbscript:x", "vbscript"),
        ("web+" + "x" * 50 + ":y", "unknown"),
    ],
)
async def test_links(href: object, scheme: str | None) -> None:
    reason = None if scheme is None else f"links to {scheme}: are not allowed"
    assert await refusal(doc(text(link(href)))) == reason
    assert await refusal(doc({"type": "image", "attrs": {"SRC": href}})) == reason
    assert await refusal(doc({"type": "embed", "attrs": {"of": [{"deep": {"poster": href}}]}})) == reason
    assert await refusal(doc(text(link(href))), links=None) is None
    assert await refusal(doc(text(link(href, key="title")))) is None  # no URL, whatever it looks like


async def test_a_url_without_a_scheme_of_its_own_counts_as_https() -> None:
    for href in ("//example.org", "\\\\example.org", "/\\example.org"):
        assert await refusal(doc(text(link(href))), links=["mailto"]) == "links to https: are not allowed"


async def test_options_name_schemes_with_or_without_their_colon() -> None:
    assert await refusal(doc(text(link("tel:112"))), links=["TEL:"]) is None
    with pytest.raises(ValidationError):
        AllowedNodes.Options.model_validate({"node": []})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    depth=st.integers(1, 30),
    width=st.sampled_from([1, 2, 50, 2_000]),
    marks=st.integers(0, 40),
    bad=st.sampled_from([None, "deep", "wide", "mark", "link"]),
)
async def test_t17_explosive_documents_at_the_limits(depth: int, width: int, marks: int, bad: str | None) -> None:
    """T17: whatever gets through the limits is judged, and what is bad in it is found wherever it stands."""
    leaf = text(*({"type": "bold", "attrs": {"a": {"b": []}}} for _ in range(marks)))
    if bad == "mark":
        leaf["marks"].append({"type": "blink"})
    if bad == "link":
        leaf["marks"].append(link("javascript:x"))
    wide = [dict(leaf) for _ in range(width)]
    if bad == "wide":
        wide.append({"type": "script"})
    inner: dict[str, Any] = {"type": "script" if bad == "deep" else "paragraph", "content": wide}
    for _ in range(depth - 1):
        inner = {"type": "paragraph", "content": [inner]}
    try:
        plaintext = document({"type": "doc", "content": [inner]}, LIMITS)
    except WireError as error:
        assert error.code == "too_large"  # noqa: PT017 - either word is right
        return
    reason = await refusal(plaintext, nodes=["paragraph"], marks=["bold", "link"])
    assert (reason is None) == (bad is None)


async def test_t17_the_deepest_and_the_largest_that_the_limits_let_through() -> None:
    """T17."""
    deep: dict[str, Any] = {"type": "paragraph"}
    for _ in range((LIMITS.max_depth - 3) // 2):
        deep = {"type": "paragraph", "content": [deep]}
    wide = [{"type": "p"}] * (LIMITS.max_bytes // 14)
    for content in ([deep], wide):
        plaintext = document({"type": "doc", "content": content}, LIMITS)
        assert await refusal(plaintext, nodes=["paragraph", "p"]) is None
        assert await refusal(plaintext, nodes=[]) is not None


async def test_t17_the_guard_itself_does_not_recurse() -> None:
    """T17: where an operator raises the limits, depth is no matter of the interpreter's stack."""
    guard = AllowedNodes(AllowedNodes.Options(nodes=["paragraph"]))
    tree: dict[str, Any] = {"type": "script"}
    for _ in range(100_000):
        tree = {"type": "paragraph", "content": [tree]}

    class Deep(Document):
        def tree(self) -> dict[str, Any]:
            return tree

    with pytest.raises(Refused, match="node type script"):
        await guard.before_draft(Deep(b""))
    while tree.get("content"):  # taken apart from the outside, lest the interpreter recurse to free it
        tree = tree["content"][0]


async def test_it_loads_by_its_entry_point_and_refuses_over_the_core() -> None:
    async with loaded(listed("policy.allowed_nodes", options={"nodes": ["paragraph"]})) as plugins:
        assert plugins.guards_drafts
        assert plugins.guards_messages
        await plugins.guard_draft(AUTHOR, CHAT_ID, None, doc({"type": "paragraph"}))
        with pytest.raises(WireError) as caught:
            await plugins.guard_message(AUTHOR, CHAT_ID, None, doc({"type": "iframe"}))
        assert caught.value.details == {
            "plugin": "policy.allowed_nodes",
            "reason": "node type iframe is not allowed",
        }
