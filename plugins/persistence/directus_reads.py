"""Ways to read rows: by key, many by one call, and page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from plugins.directus.client import AnswerTooLarge
from plugins.persistence.directus_link import Link
from plugins.persistence.directus_rows import Row


async def rows_of(
    link: Link, name: str, fields: Sequence[str], keys: Sequence[str]
) -> Sequence[Row | Exception | None]:
    """The rows of these keys, None for one that is not there; what is too large for one answer is read by halves."""
    wanted = list(dict.fromkeys(keys))
    if len(wanted) > link.most_read:
        half = len(keys) // 2
        return [*await rows_of(link, name, fields, keys[:half]), *await rows_of(link, name, fields, keys[half:])]
    try:
        rows = await link.search(name, filter={"id": {"_in": wanted}}, fields=list(fields), limit=max(1, len(wanted)))
    except AnswerTooLarge as error:
        if len(wanted) == 1:
            return [error] * len(keys)
        half = len(keys) // 2
        return [
            *await rows_of(link, name, fields, keys[:half]),
            *await rows_of(link, name, fields, keys[half:]),
        ]
    found = {row.get("id"): row for row in rows}
    return [found.get(key) for key in keys]


async def rows_behind(
    link: Link,
    name: str,
    fields: Sequence[str],
    mine: Mapping[str, Any],
    field: str,
    place: tuple[str | int | None, str],
    wanted: int,
) -> list[Row]:
    """So many rows that follow the place (value of the field, key), highest first. Value None: from the highest on.

    Directus compares no strings, so the rows that share the place's value are read and passed over, up to the place.
    """
    value, key = place
    bound = {"_nnull": True} if value is None else {"_lte": value}
    condition = {"_and": [mine, {field: bound}]}
    passed: list[Row] = []
    rows: list[Row] = []
    offset = 0
    while len(rows) + (len(_after(passed, key)) if value is not None else 0) < wanted:
        step = min(wanted + len(passed), link.most_read)
        page = await link.search(
            name, filter=condition, sort=[f"-{field}", "-id"], fields=list(fields), limit=step, offset=offset
        )
        offset += len(page)
        if value is None:
            rows += page
        else:
            shared = [row for row in page if _same(row.get(field), value)]
            passed += shared
            rows += page[len(shared) :]
        if len(page) < step:
            break
    return ([*_after(passed, key), *rows] if value is not None else rows)[:wanted]


async def all_of(answers: Sequence[Any]) -> Sequence[Row | None]:
    """Awaits them all, so that none is left with an error that nobody took; raises the first."""
    found: list[Row | None] = []
    failure: BaseException | None = None
    for answer in answers:
        try:
            found.append(await answer)
        except Exception as error:  # noqa: BLE001  # raised below, once the others are heard
            failure = failure or error
    if failure is not None:
        raise failure
    return found


def _same(value: object, other: str | int) -> bool:
    if isinstance(other, int):
        return value == other
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) == datetime.fromisoformat(other)
    except ValueError:
        return False


def _after(rows: Sequence[Row], key: str) -> Sequence[Row]:
    """Those behind the row of this key; where it is not among them any more, those whose key is lower."""
    place = next((number for number, row in enumerate(rows) if row.get("id") == key), None)
    if place is not None:
        return rows[place + 1 :]
    return [row for row in rows if str(row.get("id")) < key]
