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


_OWN = frozenset({"date-updated", "user-updated"})
"""What tells an edit of somebody else from the sidecar's own."""
_CHANGING = frozenset(
    {"hash", "encrypt", "conceal", "uuid", "date-created", "user-created", "role-created", "role-updated", *_OWN}
)
"""What makes Directus write or show something else than it was given."""


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
    others: frozenset[str] = frozenset()
    """All other collections."""
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
    lines = [line for collection in needed.collections for line in _conflicts(collection, found)]
    return [*lines, *_relation_conflicts(needed.relations, found)]


def _conflicts(collection: Collection, found: Found) -> Iterator[str]:
    there = found.fields.get(collection.name)
    if there is None:
        for name in sorted(found.others):
            if name.lower() == collection.name.lower():
                yield f"{name} is there, which to some databases is {collection.name}"
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
    for name in sorted(known.keys() - {each.name for each in collection.fields}):
        if _demanded(known[name]):
            yield f"{collection.name}.{name} must have a value, and the sidecar gives it none"


def _relation_conflicts(relations: Sequence[Relation], found: Found) -> Iterator[str]:
    for wanted in relations:
        for each in found.relations:
            if (each.get("collection"), each.get("field")) == (wanted.collection, wanted.field):
                related = each.get("related_collection")
                if related != wanted.related:
                    yield f"{wanted.collection}.{wanted.field} refers to {related} and has to refer to {wanted.related}"


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
    if schema.get("is_unique") and not wanted.unique and not wanted.primary:
        yield f"{called} must not be unique"
    if not wanted.primary and _demanded(each):
        yield f"{called} must not be required, for it may be empty"
    special = set((each.get("meta") or {}).get("special") or ())
    if lacking := sorted(_OWN & set(wanted.special) - special):
        yield f"{called} lacks the special {', '.join(lacking)}"
    if surplus := sorted((_CHANGING & special) - set(wanted.special)):
        yield f"{called} must not have the special {', '.join(surplus)}"


def _demanded(each: Mapping[str, Any]) -> bool:
    """Whether no row can be written without a value in this field."""
    schema = each.get("schema") or {}
    given = schema.get("default_value") is not None or schema.get("has_auto_increment") or schema.get("is_generated")
    return bool((each.get("meta") or {}).get("required")) or (schema.get("is_nullable") is False and not given)


def without_cascade(relations: Sequence[Relation], found: Found) -> Sequence[str]:
    """Relations that are there and leave rows behind, or in the way, when what they belong to is deleted."""
    wanted = {(each.collection, each.field) for each in relations}
    return [
        f"{each['collection']}.{each['field']}"
        for each in found.relations
        if (each.get("collection"), each.get("field")) in wanted
        and (each.get("schema") or {}).get("on_delete") != "CASCADE"
    ]


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
