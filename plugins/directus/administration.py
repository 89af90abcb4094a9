"""An administrator's token, from the environment alone: `sidecar bootstrap` needs one, `sidecar doctor` sees more with one.

`serve` never has it. `DIRECTUS_ADMIN_TOKEN`, or `DIRECTUS_ADMIN_EMAIL` with `DIRECTUS_ADMIN_PASSWORD`; each also as `…_FILE`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from plugins.directus.blame import no_directus, not_the_token
from plugins.directus.client import DirectusClient
from plugins.directus.refusals import DirectusRefused
from sidecar import StartRefused, Unavailable

_HOW = "set DIRECTUS_ADMIN_TOKEN (or DIRECTUS_ADMIN_TOKEN_FILE), or DIRECTUS_ADMIN_EMAIL and DIRECTUS_ADMIN_PASSWORD"


@asynccontextmanager
async def administrator(
    client: DirectusClient, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[str | None]:
    """The token; None where the environment names none. Raises `StartRefused`, `Unavailable`."""
    token, email, password = (
        _given(f"DIRECTUS_ADMIN_{name}", environment, client.part) for name in ("TOKEN", "EMAIL", "PASSWORD")
    )
    if token is not None and not (token.isascii() and token.isprintable()):
        raise StartRefused(client.part, "DIRECTUS_ADMIN_TOKEN has line ends or other odd characters in it; mend it")
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
        if (elsewhere := not_the_token(error, client.part, client.url)) is not None:
            raise elsewhere from None
        said = f"Directus refuses the administrator ({error.status} {error.code})"
        raise StartRefused(client.part, f"{said}; {_HOW}") from None
    except (TypeError, KeyError):
        rights = None
    if not isinstance(rights, Mapping):
        raise no_directus(client.part, client.url, "it does not tell what the administrator may")
    if rights.get("admin_access") is not True:
        raise StartRefused(client.part, f"the token or login in DIRECTUS_ADMIN_… is no administrator's; {_HOW}")
    try:
        yield token
    finally:
        if session:
            try:
                await client.call("POST", "/auth/logout", {"refresh_token": session["refresh_token"]}, token="")
            except (DirectusRefused, Unavailable, KeyError):
                pass  # it ends by itself


def nobody(part: str) -> StartRefused:
    """Where only an administrator will do."""
    return StartRefused(part, f"an administrator is needed for this; {_HOW}")


def _given(name: str, environment: Mapping[str, str], part: str) -> str | None:
    file = environment.get(f"{name}_FILE")
    if not file:
        return environment.get(name, "").strip() or None
    try:
        text = Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise StartRefused(part, f"{name}_FILE names {file}, which cannot be read; mend it") from None
    if not text:
        raise StartRefused(part, f"{name}_FILE names {file}, which is empty; mend it")
    return text
