"""What `sidecar doctor` finds wrong with a real Directus: each finding is brought about there, and goes when it is mended (T48, F34)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing

import pytest
import pytest_asyncio

from plugins.auth.directus import Directus as SignIn
from plugins.auth.directus_findings import sign_in_findings
from plugins.auth.directus_source import Source
from plugins.directus.account import POLICY_ID, READ_PEOPLE, USER_ID
from plugins.directus.administration import administrator
from plugins.directus.bootstrap import bootstrap
from plugins.directus.client import DirectusClient
from plugins.directus.findings import account_finding, server_findings
from plugins.directus.options import DirectusOptions
from plugins.directus.plan import Needed
from plugins.directus.schema import Names, collections, permissions, relations
from plugins.directus.store_findings import store_findings
from sidecar import Finding, StartRefused
from tests.directus.conftest import SERVICE_TOKEN
from tests.directus.people import human
from tests.services.directus.server import ADMIN_TOKEN, SECRET, DirectusServer
from tests.services.fixtures import StartDirectus

ADMIN = {"DIRECTUS_ADMIN_TOKEN": ADMIN_TOKEN}
NAMES = Names()
PUBLIC = "abf8a154-5b1c-4a46-ac9c-7300570f4f17"
"""The id of Directus' public policy, on every Directus."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sound(tmp_path_factory: pytest.TempPathFactory, _directus_installed: None) -> AsyncIterator[DirectusServer]:
    """A Directus in which everything is as it should be; a test that breaks something mends it again."""
    async with DirectusServer(tmp_path_factory.mktemp("sound")) as server:
        await in_order(server)
        yield server


async def in_order(server: DirectusServer) -> None:
    """All that both plugins need is there, and nothing to be found."""
    options = DirectusOptions.model_validate({"url": server.url, "token": SERVICE_TOKEN})
    needed = Needed(collections(NAMES), relations(NAMES), [*permissions(NAMES), *READ_PEOPLE])
    await bootstrap(options, needed, dry_run=False, environment=ADMIN)


async def found(
    server: DirectusServer,
    *,
    url: str | None = None,
    token: str | None = SERVICE_TOKEN,
    names: Names = NAMES,
    admin: bool = True,
    secret: str | None = None,
    roles: Sequence[str] = (),
) -> Mapping[str, Finding]:
    """All that both plugins find, by code. `url`: of what stands before it."""
    options = SignIn.Options.model_validate({"url": url or server.url, **({"token": token} if token else {})})
    every: list[Finding] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TOKEN", "EMAIL", "PASSWORD"):
            patch.delenv(f"DIRECTUS_ADMIN_{name}", raising=False)
        if admin:
            patch.setenv("DIRECTUS_ADMIN_TOKEN", ADMIN_TOKEN)
        async with Source(options) as source:
            every += await sign_in_findings(source, secret, roles)
        async with DirectusClient(options, "persistence") as client:
            if (finding := await account_finding(client)) is not None:
                every.append(finding)
            else:
                async with administrator(client) as who:
                    every += await server_findings(client, who)
                    every += await store_findings(client, names, who)
    assert all(each.says.strip() and each.remedy.strip() for each in every), "each has a line that mends it"
    assert not any(SERVICE_TOKEN in f"{each}" or ADMIN_TOKEN in f"{each}" or SECRET in f"{each}" for each in every)
    return {each.code: each for each in every}


async def test_where_all_is_well_nothing_is_found(sound: DirectusServer) -> None:
    assert await found(sound) == {}
    without = await found(sound, admin=False)
    assert list(without) == ["no-admin"]
    assert without["no-admin"].severity == "note"


# -- the account -------------------------------------------------------------------------------------------------------


async def test_a_token_that_is_none_is_the_first_thing_to_mend(sound: DirectusServer) -> None:
    assert set(await found(sound, token="wrong")) == set(await found(sound, token=None)) == {"token"}
    assert "401" in (await found(sound, token="wrong"))["token"].says


async def test_an_administrators_token_is_too_much(sound: DirectusServer) -> None:
    result = await found(sound, token=ADMIN_TOKEN)
    assert set(result) == {"service-admin"}
    assert result["service-admin"].severity == "warning"


async def test_an_administrator_who_is_none_is_said(sound: DirectusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRECTUS_ADMIN_TOKEN", "wrong")
    options = DirectusOptions.model_validate({"url": sound.url, "token": SERVICE_TOKEN})
    async with DirectusClient(options, "auth") as client:
        with pytest.raises(StartRefused, match="DIRECTUS_ADMIN_TOKEN"):
            async with administrator(client):
                pass


async def test_permissions_that_are_missing_and_those_that_are_too_many(sound: DirectusServer) -> None:
    query = f"/permissions?limit=-1&filter[policy][_eq]={POLICY_ID}"
    rows = {(each["collection"], each["action"]): each["id"] for each in await sound.ask("GET", query)}
    await sound.ask("DELETE", f"/permissions/{rows[NAMES.chats, 'delete']}")
    await sound.ask("DELETE", f"/permissions/{rows['directus_users', 'read']}")
    more = {"collection": "directus_files", "action": "read", "fields": ["*"], "permissions": {}, "policy": POLICY_ID}
    made = await sound.ask("POST", "/permissions", more)
    result = await found(sound)
    assert set(result) == {"permission-missing", "permission-surplus", "people"}
    assert "delete on sidecar_chats" in result["permission-missing"].says
    assert "read on directus_files" in result["permission-surplus"].says
    assert "nobody can sign in" in result["people"].says
    await sound.ask("DELETE", f"/permissions/{made['id']}")
    options = DirectusOptions.model_validate({"url": sound.url, "token": SERVICE_TOKEN})
    needed = Needed(permissions=[*permissions(NAMES), *READ_PEOPLE])
    assert len(await bootstrap(options, needed, dry_run=False, environment=ADMIN)) == 2, "the remedy mends it"
    assert await found(sound) == {}


async def test_a_service_user_with_a_role_takes_a_seat(sound: DirectusServer) -> None:
    role = await sound.ask("POST", "/roles", {"name": "staff"})
    await sound.ask("PATCH", f"/users/{USER_ID}", {"role": role["id"]})
    assert set(await found(sound)) == {"service-seat"}
    await sound.ask("PATCH", f"/users/{USER_ID}", {"role": None})


async def test_the_secret_and_the_roles_that_are_configured(sound: DirectusServer) -> None:
    wrong = await found(sound, secret="no secret of this Directus, and long enough")
    assert (set(wrong), wrong["secret"].severity) == ({"secret"}, "error")
    right = await found(sound, secret=SECRET)
    assert (set(right), right["secret-known"].severity) == ({"secret-known"}, "note")
    role = await sound.ask("POST", "/roles", {"name": "chatters"})
    assert await found(sound, roles=[role["id"]]) == {}
    assert set(await found(sound, roles=[role["id"], "nobody"])) == {"roles"}


async def test_a_directus_where_anybody_may_register(sound: DirectusServer) -> None:
    await sound.ask("PATCH", "/settings", {"public_registration": True})
    assert set(await found(sound)) == {"registration"}
    await sound.ask("PATCH", "/settings", {"public_registration": False})


async def test_who_signs_in_from_where_is_the_proxy(sound: DirectusServer) -> None:
    """IP_TRUST_PROXY: behind a proxy that it does not trust, everybody has the proxy's address."""
    people = [await human(sound) for _ in range(2)]
    for person in people * 3:
        await person.access_token()
    assert set(await found(sound)) == {"ip-trust-proxy"}
    with closing(sqlite3.connect(sound.database, timeout=10)) as database, database:
        database.execute("DELETE FROM directus_activity WHERE action = 'login'")
    assert await found(sound) == {}


# -- what is stored ----------------------------------------------------------------------------------------------------


async def test_rows_that_others_can_read(sound: DirectusServer) -> None:
    right = {"collection": NAMES.messages, "action": "read", "fields": ["*"], "permissions": {}}
    made = await sound.ask("POST", "/permissions", {**right, "policy": PUBLIC})
    result = await found(sound)
    assert set(result) == {"public", "end-users"}
    assert result["public"].severity == "error"
    await sound.ask("DELETE", f"/permissions/{made['id']}")
    policy = await sound.ask("POST", "/policies", {"name": "Chatters"})
    made = await sound.ask("POST", "/permissions", {**right, "policy": policy["id"]})
    result = await found(sound)
    assert set(result) == {"end-users"}
    assert "the policy Chatters allows read sidecar_messages" in result["end-users"].says
    await sound.ask("DELETE", f"/permissions/{made['id']}")
    assert await found(sound) == {}


async def test_t48_copies_of_what_was_stored(sound: DirectusServer) -> None:
    """Fifty edits of a chat leave no copy; where somebody switches the copies on, it is an error, and what was copied is told of."""
    row = {"id": "c", "hashed_user_id": "0" * 64, "title": "sealed 0"}
    await sound.ask("POST", f"/items/{NAMES.chats}", row, token=SERVICE_TOKEN)
    for number in range(50):
        await sound.ask("PATCH", f"/items/{NAMES.chats}/c", {"title": f"sealed {number}"}, token=SERVICE_TOKEN)
    count = f"/revisions?limit=0&meta=filter_count&filter[collection][_eq]={NAMES.chats}"
    status, answer = await sound.attempt("GET", count)
    assert (status, answer["meta"]["filter_count"]) == (200, 0)
    assert await found(sound) == {}
    await sound.ask("PATCH", f"/collections/{NAMES.chats}", {"meta": {"accountability": "all"}})
    await sound.ask("PATCH", f"/items/{NAMES.chats}/c", {"title": "copied"}, token=SERVICE_TOKEN)
    result = await found(sound)
    assert set(result) == {"accountability", "revisions"}
    assert result["accountability"].severity == "error"
    await sound.ask("PATCH", f"/collections/{NAMES.chats}", {"meta": {"accountability": None}})
    assert set(await found(sound)) == {"revisions"}
    with closing(sqlite3.connect(sound.database, timeout=10)) as database, database:
        database.execute("DELETE FROM directus_revisions")
    assert await found(sound) == {}


async def test_fields_that_are_missing(sound: DirectusServer) -> None:
    [field] = [each for each in collections(NAMES)[1].fields if each.name == "sender_name"]
    await sound.ask("DELETE", f"/fields/{NAMES.messages}/{field.name}")
    result = await found(sound)
    assert set(result) == {"fields-missing"}
    assert "sidecar_messages lacks sender_name" in result["fields-missing"].says
    await sound.ask("POST", f"/fields/{NAMES.messages}", field.payload())
    assert await found(sound) == {}


async def test_collections_of_another_making(sound: DirectusServer) -> None:
    """Not there; without the relation, an index, and the room for an id; with fields of another type."""
    names = Names(chats="other_chats", messages="other_messages", devices="other_devices")
    missing = await found(sound, names=names)
    assert {"collection-missing", "permission-missing"} <= set(missing)
    for collection in collections(names)[:2]:
        fields = [
            {**each.payload(), "schema": {**(each.payload()["schema"] or {}), "is_indexed": False, "is_unique": False}}
            for each in collection.fields
            if each.type != "alias" and each.name != "version"
        ]
        fields += [{"field": "version", "type": "string", "meta": {}, "schema": {}}]
        body = {**collection.payload(), "fields": fields}
        await sound.ask("POST", "/collections", body)
        granted = [
            {**each, "policy": POLICY_ID} for each in permissions(names) if each["collection"] == collection.name
        ]
        await sound.ask("POST", "/permissions", granted)
    result = await found(sound, names=names)
    assert {"index", "field-type", "schema", "collection-missing"} <= set(result)
    assert "other_chats.version is of type string and has to be integer" in result["field-type"].says
    assert "hashed_user_id" in result["index"].says
    for name in (names.messages, names.chats):
        await sound.ask("DELETE", f"/collections/{name}")
    assert await found(sound) == {}


# -- how it is set up --------------------------------------------------------------------------------------------------


async def test_settings_of_a_directus_that_stand_in_the_way(start_directus: StartDirectus, faketime: str) -> None:
    """F34 too: its cache. All at once, for a start takes its time; and mended one by one by nothing but the remedies' own settings."""
    server = await start_directus(
        CACHE_ENABLED="true",
        CACHE_AUTO_PURGE="false",
        MAX_BATCH_MUTATION="150",
        MAX_PAYLOAD_SIZE="500kb",
        RATE_LIMITER_ENABLED="true",
        RATE_LIMITER_POINTS="60",
        RATE_LIMITER_DURATION="1",
        RATE_LIMITER_GLOBAL_ENABLED="true",
        RATE_LIMITER_GLOBAL_POINTS="90",
        RATE_LIMITER_GLOBAL_DURATION="1",
        QUERY_LIMIT_MAX="150",
        WEBSOCKETS_ENABLED="false",
        PUBLIC_URL="/",
        LD_PRELOAD=faketime,
        FAKETIME="+10m",
        DONT_FAKE_MONOTONIC="1",
    )
    await in_order(server)
    result = await found(server)
    assert set(result) == {
        *("cache", "max-batch", "max-payload", "rate-limiter", "query-limit", "websockets", "public-url", "clock")
    }
    assert (result["clock"].severity, result["query-limit"].severity) == ("error", "error")
    assert "600 s ahead of" in result["clock"].says or "s ahead of" in result["clock"].says
    await server.restart(
        CACHE_AUTO_PURGE="true",
        CACHE_AUTO_PURGE_IGNORE_LIST=f"{NAMES.chats},{NAMES.messages},{NAMES.devices}",
        MAX_BATCH_MUTATION="200",
        MAX_PAYLOAD_SIZE="1mb",
        RATE_LIMITER_POINTS="200",
        RATE_LIMITER_GLOBAL_POINTS="400",
        QUERY_LIMIT_MAX="200",
        WEBSOCKETS_ENABLED="true",
        WEBSOCKETS_REST_AUTH="strict",
        PUBLIC_URL="https://directus.example.com",
        FAKETIME="+0m",
    )
    result = await found(server)
    assert set(result) == {"websockets"}
    assert "WEBSOCKETS_REST_AUTH=handshake" in result["websockets"].remedy
