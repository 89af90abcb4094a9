"""An administrator's token, from the environment alone: `sidecar bootstrap` needs one, `sidecar doctor` sees more with one.

`serve` never has it. `DIRECTUS_ADMIN_TOKEN`, or `DIRECTUS_ADMIN_EMAIL` with `DIRECTUS_ADMIN_PASSWORD`; each also as `…_FILE`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from plugins.directus.client import DirectusClient
from plugins.directus.refusals import DirectusRefused
from sidecar import StartRefused, Unavailable

_HOW = "set DIRECTUS_ADMIN_TOKEN (or DIRECTUS_ADMIN_TOKEN_FILE), or DIRECTUS_ADMIN_EMAIL and DIRECTUS_ADMIN_PASSWORD"


@asynccontextmanager
async def administrator(
    client: DirectusClient, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[str | None]:
    """The token; None where the environment names none. Raises `StartRefused`, `Unavailable`."""
    token = _given("DIRECTUS_ADMIN_TOKEN", environment)
    email, password = (_given(f"DIRECTUS_ADMIN_{name}", environment) for name in ("EMAIL", "PASSWORD"))
    if token is None and (email is None or password is None):
        yield None
        return
    session: Mapping[str, str] = {}
    try:
        if token is None:
            login = {"email": email, "password": password, "mode": "json"}
            # A login that is wrong takes Directus half a second, on purpose.
            session = await client.call("POST", "/auth/login", login, token="")
            token = session["access_token"]
        rights = await client.call("GET", "/policies/me/globals", token=token)
    except DirectusRefused as error:
        raise StartRefused("directus", f"it refuses the administrator ({error.status} {error.code}); {_HOW}") from None
    if not isinstance(rights, Mapping) or rights.get("admin_access") is not True:
        raise StartRefused("directus", f"whose token this is is no administrator; {_HOW}")
    try:
        yield token
    finally:
        if session:
            try:
                await client.call("POST", "/auth/logout", {"refresh_token": session["refresh_token"]}, token="")
            except (DirectusRefused, Unavailable, KeyError):
                pass  # it ends by itself


def nobody() -> StartRefused:
    """Where only an administrator will do."""
    return StartRefused("directus", f"an administrator is needed for this; {_HOW}")


def _given(name: str, environment: Mapping[str, str]) -> str | None:
    file = environment.get(f"{name}_FILE")
    if file:
        try:
            return Path(file).read_text("utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            raise StartRefused("directus", f"{name}_FILE names a file that cannot be read; mend it") from None
    return environment.get(name) or None
