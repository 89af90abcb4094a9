"""Texts as they stand in frames: a document of one paragraph, whose text is a token that no other text shares."""

from __future__ import annotations

from typing import Any


def doc(token: str) -> dict[str, Any]:
    """A document that says this."""
    return {"type": "doc", "content": [{"type": "paragraph", "content": [{"type": "text", "text": token}]}]}


def token_of(content: Any) -> str | None:
    """What it says; None for none."""
    if content is None:
        return None
    token: str = content["content"][0]["content"][0]["text"]
    return token
