"""A Directus as the sidecar wants it, made by hand from the same description that `sidecar bootstrap` goes by."""

from __future__ import annotations

import secrets

from plugins.directus.schema import Names, collections, permissions, relations
from tests.services.directus.server import DirectusServer

_POLICY = {"icon": "sync", "admin_access": False, "app_access": False, "enforce_tfa": False}


async def prepare(server: DirectusServer, names: Names | None = None) -> str:
    """Makes collections, relation, policy and service user, and returns that user's static token."""
    names = names or Names()
    made = collections(names)
    for collection in made:
        await server.ask("POST", "/collections", collection.payload())
    for relation in relations(names):
        alias = next(
            field for each in made if each.name == relation.related for field in each.fields if field.type == "alias"
        )
        await server.ask("POST", f"/fields/{relation.related}", alias.payload())
        await server.ask("POST", "/relations", relation.payload())
    return await service_user(server, names)


async def service_user(server: DirectusServer, names: Names) -> str:
    """A user with a static token who may do what the sidecar must be allowed, and nothing else; the token."""
    policy = await server.ask("POST", "/policies", {"name": f"sidecar of {names.chats}", **_POLICY})
    await server.ask("POST", "/permissions", [{**each, "policy": policy["id"]} for each in permissions(names)])
    await server.ask(
        "POST",
        "/permissions",
        {"collection": "directus_users", "action": "read", "fields": ["*"], "permissions": {}, "policy": policy["id"]},
    )
    token = secrets.token_urlsafe(32)
    user = {"first_name": "Sidecar", "last_name": names.chats, "token": token}
    await server.ask("POST", "/users", {**user, "policies": [{"policy": policy["id"]}]})
    return token


def names_of(label: str) -> Names:
    """Collections of a test's own on a shared server."""
    return Names(chats=f"chats_{label}", messages=f"messages_{label}", devices=f"devices_{label}")
