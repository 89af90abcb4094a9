"""What is missing in a Directus of what the sidecar needs there, as the calls that make it. Pure.

Only what is missing is made. What is there stays as it is, and where it is of another kind than is needed nothing is done at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plugins.directus.account import POLICY_ID, policy
from plugins.directus.schema import Collection, Field, Relation

_AS_GOOD = {("integer", "bigInteger"), ("uuid", "string")}
"""Wanted, found: what holds everything that the wanted type holds, in the same way. SQLite knows no UUID, and Directus calls it a string there."""


@dataclass(frozen=True, slots=True)
class Needed:
    """What a plugin needs of Directus."""

    collections: Sequence[Collection] = ()
    relations: Sequence[Relation] = ()
    permissions: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What is there, as Directus' own answers have it."""

    fields: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """By collection; one that is a folder, without a table, has none."""
    relations: Sequence[Mapping[str, Any]] = ()
    policy: bool = False
    permissions: frozenset[tuple[str, str]] = frozenset()
    """Collection and action, of our policy."""


@dataclass(frozen=True, slots=True)
class Step:
    says: str
    path: str
    body: Any = field(repr=False)
    method: str = "POST"


def conflicts(needed: Needed, found: Found) -> Sequence[str]:
    """What is there and of another kind, a line each."""
    return [line for collection in needed.collections for line in _conflicts(collection, found)]


def _conflicts(collection: Collection, found: Found) -> Iterator[str]:
    there = found.fields.get(collection.name)
    if there is None:
        return
    if not there:
        yield f"{collection.name} is a folder"
        return
    known = {each["field"]: each for each in there}
    for wanted in collection.fields:
        each = known.get(wanted.name)
        if each is None:
            if wanted.primary:
                yield f"{collection.name} has no field {wanted.name}, which has to be its primary key"
            continue
        yield from _field_conflicts(f"{collection.name}.{wanted.name}", wanted, each)


def _field_conflicts(called: str, wanted: Field, each: Mapping[str, Any]) -> Iterator[str]:
    schema = each.get("schema") or {}
    if each.get("type") != wanted.type and (wanted.type, each.get("type")) not in _AS_GOOD:
        yield f"{called} is of type {each.get('type')} and has to be {wanted.type}"
        return
    if bool(schema.get("is_primary_key")) != wanted.primary:
        yield f"{called} {'has to be' if wanted.primary else 'must not be'} the primary key"
    length = schema.get("max_length")
    if wanted.length is not None and isinstance(length, int) and 0 < length < wanted.length:
        yield f"{called} has room for {length} characters and needs {wanted.length}"


def steps(needed: Needed, found: Found) -> Sequence[Step]:
    """What has to be made, in this order. The service user is not among it: `bootstrap` sees to it."""
    made = list(_tables(needed.collections, found))
    made += _relations(needed.relations, found)
    for collection in needed.collections:
        there = {each["field"] for each in found.fields.get(collection.name, ())}
        made += [
            _field(collection, each) for each in collection.fields if each.type == "alias" and each.name not in there
        ]
    if needed.permissions and not found.policy:
        made.append(Step("policy directus-sync-sidecar", "/policies", policy()))
    for each in needed.permissions:
        if (each["collection"], each["action"]) not in found.permissions:
            says = f"permission to {each['action']} {each['collection']}"
            made.append(Step(says, "/permissions", {**each, "policy": POLICY_ID}))
    return made


def _tables(collections: Sequence[Collection], found: Found) -> Iterator[Step]:
    for collection in collections:
        there = found.fields.get(collection.name)
        if there is None:
            count = sum(each.type != "alias" for each in collection.fields)
            yield Step(f"collection {collection.name} with {count} fields", "/collections", collection.payload())
            continue
        known = {each["field"] for each in there}
        for each in collection.fields:
            if each.type != "alias" and each.name not in known:
                yield _field(collection, each)


def _field(collection: Collection, each: Field) -> Step:
    return Step(f"field {collection.name}.{each.name}", f"/fields/{collection.name}", each.payload())


def _relations(relations: Sequence[Relation], found: Found) -> Iterator[Step]:
    there = {(each.get("collection"), each.get("field")) for each in found.relations}
    for each in relations:
        if (each.collection, each.field) not in there:
            says = f"relation {each.collection}.{each.field} to {each.related}"
            yield Step(says, "/relations", each.payload())
