"""The tests' own Directus: fresh, killed and back with its data, restarted with other settings, on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.directus.installing import find_directus
from tests.services.directus.server import ADMIN_EMAIL, ADMIN_PASSWORD, DirectusServer
from tests.services.fixtures import StartDirectus
from tests.services.postgres_server import PostgresServer

_NOTES = {
    "collection": "notes",
    "schema": {},
    "meta": {},
    "fields": [{"field": "id", "type": "string", "schema": {"is_primary_key": True, "max_length": 64}, "meta": {}}],
}


async def test_it_is_the_version_that_was_installed_and_has_an_admin(directus_server: DirectusServer) -> None:
    told = await directus_server.ask("GET", "/server/info")
    assert told["version"] == find_directus().version
    answer = await directus_server.log_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    assert (await directus_server.ask("GET", "/users/me", token=answer["access_token"]))["email"] == ADMIN_EMAIL
    assert (await directus_server.attempt("GET", "/users/me", token=None))[0] == 401


@pytest.mark.timeout(240)
async def test_its_data_outlive_kill_and_restart_and_are_no_other_servers(start_directus: StartDirectus) -> None:
    server = await start_directus()
    await server.ask("POST", "/collections", _NOTES)
    await server.ask("POST", "/items/notes", {"id": "one"})
    server.kill()
    assert not server.running
    await server.start()
    assert await server.ask("GET", "/items/notes") == [{"id": "one"}]
    await server.restart(RATE_LIMITER_ENABLED="true", RATE_LIMITER_POINTS="7", RATE_LIMITER_DURATION="60")
    assert (await server.ask("GET", "/server/info"))["rateLimit"] == {"points": 7, "duration": 60}
    other = await start_directus()
    assert (await other.attempt("GET", "/items/notes"))[0] == 403, "no such collection"


@pytest.mark.timeout(240)
async def test_it_runs_on_postgres(start_directus: StartDirectus, postgres: PostgresServer) -> None:
    server = await start_directus(**postgres.for_directus())
    await server.ask("POST", "/collections", _NOTES)
    await server.ask("POST", "/items/notes", {"id": "one"})
    status, answer = await server.attempt("POST", "/items/notes", {"id": "x" * 65})
    assert (status, answer["errors"][0]["extensions"]["code"]) == (400, "VALUE_TOO_LONG"), "as PostgreSQL has it"


def test_a_postgres_leaves_nothing_behind(postgres: PostgresServer, tmp_path: Path) -> None:
    assert "directus" in postgres.for_directus()["DB_USER"]
    assert (tmp_path / "postgres" / "postgres.log").exists()
