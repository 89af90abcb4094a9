"""Rows beside one of which Directus fails: of a time that is none it makes a 500 for whoever reads the row, and all rows with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from plugins.directus.refusals import DirectusFailed

Read = Callable[[Mapping[str, Any]], Awaitable[object]]
"""A query of one collection; raises `DirectusFailed`."""
_MOST_CALLS = 60
"""To find those rows; with more of them the collection is past serving."""


async def salvaged(read: Read, times: frozenset[str], query: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """What the query finds, in its order, without the times of rows whose times cannot be read. None where that is not what is wrong.

    Of an aggregate no time is left.
    """
    if "aggregate" in query:
        return await _without_times(read, times, query)
    fields: Sequence[str] = query.get("fields", ())
    asked = [name for name in fields if name in times]
    if not asked or "id" not in fields:
        return None
    try:
        rows = await read({**query, "fields": [name for name in fields if name not in times]})
    except DirectusFailed:
        return None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        return None
    found: dict[str, Mapping[str, Any]] = {}
    parts = [[str(row["id"]) for row in rows]] if rows else []
    calls = 0
    while parts:
        part, calls = parts.pop(), calls + 1
        if calls > _MOST_CALLS:
            return None
        try:
            told = await read({"filter": {"id": {"_in": part}}, "fields": ["id", *asked], "limit": len(part)})
        except DirectusFailed:
            if len(part) > 1:
                parts += [part[: len(part) // 2], part[len(part) // 2 :]]
            continue
        found |= {str(row.get("id")): row for row in told if isinstance(row, dict)} if isinstance(told, list) else {}
    return [{**row, **found.get(str(row["id"]), {})} for row in rows]


async def _without_times(read: Read, times: frozenset[str], query: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    asked: Mapping[str, Sequence[str]] = query["aggregate"]
    kept = {how: [name for name in names if name not in times] for how, names in asked.items()}
    if all(len(kept[how]) == len(names) for how, names in asked.items()):
        return None
    try:
        rows = await read({**query, "aggregate": kept})
    except DirectusFailed:
        return None
    return rows if isinstance(rows, list) else None
