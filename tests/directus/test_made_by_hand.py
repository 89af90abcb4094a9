"""Collections that somebody made or changed by hand in ways under which rows would be refused, altered or lost: named, never changed."""

from __future__ import annotations

import copy
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import pytest
import pytest_asyncio

from plugins.directus.bootstrap import bootstrap
from plugins.directus.client import DirectusClient
from plugins.directus.schema import Names, collections, relations
from plugins.directus.store_findings import store_findings
from sidecar import Finding, StartRefused
from tests.directus.test_bootstrap import ADMIN, needed, options, schema_of
from tests.services.directus.server import ADMIN_TOKEN, DirectusServer

KEY = {"field": "id", "type": "string", "meta": {}, "schema": {"is_primary_key": True, "max_length": 255}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory, _directus_installed: None) -> AsyncIterator[DirectusServer]:
    async with DirectusServer(tmp_path_factory.mktemp("by-hand")) as server:
        yield server


@pytest.fixture
async def names(server: DirectusServer) -> AsyncIterator[Names]:
    """Of collections of the test's own, which go with it: the licence has room for 25."""
    label = secrets.token_hex(3)
    names = Names(chats=f"c_{label}", messages=f"m_{label}", devices=f"d_{label}")
    before = {each["collection"] for each in await server.ask("GET", "/collections")}
    yield names
    after = {each["collection"] for each in await server.ask("GET", "/collections")} - before
    for name in sorted(after, reverse=True):
        await server.ask("DELETE", f"/collections/{name}")


async def make(server: DirectusServer, names: Names, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """All three, as somebody by hand: the fields of chats as `change` leaves them, by name."""
    for collection in collections(names):
        body = collection.payload()
        if change is not None and collection.name == names.chats:
            fields = {each["field"]: copy.deepcopy(each) for each in body["fields"]}
            change(fields)
            body["fields"] = list(fields.values())
        await server.ask("POST", "/collections", body)


async def found(server: DirectusServer, names: Names) -> dict[str, Finding]:
    """What `doctor` says with an administrator, by code."""
    told = options(server, token=ADMIN_TOKEN)
    async with DirectusClient(told, "persistence") as client:
        return {each.code: each for each in await store_findings(client, names, ADMIN_TOKEN)}


async def refusal(server: DirectusServer, names: Names) -> str:
    """What bootstrap says, as a dry run and as itself: the same, and nothing is changed."""
    before, said = await schema_of(server), []
    for dry_run in (True, False):
        with pytest.raises(StartRefused) as caught:
            await bootstrap(options(server, token="x"), needed(names), dry_run=dry_run, environment=ADMIN)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert await schema_of(server) == before
    assert "persistence.options.collections" in said[0]
    return said[0]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "required": (lambda fields: fields["title"]["meta"].update(required=True), "title must not be required"),
    "not null": (lambda fields: fields["title"]["schema"].update(is_nullable=False), "title must not be required"),
    "unique": (lambda fields: fields["hashed_user_id"]["schema"].update(is_unique=True), "hashed_user_id must not be unique"),
    "masked": (lambda fields: fields["title"]["meta"].update(special=["conceal"]), "title must not have the special conceal"),
    "stamped": (
        lambda fields: fields["updated_at"]["meta"].update(special=["date-updated"]),
        "updated_at must not have the special date-updated",
    ),
    "not stamped": (
        lambda fields: fields["changed_at"]["meta"].update(special=None),
        "changed_at lacks the special date-updated",
    ),
    "changed by nobody": (
        lambda fields: fields["changed_by"]["meta"].update(special=None),
        "changed_by lacks the special user-updated",
    ),
    "a field that must be filled": (
        lambda fields: fields.update(
            tenant={"field": "tenant", "type": "string", "meta": {"required": True}, "schema": {}}
        ),
        "tenant must have a value, and the sidecar gives it none",
    ),
    "a wrong type among others": (
        lambda fields: fields["messages_version"].update(type="string"),
        "messages_version is of type string and has to be integer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(CHANGES))
async def test_a_field_under_which_rows_would_be_refused_or_altered_is_named(
    server: DirectusServer, names: Names, what: str
) -> None:
    change, says = CHANGES[what]
    await make(server, names, change)
    assert f"{names.chats}.{says}" in await refusal(server, names)
    finding = (await found(server, names))["field-type"]
    assert (finding.severity, f"{names.chats}.{says}" in finding.says) == ("error", True)


async def test_fields_of_ones_own_that_may_be_empty_are_nobodys_business(server: DirectusServer, names: Names) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["tenant"] = {"field": "tenant", "type": "string", "meta": {}, "schema": {}}
        default = {"is_nullable": False, "default_value": "ours"}
        fields["kind"] = {"field": "kind", "type": "string", "meta": {}, "schema": default}
        del fields["draft_op"], fields["title"]

    await make(server, names, change)
    plan = await bootstrap(options(server, token="x" * 20), needed(names), dry_run=True, environment=ADMIN)
    assert {f"field {names.chats}.draft_op", f"field {names.chats}.title"} < set(plan)
    assert not any(line.startswith("collection") for line in plan)


async def test_a_relation_to_something_else_is_in_the_way(server: DirectusServer, names: Names) -> None:
    await make(server, names)
    await server.ask(
        "POST", "/collections", {"collection": f"e{names.chats}", "schema": {}, "meta": {}, "fields": [KEY]}
    )
    [wanted] = relations(names)
    await server.ask("POST", "/relations", {**wanted.payload(), "related_collection": f"e{names.chats}"})
    says = f"{names.messages}.chat_id refers to e{names.chats} and has to refer to {names.chats}"
    assert says in await refusal(server, names)
    assert says in (await found(server, names))["field-type"].says
    await server.ask("DELETE", f"/relations/{names.messages}/chat_id")


async def test_a_relation_without_its_cascade_is_a_finding_and_goes_when_it_is_mended(
    server: DirectusServer, names: Names
) -> None:
    await make(server, names)
    [wanted] = relations(names)
    await server.ask("POST", "/relations", {**wanted.payload(), "schema": {"on_delete": "SET NULL"}})
    finding = (await found(server, names))["relation"]
    assert (finding.severity, f"{names.messages}.chat_id" in finding.remedy) == ("warning", True)
    await server.ask(
        "PATCH",
        f"/relations/{names.messages}/chat_id",
        {"collection": names.messages, "field": "chat_id", "schema": {"on_delete": "CASCADE"}},
    )
    assert "relation" not in await found(server, names)


async def test_a_name_that_differs_in_case_alone_is_named(server: DirectusServer, names: Names) -> None:
    other = names.chats.upper()
    await server.ask("POST", "/collections", {"collection": other, "schema": {}, "meta": {}, "fields": [KEY]})
    assert f"{other} is there, which to some databases is {names.chats}" in await refusal(server, names)


async def test_a_view_that_directus_does_not_show_is_thought_of(server: DirectusServer, names: Names) -> None:
    """Directus lists no views of SQLite, and fails over their names."""
    with closing(sqlite3.connect(server.database)) as database:
        database.execute(f"CREATE VIEW {names.chats} AS SELECT 1 AS id")
        database.commit()
    with pytest.raises(StartRefused, match="a table or view of this name may be in its database") as caught:
        await bootstrap(options(server, token="x" * 20), needed(names), dry_run=False, environment=ADMIN)
    assert f"collection {names.chats} with 17 fields could not be made" in str(caught.value)
    with closing(sqlite3.connect(server.database)) as database:
        database.execute(f"DROP VIEW {names.chats}")
        database.commit()
