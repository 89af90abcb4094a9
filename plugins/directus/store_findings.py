"""What `sidecar doctor` says of a Directus that chats are stored in: schema, permissions, limits of writes, its cache, who else can read."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from plugins.directus.account import POLICY_ID, READ_PEOPLE, lacking, surplus
from plugins.directus.client import DirectusClient
from plugins.directus.findings import error, warning
from plugins.directus.plan import Found, Needed, conflicts, steps, without_cascade
from plugins.directus.refusals import DirectusRefused
from plugins.directus.schema import Collection, Names, collections, permissions, relations
from sidecar import Finding

_BATCH = 200
"""Rows of one call: a hundred messages, each with its chat."""
_BODY = 900_000
"""Bytes of one call, as the default of Directus allows."""
_PAGE = 200


def needed_for_store(names: Names) -> Needed:
    """What `persistence.directus` needs of Directus."""
    return Needed(collections(names), relations(names), permissions(names))


async def store_findings(client: DirectusClient, names: Names, admin: str | None) -> Sequence[Finding]:
    """Once `account_finding` has nothing to say. Raises `Unavailable`."""
    found = [finding async for finding in _rights(client, names)]
    found += [finding async for finding in _readable(client, names)]
    found += [finding async for finding in _limits(client, names)]
    if admin is not None:
        found += [finding async for finding in _schema(client, names, admin)]
        found += [finding async for finding in _others(client, names, admin)]
    return found


async def _rights(client: DirectusClient, names: Names) -> AsyncIterator[Finding]:
    allowed = await client.call("GET", "/permissions/me")
    if missing := lacking(allowed, permissions(names)):
        yield error(
            "permission-missing",
            f"the service account may not {', '.join(missing)}, or not all of it",
            "run `sidecar bootstrap`, or allow it in the account's policy, without rules and with all fields",
        )
    rights = await client.call("GET", "/policies/me/globals")
    if isinstance(rights, Mapping) and rights.get("admin_access") is True:
        return  # said by `server_findings`
    if more := surplus(allowed, [*permissions(names), *READ_PEOPLE]):
        yield warning(
            "permission-surplus",
            f"the service account may also {', '.join(more[:8])}{' and more' if len(more) > 8 else ''}",
            "take that out of its policy: the sidecar does not use it",
        )


async def _readable(client: DirectusClient, names: Names) -> AsyncIterator[Finding]:
    for collection in collections(names):
        stored = [each.name for each in collection.fields if each.type != "alias"]
        if await _reads(client, collection.name, stored):
            if await _reads(client, collection.name, ["id"], token=""):
                yield error(
                    "public",
                    f"anybody may read {collection.name} without signing in",
                    "take the permission out of Directus' public policy",
                )
        elif not await _reads(client, collection.name, ["id"]):
            yield error(
                "collection-missing",
                f"{collection.name} is not there, or the service account may not read it",
                "run `sidecar bootstrap`, or mend options.collections",
            )
        else:
            missing = [name for name in stored if not await _reads(client, collection.name, [name])]
            yield error(
                "fields-missing",
                f"{collection.name} lacks {', '.join(missing)}: Directus drops in silence what has no field",
                "run `sidecar bootstrap`",
            )


async def _reads(client: DirectusClient, collection: str, fields: Sequence[str], token: str | None = None) -> bool:
    query = {"fields": ",".join(fields), "limit": "1"}
    try:
        await client.call("GET", f"/items/{collection}", query=query, token=token)
    except DirectusRefused:
        return False
    return True


async def _limits(client: DirectusClient, names: Names) -> AsyncIterator[Finding]:
    info = await client.call("GET", "/server/info")
    limit = info.get("queryLimit") if isinstance(info, Mapping) else None
    most = limit.get("max") if isinstance(limit, Mapping) else None
    if isinstance(most, int) and 0 <= most < _PAGE:
        yield error(
            "query-limit",
            f"Directus gives {most} rows at most at a time, and a page of messages has {_PAGE}",
            f"set QUERY_LIMIT_MAX to {_PAGE} or more, or leave it out",
        )
    # Keys that nobody has: refused in any case, but for the number first.
    keys = [f"doctor-{secrets.token_hex(8)}-{number}" for number in range(_BATCH)]
    if await _refusal(client, "DELETE", f"/items/{names.devices}", keys) == "INVALID_PAYLOAD":
        yield warning(
            "max-batch",
            f"Directus takes less than {_BATCH} rows at a time: a batch of messages with their chats has as many",
            f"set MAX_BATCH_MUTATION to {_BATCH} or more, or leave it out",
        )
    long = [f"doctor-{number}-{'x' * 10_000}" for number in range(_BODY // 10_000)]
    body = {"query": {"limit": 1, "fields": ["id"], "filter": {"id": {"_in": long}}}}
    if await _refusal(client, "SEARCH", f"/items/{names.devices}", body) in ("INVALID_PAYLOAD", "HTTP_413"):
        yield warning(
            "max-payload",
            f"Directus, or the proxy before it, takes less than {_BODY // 1000} KB at a time: large messages cannot be stored",
            "set MAX_PAYLOAD_SIZE=1mb or more for Directus, and the like in the proxy",
        )
    every = f"{names.chats},{names.messages},{names.devices}"
    _, headers = await client.probe(f"/items/{names.devices}?limit=1&fields=id")
    if "max-age" in headers.get("Cache-Control", ""):
        yield warning(
            "cache",
            "Directus caches what it answers: its own app and API show chats as they were minutes ago, or each message empties the"
            " whole cache (the sidecar itself reads past it)",
            f"set CACHE_AUTO_PURGE=true and CACHE_AUTO_PURGE_IGNORE_LIST={every} for Directus, or CACHE_ENABLED=false",
        )


async def _refusal(client: DirectusClient, method: str, path: str, body: object) -> str | None:
    try:
        await client.call(method, path, body)
    except DirectusRefused as refusal:
        return refusal.code
    return None


# -- what an administrator sees ------------------------------------------------------------------------------------------


async def _schema(client: DirectusClient, names: Names, admin: str) -> AsyncIterator[Finding]:
    known = {each["collection"]: each for each in await client.call("GET", "/collections", token=admin)}
    fields: dict[str, Sequence[Mapping[str, Any]]] = {}
    for collection in collections(names):
        there = known.get(collection.name)
        if there is None:
            continue
        if there.get("schema") is not None:
            fields[collection.name] = await client.call("GET", f"/fields/{collection.name}", token=admin)
        else:
            fields[collection.name] = ()
        meta = there.get("meta") or {}
        if meta.get("accountability") is not None:
            yield error(
                "accountability",
                f"Directus keeps copies of what {collection.name} held, in revisions and activity, which nobody erases",
                f"switch off “Activity & Revision Tracking” of {collection.name} in Directus (Settings, Data Model)",
            )
        for finding in _indexes(collection, fields[collection.name]):
            yield finding
    relations_there = await client.call("GET", "/relations", token=admin)
    found = Found(fields, frozenset(known.keys() - fields.keys()), relations_there or ())
    needed = Needed(collections(names), relations(names))
    for line in conflicts(needed, found):
        yield error("field-type", line, "mend that in Directus, or write other names into options.collections")
    for step in steps(needed, found):
        if step.path == "/relations" or step.body.get("type") == "alias":  # what `_readable` cannot see
            yield error("schema", f"missing: {step.says}", "run `sidecar bootstrap`")
    for name in without_cascade(needed.relations, found):
        yield warning(
            "relation",
            f"the relation {name} has no cascade: a chat that is deleted in Directus leaves its messages, or cannot be deleted",
            f"set “On Delete” of {name} to CASCADE in Directus (Settings, Data Model)",
        )
    query = {"filter[collection][_in]": ",".join(known.keys() & fields.keys()), "limit": "0", "meta": "filter_count"}
    if fields:
        copies = await client.answer("GET", "/revisions", query=query, token=admin)
        if isinstance(copies, Mapping) and (copies.get("meta") or {}).get("filter_count"):
            yield warning(
                "revisions",
                f"Directus has {copies['meta']['filter_count']} copies of former rows in its revisions; erasing a person leaves them there",
                "delete these rows of directus_revisions (they are sealed, but stay)",
            )


def _indexes(collection: Collection, there: Sequence[Mapping[str, Any]]) -> Sequence[Finding]:
    known = {each.get("field"): each.get("schema") or {} for each in there}
    lacking_one = [
        each.name
        for each in collection.fields
        if each.name in known
        and (
            (each.indexed and not _indexed(known[each.name])) or (each.unique and not known[each.name].get("is_unique"))
        )
    ]
    if not lacking_one:
        return []
    return [
        warning(
            "index",
            f"{collection.name} has no index on {', '.join(lacking_one)}: reads become slow with many rows",
            "switch on “Index” (of message_id “Unique”) in these fields' settings in Directus, or in its database",
        )
    ]


def _indexed(schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("is_indexed") or schema.get("is_unique") or schema.get("is_primary_key"))


async def _others(client: DirectusClient, names: Names, admin: str) -> AsyncIterator[Finding]:
    """Permissions that other people have on these rows: everything there would be theirs to read."""
    query = {
        "filter[collection][_in]": f"{names.chats},{names.messages},{names.devices}",
        "fields": "collection,action,policy.id,policy.name",
        "limit": "-1",
    }
    me = await client.call("GET", "/users/me", query={"fields": "id"})
    own = await client.call(
        "GET", "/access", query={"filter[user][_eq]": me["id"], "fields": "policy", "limit": "-1"}, token=admin
    )
    mine = {POLICY_ID, *(each.get("policy") for each in own or ())}
    rights: dict[str, list[str]] = {}
    for each in await client.call("GET", "/permissions", query=query, token=admin) or ():
        policy = each.get("policy")
        if isinstance(policy, Mapping) and policy.get("id") not in mine:
            rights.setdefault(str(policy.get("name"))[:64], []).append(f"{each['action']} {each['collection']}")
    for name, what in rights.items():
        yield error(
            "end-users",
            f"the policy {name} allows {', '.join(sorted(what))}: of everybody's rows, past the sidecar",
            "take that out of the policy; people reach their chats by the sidecar alone",
        )
