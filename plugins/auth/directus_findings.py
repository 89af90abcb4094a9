"""What `sidecar doctor` says of sign-in by a Directus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from plugins.auth.directus_source import Source
from plugins.directus.account import READ_PEOPLE, lacking
from plugins.directus.administration import administrator
from plugins.directus.findings import account_finding, error, server_findings, warning
from plugins.directus.refusals import DirectusRefused
from sidecar import Finding

_NEEDED_FIELDS = ("id", "status", "role")


async def sign_in_findings(source: Source, secret: str | None, roles: Sequence[str]) -> Sequence[Finding]:
    """Raises `StartRefused` where an administrator is named and refused, and `Unavailable`."""
    client = source.client
    if (finding := await account_finding(client)) is not None:
        return [finding]
    async with administrator(client) as admin:
        found = [*await server_findings(client, admin)]
        found += [finding async for finding in _people(source)]
        found += [finding async for finding in _secret(source, secret)]
        found += [finding async for finding in _roles(source, roles, admin)]
    info = await client.call("GET", "/server/info")
    project = info.get("project") if isinstance(info, Mapping) else None
    if isinstance(project, Mapping) and project.get("public_registration") is True:
        found.append(
            Finding(
                "registration",
                "note",
                "anybody may register in Directus, and then sign in here",
                "if that is not meant, switch public registration off in Directus, or name the roles in auth.options.roles",
            )
        )
    return found


async def _people(source: Source) -> AsyncIterator[Finding]:
    allowed = await source.client.call("GET", "/permissions/me")
    if not lacking(allowed, READ_PEOPLE):
        return
    users = allowed.get("directus_users") if isinstance(allowed, Mapping) else None
    read: Any = users.get("read") if isinstance(users, Mapping) else None
    access = read.get("access") if isinstance(read, Mapping) else "none"
    fields = read.get("fields") if isinstance(read, Mapping) else None
    remedy = "run `sidecar bootstrap`, or allow the account's policy to read directus_users, without rules and with all fields"
    if access == "partial":
        yield error(
            "people-partial", "the service account may read some people only: the others cannot sign in", remedy
        )
    elif access != "full":
        yield error("people", "the service account may not read directus_users: nobody can sign in", remedy)
    elif not isinstance(fields, list) or not set(_NEEDED_FIELDS) <= set(fields):
        yield error("people", "the service account may not read id, status and role of directus_users", remedy)
    else:
        yield warning(
            "people-fields", "the service account may not read people's names: messages have no sender's name", remedy
        )


async def _secret(source: Source, secret: str | None) -> AsyncIterator[Finding]:
    if secret is None:
        return
    if source.account is None:
        me = await source.client.call("GET", "/users/me", query={"fields": "id"})
        source.account = me["id"]
    if not await source.signs(secret):
        yield error(
            "secret",
            "auth.options.secret is not the SECRET of this Directus: every access token is refused",
            "copy SECRET from Directus' environment, or leave the option out",
        )
    else:
        yield Finding(
            "secret-known",
            "note",
            "the sidecar knows Directus' SECRET: whoever reads its configuration can make tokens of anybody, administrators too",
            "leave auth.options.secret out, unless more people come at once than Directus can be asked about",
        )


async def _roles(source: Source, roles: Sequence[str], admin: str | None) -> AsyncIterator[Finding]:
    if not roles or admin is None:
        return
    try:
        rows = await source.client.call("GET", "/roles", query={"fields": "id", "limit": "-1"}, token=admin)
    except DirectusRefused:
        return
    known = {row.get("id") for row in rows or () if isinstance(row, Mapping)}
    if unknown := [role for role in roles if role not in known]:
        yield error(
            "roles",
            f"auth.options.roles names roles that Directus has not: {', '.join(unknown)}",
            "write the ids of roles, as Directus shows them in the address of a role's page",
        )
