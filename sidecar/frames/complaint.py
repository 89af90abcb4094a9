"""What is wrong with a payload, in words that say what to write and repeat nothing that was written."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

# By pydantic's error type; the placeholders are limits and choices of ours, never input. Types that are not here are
# described in general words, so that a new one can give nothing away.
_WORDS = {
    "missing": "is missing",
    "string_type": "is a string",
    "int_type": "is an integer, without quotes",
    "bool_type": "is true or false",
    "list_type": "is a list",
    "model_type": "is an object",
    "literal_error": "is {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "has at least {min_length} characters",
    "string_too_long": "has at most {max_length} characters",
    "too_long": "has at most {max_length} items",
    "greater_than_equal": "is at least {ge}",
    "less_than_equal": "is at most {le}",
    "extra_forbidden": "is no key of this frame",
}
_OURS = frozenset({"time", "both", "one_chat", "state", "null", "revision", "piece"})
"""Types of the errors that the models raise themselves: their messages are fixed sentences."""


def complaint(error: ValidationError) -> tuple[str, str]:
    """Where (`payload.basedOnVersion`) and what, of the first thing that is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    context: dict[str, Any] = first.get("ctx", {})
    where = [*map(str, first["loc"]), *([context["key"]] if "key" in context else [])]
    kind = first["type"]
    if kind in _OURS:
        words = first["msg"]
    elif kind in _WORDS:
        words = _WORDS[kind].format_map(context)
    else:
        words = "is not what the protocol asks for"
    return ".".join(["payload", *where]), f"`{where[-1] if where else 'payload'}` {words}"
