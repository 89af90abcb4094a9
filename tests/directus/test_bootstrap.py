"""`sidecar bootstrap` on a real Directus: what it makes, that it makes it once, and what it leaves alone."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from plugins.directus.account import POLICY_ID, READ_PEOPLE, USER_ID, lacking, surplus
from plugins.directus.bootstrap import bootstrap
from plugins.directus.options import DirectusOptions
from plugins.directus.plan import Needed
from plugins.directus.schema import Names, collections, permissions, relations
from sidecar import StartRefused
from tests.directus.people import human
from tests.services.directus.server import ADMIN_EMAIL, ADMIN_PASSWORD, ADMIN_TOKEN, DirectusServer
from tests.services.fixtures import StartDirectus

ADMIN = {"DIRECTUS_ADMIN_TOKEN": ADMIN_TOKEN}


def needed(names: Names) -> Needed:
    return Needed(collections(names), relations(names), [*permissions(names), *READ_PEOPLE])


def options(server: DirectusServer, **values: Any) -> DirectusOptions:
    return DirectusOptions.model_validate({"url": server.url, **values})


async def schema_of(server: DirectusServer) -> Any:
    """All that bootstrap could change, but for rows."""
    return [
        await server.ask("GET", path)
        for path in ("/collections", "/fields", "/relations", "/policies?limit=-1", "/permissions?limit=-1", "/roles")
    ]


async def test_it_makes_everything_and_then_nothing(start_directus: StartDirectus, tmp_path: Path) -> None:
    server, names, file = await start_directus(), Names(), tmp_path / "secrets" / "directus-token"
    told = options(server, token_file=file)
    before = await schema_of(server)
    plan = await bootstrap(told, needed(names), dry_run=True, environment=ADMIN)
    assert await schema_of(server) == before, "a dry run makes nothing"
    assert not file.exists()
    made = await bootstrap(told, needed(names), dry_run=False, environment=ADMIN)
    assert made == plan, "and says what would be made"
    assert made[:3] == [
        f"collection {each.name} with {sum(field.type != 'alias' for field in each.fields)} fields"
        for each in collections(names)
    ]
    assert made[3:5] == ["relation sidecar_messages.chat_id to sidecar_chats", "field sidecar_chats.messages"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text().strip()
    assert len(token) >= 40
    assert token not in " ".join(made)

    me = await server.ask("GET", "/users/me?fields=id,role,status,email", token=token)
    assert me == {"id": USER_ID, "role": None, "status": "active", "email": None}
    allowed = await server.ask("GET", "/permissions/me", token=token)
    wanted = [*permissions(names), *READ_PEOPLE]
    assert (lacking(allowed, wanted), surplus(allowed, wanted)) == ([], []), "what it needs, and nothing else"
    assert (await server.ask("GET", "/policies/me/globals", token=token))["admin_access"] is False
    status, licence = await server.attempt("GET", "/license")
    assert status == 404 or licence["data"]["usage"]["seats"] == 1, (
        "the service user takes no seat (Directus 11 counts none)"
    )
    for collection in collections(names):
        found = await server.ask("GET", f"/collections/{collection.name}")
        assert found["meta"]["accountability"] is None, "T48: no copy of a ciphertext goes into revisions"
        fields = {each["field"]: each for each in await server.ask("GET", f"/fields/{collection.name}")}
        for each in collection.fields:
            found_type = fields[each.name]["type"]
            assert found_type == each.type or (each.type, found_type) == ("uuid", "string"), "SQLite knows no UUID"
            if each.indexed:
                assert fields[each.name]["schema"]["is_indexed"], each.name
            if each.unique:
                assert fields[each.name]["schema"]["is_unique"], each.name
    # In one call and one transaction, as the store will write it.
    chat = {"id": "c", "hashed_user_id": "0" * 64, "version": 1}
    message = {"id": "m", "message_id": "m", "chat_id": chat, "sequence": 1}
    await server.ask("POST", "/items/sidecar_messages", message, token=token)
    assert await server.ask("GET", "/items/sidecar_chats/c?fields=messages", token=token) == {"messages": ["m"]}

    after = await schema_of(server)
    assert await bootstrap(told, needed(names), dry_run=False, environment=ADMIN) == []
    assert await schema_of(server) == after


@pytest.mark.usefixtures("leaves_nothing")
async def test_only_what_is_missing_is_made_and_the_rest_stays_as_it_is(
    directus_server: DirectusServer, tmp_path: Path
) -> None:
    names = Names(chats="partial_chats", messages="partial_messages", devices="partial_devices")
    chats, messages, devices = collections(names)
    mine = {
        "collection": chats.name,
        "schema": {},
        "meta": {"accountability": "all", "note": "ours"},
        "fields": [
            {"field": "id", "type": "string", "meta": {"note": "my key"}, "schema": {"is_primary_key": True}},
            {"field": "title", "type": "text", "meta": {"note": "my title"}, "schema": {}},
            {"field": "extra", "type": "integer", "meta": {}, "schema": {}},
        ],
    }
    await directus_server.ask("POST", "/collections", mine)
    told = options(directus_server, token="a-token-of-my-own-for-partial-tests")
    made = await bootstrap(told, Needed(collections(names), relations(names)), dry_run=False, environment=ADMIN)
    assert f"field {chats.name}.hashed_user_id" in made
    assert f"field {chats.name}.title" not in made
    found = await directus_server.ask("GET", f"/collections/{chats.name}")
    assert (found["meta"]["accountability"], found["meta"]["note"]) == ("all", "ours"), "doctor tells of it"
    fields = {each["field"]: each for each in await directus_server.ask("GET", f"/fields/{chats.name}")}
    assert fields["title"]["meta"]["note"] == "my title"
    assert set(fields) == {each.name for each in chats.fields} | {"extra"}
    await directus_server.ask("DELETE", f"/fields/{messages.name}/sender_name")
    again = await bootstrap(told, Needed(collections(names), relations(names)), dry_run=False, environment=ADMIN)
    assert again == [f"field {messages.name}.sender_name"]
    assert devices.name


@pytest.fixture
async def leaves_nothing(directus_server: DirectusServer) -> AsyncIterator[None]:
    """The shared Directus has no collection more than before: its licence has room for 25."""
    before = {each["collection"] for each in await directus_server.ask("GET", "/collections")}
    yield
    after = {each["collection"] for each in await directus_server.ask("GET", "/collections")} - before
    for name in sorted(after, key=lambda name: "messages" not in name):  # those first that refer to others
        await directus_server.ask("DELETE", f"/collections/{name}")


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"field": "version", "type": "string", "meta": {}, "schema": {}}, "version is of type string and has to be integer"),
        ({"field": "title", "type": "json", "meta": {}, "schema": {}}, "title is of type json and has to be text"),
        ({"field": "draft_op", "type": "string", "meta": {}, "schema": {"max_length": 8}}, "draft_op has room for 8 characters"),
        ({"field": "messages", "type": "text", "meta": {}, "schema": {}}, "messages is of type text and has to be alias"),
    ],
)  # fmt: skip
async def test_a_field_of_another_type_refuses_all_of_it_and_is_named(
    directus_server: DirectusServer, field: dict[str, Any], says: str
) -> None:
    names = Names(**{key: f"odd_{field['field']}_{key}" for key in ("chats", "messages", "devices")})
    key = {"field": "id", "type": "string", "meta": {}, "schema": {"is_primary_key": True, "max_length": 255}}
    body = {"collection": names.chats, "schema": {}, "meta": {}, "fields": [key, field]}
    await directus_server.ask("POST", "/collections", body)
    before = await schema_of(directus_server)
    for dry_run in (True, False):
        with pytest.raises(StartRefused) as caught:
            await bootstrap(options(directus_server, token="x"), needed(names), dry_run=dry_run, environment=ADMIN)
        assert f"{names.chats}.{says}" in str(caught.value)
    assert await schema_of(directus_server) == before


@pytest.mark.usefixtures("leaves_nothing")
async def test_keys_of_another_kind_and_folders_are_in_the_way_too(directus_server: DirectusServer) -> None:
    names = Names(chats="folder_chats", messages="keyed_messages", devices="keyed_devices")
    await directus_server.ask("POST", "/collections", {"collection": names.chats, "schema": None, "meta": {}})
    await directus_server.ask("POST", "/collections", {"collection": names.messages, "schema": {}, "meta": {}})
    key = {"field": "key", "type": "string", "meta": {}, "schema": {"is_primary_key": True}}
    await directus_server.ask(
        "POST", "/collections", {"collection": names.devices, "schema": {}, "meta": {}, "fields": [key]}
    )
    with pytest.raises(StartRefused) as caught:
        await bootstrap(options(directus_server, token="x"), needed(names), dry_run=False, environment=ADMIN)
    assert "folder_chats is a folder" in str(caught.value)
    assert "keyed_messages.id is of type integer and has to be string" in str(caught.value)
    assert "keyed_devices has no field id, which has to be its primary key" in str(caught.value)


async def test_the_service_user_and_its_token(start_directus: StartDirectus, tmp_path: Path) -> None:
    """Every way that a token can have been given, lost or replaced."""
    server, file = await start_directus(), tmp_path / "token"
    people = Needed(permissions=READ_PEOPLE)
    with pytest.raises(StartRefused, match="token_file"):
        await bootstrap(options(server), people, dry_run=False, environment=ADMIN)
    # By value: the user is made with it.
    first = options(server, token="a-token-that-came-from-a-vault")
    made = await bootstrap(first, people, dry_run=False, environment=ADMIN)
    assert made == ["service user directus-sync-sidecar"], "the policy is there from the run that ended in the middle"
    assert (await server.ask("GET", "/users/me", token="a-token-that-came-from-a-vault"))["id"] == USER_ID
    # Another one is configured: it is not replaced, for another sidecar may use it.
    with pytest.raises(StartRefused, match="another token than the one"):
        await bootstrap(options(server, token_file=file), people, dry_run=False, environment=ADMIN)
    assert not file.exists()
    # An operator cleared it: a fresh one goes into the file.
    await server.ask("PATCH", f"/users/{USER_ID}", {"token": None})
    made = await bootstrap(options(server, token_file=file), people, dry_run=False, environment=ADMIN)
    assert made == [f"token file {file}", "token of the service user directus-sync-sidecar"]
    assert (await server.ask("GET", "/users/me", token=file.read_text().strip()))["id"] == USER_ID
    # A policy that was taken away comes back; a permission too.
    for row in await server.ask("GET", f"/access?filter[user][_eq]={USER_ID}"):
        await server.ask("DELETE", f"/access/{row['id']}")
    for row in await server.ask("GET", f"/permissions?filter[policy][_eq]={POLICY_ID}"):
        await server.ask("DELETE", f"/permissions/{row['id']}")
    made = await bootstrap(options(server, token_file=file), people, dry_run=False, environment=ADMIN)
    assert made == ["permission to read directus_users", "policy of the service user directus-sync-sidecar"]
    assert await bootstrap(options(server, token_file=file), people, dry_run=False, environment=ADMIN) == []
    # Suspended by somebody: that was meant.
    await server.ask("PATCH", f"/users/{USER_ID}", {"status": "suspended"})
    with pytest.raises(StartRefused, match="not active"):
        await bootstrap(options(server, token_file=file), people, dry_run=False, environment=ADMIN)


async def test_an_account_that_somebody_made_by_hand_is_left_alone(directus_server: DirectusServer) -> None:
    own = await human(directus_server, "Robot")
    token = await own.static_token()
    with pytest.raises(StartRefused, match="may not read on directus_users; give it a policy"):
        await bootstrap(
            options(directus_server, token=token), Needed(permissions=READ_PEOPLE), dry_run=False, environment=ADMIN
        )
    policy = await directus_server.ask("POST", "/policies", {"name": "robots"})
    await directus_server.ask("POST", "/permissions", {**READ_PEOPLE[0], "policy": policy["id"]})
    await directus_server.ask("POST", "/access", {"user": own.id, "policy": policy["id"]})
    before = await schema_of(directus_server)
    made = await bootstrap(
        options(directus_server, token=token), Needed(permissions=READ_PEOPLE), dry_run=False, environment=ADMIN
    )
    assert made == []
    assert await schema_of(directus_server) == before


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "an administrator is needed"),
        ({"DIRECTUS_ADMIN_TOKEN": "nonsense"}, "refuses the administrator"),
        ({"DIRECTUS_ADMIN_EMAIL": ADMIN_EMAIL}, "an administrator is needed"),
        ({"DIRECTUS_ADMIN_EMAIL": ADMIN_EMAIL, "DIRECTUS_ADMIN_PASSWORD": "wrong"}, "refuses the administrator"),
        ({"DIRECTUS_ADMIN_TOKEN_FILE": "/nowhere/token"}, "cannot be read"),
    ],
)
async def test_without_an_administrator_nothing_is_done(
    directus_server: DirectusServer, environment: dict[str, str], says: str
) -> None:
    with pytest.raises(StartRefused, match=says) as caught:
        await bootstrap(
            options(directus_server, token="x"), Needed(permissions=READ_PEOPLE), dry_run=True, environment=environment
        )
    assert "DIRECTUS_ADMIN_" in str(caught.value)


async def test_an_administrator_may_log_in_or_have_a_token_in_a_file(
    directus_server: DirectusServer, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(f"{ADMIN_PASSWORD}\n")
    for environment in (
        {"DIRECTUS_ADMIN_EMAIL": ADMIN_EMAIL, "DIRECTUS_ADMIN_PASSWORD_FILE": str(password)},
        {"DIRECTUS_ADMIN_EMAIL": ADMIN_EMAIL, "DIRECTUS_ADMIN_PASSWORD": ADMIN_PASSWORD},
    ):
        made = await bootstrap(
            options(directus_server, token_file=tmp_path / "token"),
            Needed(),
            dry_run=True,
            environment=environment,
        )
        assert list(made) == []
    not_admin = await human(directus_server)
    with pytest.raises(StartRefused, match="no administrator"):
        await bootstrap(
            options(directus_server),
            Needed(),
            dry_run=True,
            environment={"DIRECTUS_ADMIN_TOKEN": await not_admin.static_token()},
        )
