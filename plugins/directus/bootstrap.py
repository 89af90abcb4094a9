"""`sidecar bootstrap` for Directus: collections, fields, relation, policy, permissions and service user that are missing.

Additive and repeatable: it reads what is there, refuses where something is in the way, and makes the rest, one call after the
other. `sidecar.operations.bootstrapping` sees that nobody else does so meanwhile.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plugins.directus.account import POLICY_ID, USER_ID, lacking, user
from plugins.directus.administration import administrator, nobody
from plugins.directus.blame import no_directus
from plugins.directus.client import DirectusClient
from plugins.directus.options import DirectusOptions
from plugins.directus.plan import Found, Needed, Step, conflicts, steps
from plugins.directus.refusals import DirectusFailed, DirectusRefused
from sidecar import StartRefused, Unavailable

OLDEST = (11, 0)
"""Directus 10 has no policies."""
_PATIENCE = 60.0
"""A call that changes the schema takes its time on a large one."""


async def bootstrap(
    options: DirectusOptions,
    needed: Needed,
    *,
    part: str = "persistence",
    dry_run: bool,
    environment: Mapping[str, str] = os.environ,
) -> Sequence[str]:
    """Makes it; a line for each thing that was made, or with `dry_run` would be. Raises `StartRefused`, `Unavailable`.

    `part`: in whose section of the YAML the options stand.
    """
    async with DirectusClient(options, part) as client, administrator(client, environment) as token:
        if token is None:
            raise nobody(part)
        making = _Bootstrap(client, token, options, needed, dry_run=dry_run)
        try:
            return await making.run()
        except DirectusRefused as error:
            raise making.broken_off(error) from None


def version_of(info: object) -> tuple[int, ...]:
    """Of `GET /server/info`; empty where it is not told."""
    told = info.get("version") if isinstance(info, Mapping) else None
    parts = str(told or "").split("-")[0].split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


class _Bootstrap:
    def __init__(
        self, client: DirectusClient, admin: str, options: DirectusOptions, needed: Needed, *, dry_run: bool
    ) -> None:
        self._client = client
        self._admin = admin
        self._options = options
        self._needed = needed
        self._dry_run = dry_run
        self._done: list[str] = []

    async def run(self) -> Sequence[str]:
        version = version_of(await self._call("GET", "/server/info"))
        if version and version < OLDEST:
            raise self._refused(f"Directus {version[0]} is too old; upgrade it to 11 or newer")
        own = await self._own_account()
        found = await self._found()
        if in_the_way := conflicts(self._needed, found):
            raise self._refused(
                f"nothing was made: {', '.join(in_the_way)}; mend that in Directus, or write other names into"
                f" {self._client.part}.options.collections"
            )
        # An account that somebody made by hand is theirs: its rights are not ours to change.
        needed = self._needed if own is None else Needed(self._needed.collections, self._needed.relations)
        for step in steps(needed, found):
            await self._make(step, needed)
        if own is None:
            if needed.permissions:
                await self._service_user()
        elif missing := lacking(await self._call("GET", "/permissions/me", token=own), self._needed.permissions):
            raise self._refused(
                f"the user whose token is configured may not {', '.join(missing)}; give it a policy that allows that,"
                " or take the token out of the options, and bootstrap makes a service user"
            )
        return self._done

    def broken_off(self, error: DirectusRefused) -> StartRefused | Unavailable:
        """What is said when Directus does not tell what is there."""
        if isinstance(error, DirectusFailed):
            return Unavailable(self._client.part, f"Directus fails ({error.status} {error.code}); look at its log")
        return self._refused(f"Directus does not show the administrator what is there: {_why(error)}")

    # -- what is there -------------------------------------------------------------------------------------------------

    async def _call(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        more.setdefault("token", self._admin)
        return await self._client.call(method, path, body, timeout=_PATIENCE, **more)

    async def _rows(self, path: str, query: Mapping[str, str] | None = None) -> Sequence[Mapping[str, Any]]:
        rows = await self._call("GET", path, query=query)
        if not isinstance(rows, list) or not all(isinstance(each, Mapping) for each in rows):
            raise no_directus(self._client.part, self._client.url, f"GET {path} gives no rows")
        return rows

    async def _found(self) -> Found:
        known = {each["collection"]: each for each in await self._rows("/collections")}
        fields: dict[str, Sequence[Mapping[str, Any]]] = {}
        for name in (collection.name for collection in self._needed.collections if collection.name in known):
            folder = known[name].get("schema") is None  # of which Directus says that it has no fields by a 403
            fields[name] = () if folder else await self._rows(f"/fields/{name}")
        relations = await self._rows("/relations")
        query = {"filter[policy][_eq]": POLICY_ID, "fields": "collection,action", "limit": "-1"}
        granted = await self._rows("/permissions", query)
        policies = await self._rows("/policies", {"filter[id][_eq]": POLICY_ID, "fields": "id"})
        return Found(
            fields,
            frozenset(known.keys() - fields.keys()),
            relations,
            bool(policies),
            frozenset((each["collection"], each["action"]) for each in granted if "collection" in each),
        )

    async def _users(self, fields: str) -> Sequence[Mapping[str, Any]]:
        """The service user, if it is there."""
        return await self._rows("/users", {"filter[id][_eq]": USER_ID, "fields": fields})

    async def _own_account(self) -> str | None:
        """The configured token, if it is one of a user that was not made here."""
        token = self._client.token.value
        whose = await self._whose(token) if token else None
        return token if whose not in (None, USER_ID) else None

    async def _whose(self, token: str) -> str | None:
        try:
            me = await self._call("GET", "/users/me", query={"fields": "id"}, token=token)
        except DirectusRefused:
            return None
        return str(me["id"]) if isinstance(me, Mapping) and me.get("id") else None

    # -- what is made --------------------------------------------------------------------------------------------------

    async def _make(self, step: Step, needed: Needed) -> None:
        if not self._dry_run:
            try:
                await self._call(step.method, step.path, step.body)
            except DirectusRefused as error:
                # Somebody else may have made it in this moment; Directus answers that with anything, 500 too.
                if any(each.says == step.says for each in steps(needed, await self._found())):
                    raise self._refused(
                        f"{step.says} could not be made: {_why(error)}{_perhaps(step, error)}"
                    ) from None
                return
        self._done.append(step.says)

    async def _service_user(self) -> None:
        rows = await self._users("id,status,token,policies.policy")
        says = "service user directus-sync-sidecar"
        if not rows:
            token = self._client.token.value or self._fresh_token()
            if not await self._make_user(Step(says, "/users", user(token))):
                await self._service_user()  # as that of somebody else it may have another token
            return
        [row] = rows
        if row.get("status") != "active":
            raise self._refused("the service user directus-sync-sidecar is not active; activate it in Directus")
        if not any(each.get("policy") == POLICY_ID for each in row.get("policies") or ()):
            await self._make_user(Step(f"policy of the {says}", "/access", {"user": USER_ID, "policy": POLICY_ID}))
        token = self._client.token.value
        if token and await self._whose(token) == USER_ID:
            return
        if row.get("token"):
            # It was made before, and another sidecar may be using its token.
            raise self._refused(
                "the service user directus-sync-sidecar has another token than the one that is configured; bring that one back, or"
                " clear the user's token in Directus and run this again"
            )
        token = token or self._fresh_token()
        await self._make_user(Step(f"token of the {says}", f"/users/{USER_ID}", {"token": token}, "PATCH"))

    async def _make_user(self, step: Step) -> bool:
        """Whether it was made here; False where somebody else has made the same user in this moment."""
        if not self._dry_run:
            try:
                await self._call(step.method, step.path, step.body)
            except DirectusRefused as error:
                if error.code == "RECORD_NOT_UNIQUE" and await self._users("id"):
                    return False
                raise self._refused(f"{step.says} could not be made: {_why(error)}") from None
        self._done.append(step.says)
        return True

    def _fresh_token(self) -> str:
        """Written down before Directus has it: whatever ends this in between, the next run goes on with it."""
        file = self._options.token_file
        if file is None:
            raise self._refused(
                "nothing says where the service user's token goes; write"
                f" {self._client.part}.options.token_file, which bootstrap makes, or options.token"
            )
        if file.exists() or file.is_symlink():  # something that is no token: it is not ours to replace
            raise self._refused(self._client.token.lacking(self._client.part) or f"{file} is in the way; remove it")
        token = secrets.token_urlsafe(32)
        if not self._dry_run:
            try:
                _write(file, token)
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise self._refused(
                    f"{file} cannot be made ({why}); see to {self._client.part}.options.token_file"
                ) from None
        self._done.append(f"token file {file}")
        return token

    def _refused(self, why: str) -> StartRefused:
        made = f" (made until then: {', '.join(self._done)})" if self._done and not self._dry_run else ""
        return StartRefused(self._client.part, f"{why}{made}")


def _write(file: Path, token: str) -> None:
    """For its owner alone, whole or not at all: whatever ends this in the middle, no half of a token is in the way of the next run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)  # left by one that was killed
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(f"{token}\n")
        opened.flush()
        os.fsync(opened.fileno())
    fresh.rename(file)


def _perhaps(step: Step, error: DirectusRefused) -> str:
    # Directus does not show views, nor tables in other schemas, and fails over their names.
    taken = step.path == "/collections" and isinstance(error, DirectusFailed)
    return " (a table or view of this name may be in its database)" if taken else ""


def _why(error: DirectusRefused) -> str:
    if error.code in ("RESOURCE_RESTRICTED", "LIMIT_EXCEEDED"):
        return f"the licence of this Directus has no room for it ({error.code}); see its settings, License"
    return f"Directus answers {error.status} {error.code}; look at its log, and run this again"
