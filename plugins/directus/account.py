"""The service account: one policy and one user that `sidecar bootstrap` makes, known by their ids. No I/O.

Ids of our own, so that it is never in doubt what was made here: nothing else is ever changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

POLICY_ID = "4b9975b0-9f35-51df-8411-5228748f4a1e"
USER_ID = "046bce87-c320-5849-a0d5-7e57dad66a31"
NAME = "directus-sync-sidecar"

READ_PEOPLE: Sequence[Mapping[str, Any]] = (
    {"collection": "directus_users", "action": "read", "fields": ["*"], "permissions": {}, "validation": None},
)
"""What `auth.directus` must be allowed. A list of fields needs a licence that is paid for; secrets come masked in any case."""


def policy() -> dict[str, Any]:
    """As `POST /policies` takes it."""
    return {
        "id": POLICY_ID,
        "name": NAME,
        "icon": "sync",
        "description": "What the service user of directus-sync-sidecar may do. Made by `sidecar bootstrap`.",
        "admin_access": False,
        "app_access": False,
    }


def user(token: str) -> dict[str, Any]:
    """As `POST /users` takes it: without role, password and app access it takes no seat."""
    return {
        "id": USER_ID,
        "first_name": NAME,
        "last_name": "service",
        "status": "active",
        "token": token,
        "policies": [{"policy": POLICY_ID}],
    }


def lacking(allowed: object, wanted: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """What of `wanted` an account is not allowed in full, by what `GET /permissions/me` says: `read on directus_users`."""
    found = allowed if isinstance(allowed, Mapping) else {}
    return [
        f"{each['action']} on {each['collection']}"
        for each in wanted
        if not _in_full(found.get(each["collection"]), each["action"])
    ]


def surplus(allowed: object, wanted: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """What it is allowed beyond that."""
    needed = {(each["collection"], each["action"]) for each in wanted}
    return [
        f"{action} on {collection}"
        for collection, actions in (allowed.items() if isinstance(allowed, Mapping) else ())
        for action, right in (actions.items() if isinstance(actions, Mapping) else ())
        if isinstance(right, Mapping) and right.get("access") != "none" and (collection, action) not in needed
    ]


def _in_full(actions: object, action: str) -> bool:
    right = actions.get(action) if isinstance(actions, Mapping) else None
    if not isinstance(right, Mapping) or right.get("access") != "full":
        return False
    fields = right.get("fields")
    return not isinstance(fields, list) or "*" in fields
