"""What `sidecar doctor` says of a Directus, whichever plugin uses it: its version, licence, limits, WebSocket, clock, and the service account.

Asked with the service account's token; with an administrator's (`administration`) more can be seen.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from plugins.directus.account import USER_ID
from plugins.directus.blame import blamed
from plugins.directus.bootstrap import OLDEST, version_of
from plugins.directus.client import DirectusClient
from plugins.directus.refusals import DirectusRefused
from sidecar import Finding, Unavailable, clock_finding

NEWEST = (12, 99)
"""Of the releases that this was tried with."""
_CALLS_A_SECOND = 100
_FEW_SIGN_INS = 5
_NEARLY = 0.9


def error(code: str, says: str, remedy: str) -> Finding:
    return Finding(code, "error", says, remedy)


def warning(code: str, says: str, remedy: str) -> Finding:
    return Finding(code, "warning", says, remedy)


async def account_finding(client: DirectusClient) -> Finding | None:
    """Why the service account's token is good for nothing; None where it is. Raises `Unavailable`."""
    if (lacking := client.token.lacking(client.part)) is not None:
        return error("token", *_halves(lacking))
    try:
        await client.call("GET", "/users/me", query={"fields": "id"})
    except DirectusRefused as refusal:
        why = blamed(refusal, client.part, client.url)
        if isinstance(why, Unavailable):
            raise why from None
        return error("token", *_halves(str(why).removeprefix(f"{client.part}: ")))
    return None


def _halves(text: str) -> tuple[str, str]:
    says, _, remedy = text.partition("; ")
    return says, remedy


async def server_findings(client: DirectusClient, admin: str | None) -> Sequence[Finding]:
    """Once `account_finding` has nothing to say. Raises `Unavailable`."""
    found = [*way_findings(client.url)]
    if (file := client.token.open_to_others()) is not None:
        says = f"other users of this host may read or change {file}, in which the service user's token stands"
        found.append(error("token-file-open", says, f"chmod 600 {file}"))
    info = await client.call("GET", "/server/info")
    found += [*info_findings(info if isinstance(info, Mapping) else {})]
    ours = datetime.now(UTC)
    if (skew := clock_finding("Directus", ours - timedelta(seconds=client.clock_ahead), ours)) is not None:
        found.append(skew)
    rights = await _asked(client, "/policies/me/globals")
    if isinstance(rights, Mapping) and rights.get("admin_access") is True:
        found.append(
            warning(
                "service-admin",
                "the service account is an administrator: whoever gets its token has all of Directus",
                "take the token out of the options and run `sidecar bootstrap`, which makes an account with the rights that are needed",
            )
        )
    found += [finding async for finding in _public_url(client)]
    if admin is not None:
        found += [finding async for finding in _admins(client, admin)]
    else:
        found.append(
            Finding(
                "no-admin",
                "note",
                "without an administrator the schema, other people's permissions, the licence and who signs in from where were not looked at",
                "run `sidecar doctor --alone` with DIRECTUS_ADMIN_TOKEN set",
            )
        )
    return found


def way_findings(url: str) -> Iterator[Finding]:
    """Of the way to it."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not _near(parts.hostname or ""):
        yield warning(
            "plain-http",
            f"tokens go to {parts.hostname} unencrypted",
            "write an https:// address into options.url, or keep the way within one host or a network of its own",
        )


def _near(host: str) -> bool:
    """This host, or a name without a dot, as containers of one network call each other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or "." not in host


def info_findings(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Of what `GET /server/info` says."""
    version = version_of(info)
    if not version:
        yield warning(
            "version", "Directus does not tell its version", "see that options.url leads to a Directus 11 or 12"
        )
    elif version < OLDEST:
        yield error("version", f"Directus {version[0]}.{version[1]} is too old", "upgrade it to 11 or newer")
    elif version > NEWEST:
        yield warning(
            "version",
            f"Directus {version[0]}.{version[1]} is newer than this sidecar knows",
            "look for a newer sidecar, and try it beside a copy first",
        )
    yield from _limit_findings(
        info.get("rateLimit"), "RATE_LIMITER", "one address, and all calls of the sidecar come from one"
    )
    yield from _limit_findings(info.get("rateLimitGlobal"), "RATE_LIMITER_GLOBAL", "everybody together")
    socket = info.get("websocket")
    rest = socket.get("rest") if isinstance(socket, Mapping) else None
    if not isinstance(rest, Mapping):
        yield warning(
            "websockets",
            "Directus' WebSocket is off: changes made there, and ended accounts, are noticed within a minute only",
            "set WEBSOCKETS_ENABLED=true for Directus",
        )
    elif rest.get("authentication") == "strict" or rest.get("path") != "/websocket":
        yield warning(
            "websockets",
            "Directus' WebSocket is set up so that the sidecar cannot sign in to it",
            "set WEBSOCKETS_REST_AUTH=handshake and WEBSOCKETS_REST_PATH=/websocket for Directus",
        )


def _limit_findings(limit: object, name: str, whom: str) -> Iterator[Finding]:
    if not isinstance(limit, Mapping):
        return
    points, seconds = limit.get("points"), limit.get("duration")
    if not isinstance(points, int | float) or not isinstance(seconds, int | float) or seconds <= 0:
        return
    if points / seconds < _CALLS_A_SECOND:
        yield warning(
            "rate-limiter",
            f"Directus takes {points:g} calls in {seconds:g} s of {whom}; with many people the sidecar needs more",
            f"set {name}_POINTS to {_CALLS_A_SECOND} a second at least, or {name}_ENABLED=false and limit in the proxy before Directus",
        )


async def _public_url(client: DirectusClient) -> AsyncIterator[Finding]:
    specs = await _asked(client, "/server/specs/oas", whole=True)
    servers = specs.get("servers") if isinstance(specs, Mapping) else None
    url = servers[0].get("url") if isinstance(servers, list) and servers and isinstance(servers[0], Mapping) else None
    if not isinstance(url, str):
        return
    parts = urlsplit(url)
    here, there = urlsplit(client.url).hostname or "", parts.hostname or ""
    if parts.scheme not in ("http", "https") or (_near(there) and not _near(here)):
        yield warning(
            "public-url",
            "Directus does not know the address under which people reach it; its cookies and the links in its mails depend on that",
            "set PUBLIC_URL for Directus to the address in people's browsers",
        )


# -- what an administrator sees ------------------------------------------------------------------------------------------


async def _admins(client: DirectusClient, admin: str) -> AsyncIterator[Finding]:
    licence = await _asked(client, "/license", token=admin)
    if isinstance(licence, Mapping):
        for finding in licence_findings(licence):
            yield finding
    logins = await _asked(
        client,
        "/activity",
        token=admin,
        query={"filter[action][_eq]": "login", "sort": "-timestamp", "limit": "50", "fields": "ip,user"},
    )
    if isinstance(logins, list) and (one := _one_address(logins)) is not None:
        yield one
    user = await _asked(
        client, "/users", token=admin, query={"filter[id][_eq]": USER_ID, "fields": "role,policies.policy.app_access"}
    )
    if isinstance(user, list) and user:
        policies = [each.get("policy") for each in user[0].get("policies") or () if isinstance(each, Mapping)]
        app = any(isinstance(each, Mapping) and each.get("app_access") for each in policies)
        if user[0].get("role") is not None or app:
            yield warning(
                "service-seat",
                "the service user has a role or access to the app: it takes a seat of the licence, and has rights that it does not need",
                "take role and app access away from the user directus-sync-sidecar",
            )


def licence_findings(licence: Mapping[str, Any]) -> Iterator[Finding]:
    """Of what `GET /license` says; Directus 11 has no such thing."""
    status = licence.get("status")
    if status == "locked":
        yield error(
            "licence",
            "Directus' licence is locked: it refuses every read and write of items",
            "open Directus as an administrator and resolve its licence (Settings, License)",
        )
    elif isinstance(status, str) and status != "active":
        yield warning(
            "licence",
            f"Directus' licence is {status}: it will be locked",
            "open Directus as an administrator and resolve its licence (Settings, License)",
        )
    limits, usage = licence.get("entitlements"), licence.get("usage")
    if not isinstance(limits, Mapping) or not isinstance(usage, Mapping):
        return
    for name, used in usage.items():
        most = _most(limits.get(name))
        if isinstance(used, int) and most and most * _NEARLY <= used <= most:
            yield Finding(
                "licence-limit",
                "note",
                f"{used} of the {most} {name} of Directus' licence are in use; beyond them it is locked",
                "make room, or get a larger licence",
            )


def _most(limit: object) -> int:
    """What is allowed, with what was bought to it; 0 where nothing limits it."""
    told = limit if isinstance(limit, Mapping) else {}
    parts = [part for name in ("limit", "overage", "addon") if isinstance(part := told.get(name), int)]
    return 0 if -1 in parts else sum(parts)


def _one_address(logins: Sequence[Any]) -> Finding | None:
    users = {each.get("user") for each in logins if isinstance(each, Mapping)}
    addresses = {each.get("ip") for each in logins if isinstance(each, Mapping)}
    if len(logins) < _FEW_SIGN_INS or len(users) < 2 or len(addresses) != 1:
        return None
    [address] = addresses
    try:
        private = ipaddress.ip_address(str(address)).is_private
    except ValueError:
        return None
    if not private:
        return None
    return warning(
        "ip-trust-proxy",
        f"to Directus everybody signs in from {address}: it takes its proxy for the client, in its rate limits and its activity",
        "set IP_TRUST_PROXY for Directus to the addresses of its proxy (Directus 12 trusts none by default)",
    )


async def _asked(
    client: DirectusClient,
    path: str,
    *,
    token: str | None = None,
    query: Mapping[str, str] | None = None,
    whole: bool = False,
) -> Any:
    """The answer, None where this Directus has no such thing or does not say."""
    ask = client.answer if whole else client.call
    try:
        return await ask("GET", path, token=token, query=query)
    except (DirectusRefused, Unavailable):
        return None
