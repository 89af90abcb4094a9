"""Bootstrap, doctor and sign-in where Directus has its tables in PostgreSQL, which is stricter with types than SQLite."""

from __future__ import annotations

from plugins.directus.account import READ_PEOPLE
from plugins.directus.bootstrap import bootstrap
from plugins.directus.options import DirectusOptions
from plugins.directus.plan import Needed
from plugins.directus.schema import Names, collections, permissions, relations
from tests.directus.conftest import SERVICE_TOKEN, signing_in
from tests.directus.people import human, many
from tests.directus.test_findings import found
from tests.directus.test_sign_in import shown
from tests.services.directus.server import ADMIN_TOKEN
from tests.services.fixtures import StartDirectus
from tests.services.postgres_server import PostgresServer


async def test_on_postgresql_it_is_the_same(start_directus: StartDirectus, postgres: PostgresServer) -> None:
    server = await start_directus(**postgres.for_directus())
    names = Names()
    options = DirectusOptions.model_validate({"url": server.url, "token": SERVICE_TOKEN})
    needed = Needed(collections(names), relations(names), [*permissions(names), *READ_PEOPLE])
    environment = {"DIRECTUS_ADMIN_TOKEN": ADMIN_TOKEN}
    plan = await bootstrap(options, needed, dry_run=True, environment=environment)
    assert await bootstrap(options, needed, dry_run=False, environment=environment) == plan
    assert await bootstrap(options, needed, dry_run=False, environment=environment) == []
    for collection in collections(names):
        there = {each["field"]: each for each in await server.ask("GET", f"/fields/{collection.name}")}
        assert all(there[each.name]["type"] == each.type for each in collection.fields)
        assert all(there[each.name]["schema"]["is_indexed"] for each in collection.fields if each.indexed)
    assert await found(server) == {}
    anna = await human(server, "Anna")
    async with signing_in(server) as auth:
        for token in (await anna.access_token(), await anna.session_token(), await anna.static_token()):
            assert (await auth.sign_in(shown(token))).user_id == anna.id
        ids = [*await many(server, 120), anna.id, "not-a-uuid", "00000000-0000-4000-8000-000000000000"]
        people = await auth._source.people(ids, "full")
        assert len(people) == 121, "one that is no id spoils it for nobody"
        await anna.change(status="suspended")
        person = await auth._people.find(anna.id, fresh=True)
        assert person is not None
        assert not person.active
