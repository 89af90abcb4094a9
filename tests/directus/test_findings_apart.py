"""What `sidecar doctor` finds that no call to a free Directus 12 brings about: by rows in its database, another version, another way to it."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plugins.directus.account import POLICY_ID
from plugins.directus.findings import info_findings, licence_findings, way_findings
from sidecar import StartRefused
from tests.directus.conftest import SERVICE_TOKEN, signing_in
from tests.directus.test_findings import found, in_order, sound
from tests.services.directus.front import DirectusFront
from tests.services.directus.server import DirectusServer
from tests.services.fixtures import StartDirectus

__all__ = ["sound"]

_UPGRADE = "20260507A"
"""The migration with which Directus 12 begins."""


def written(server: DirectusServer, *statements: str) -> None:
    """Straight into the database."""
    with closing(sqlite3.connect(server.database, timeout=10)) as database, database:
        for statement in statements:
            database.execute(statement)


def collections_to(server: DirectusServer, number: int) -> None:
    """So many collections are there then, as from before a licence was lost."""
    with closing(sqlite3.connect(server.database, timeout=10)) as database, database:
        [(there,)] = database.execute("SELECT count(*) FROM directus_collections")
        for each in range(there, number):
            database.execute(f"CREATE TABLE more_{each} (id INTEGER PRIMARY KEY)")
            database.execute("INSERT INTO directus_collections (collection) VALUES (?)", (f"more_{each}",))


def upgraded(server: DirectusServer, days: int) -> None:
    """It was an older Directus until so many days ago."""
    now = datetime.now(UTC)
    since = f"{now - timedelta(days=days):%Y-%m-%d %H:%M:%S}"
    before = f"{now - timedelta(days=days + 400):%Y-%m-%d %H:%M:%S}"
    written(
        server,
        f"UPDATE directus_migrations SET timestamp = '{since}'",
        f"UPDATE directus_migrations SET timestamp = '{before}' WHERE version < '{_UPGRADE}'",
    )


async def start_in_order(start_directus: StartDirectus) -> DirectusServer:
    server = await start_directus()
    await in_order(server)
    assert await found(server) == {}
    return server


async def licensed(server: DirectusServer) -> bool:
    """Directus 11 has no licence; it takes rules, and any number of collections."""
    return not str((await server.ask("GET", "/server/info"))["version"]).startswith("11.")


async def test_what_a_licence_says_of_itself(start_directus: StartDirectus) -> None:
    """Nearly full; over its limits in the month after an upgrade, and after it."""
    server = await start_in_order(start_directus)
    if not await licensed(server):
        pytest.skip("not promised: this Directus has no licence")
    await server.stop()
    collections_to(server, 24)
    await server.start()
    result = await found(server)
    assert (set(result), result["licence-limit"].severity) == ({"licence-limit"}, "note")
    assert "24 of the 25 collections" in result["licence-limit"].says
    await server.stop()
    collections_to(server, 26)
    upgraded(server, days=3)
    await server.start()
    result = await found(server)
    assert (set(result), result["licence"].severity) == ({"licence"}, "warning")
    assert "licence is grace" in result["licence"].says
    await server.stop()
    upgraded(server, days=31)
    await server.start()
    result = await found(server)
    assert result["licence"].severity == "error"
    assert "locked" in result["licence"].says
    await server.stop()
    written(server, "DELETE FROM directus_collections WHERE collection LIKE 'more_%'")
    await server.start()
    assert await found(server) == {}, "what the remedy says mends it"


async def test_an_account_that_reads_itself_alone(sound: DirectusServer) -> None:
    """As somebody has it who may use Directus' app and nothing else."""
    [right] = await sound.ask(
        "GET", f"/permissions?filter[policy][_eq]={POLICY_ID}&filter[collection][_eq]=directus_users"
    )
    await sound.ask("DELETE", f"/permissions/{right['id']}")
    await sound.ask("PATCH", f"/policies/{POLICY_ID}", {"app_access": True})
    result = await found(sound)
    assert set(result) == {"people-partial", "permission-surplus", "service-seat"}
    assert result["people-partial"].severity == "error"
    with pytest.raises(StartRefused, match="only some rows of directus_users"):  # and serving ends in the same words
        async with signing_in(sound):
            pass
    await sound.ask("PATCH", f"/policies/{POLICY_ID}", {"app_access": False})
    await in_order(sound)
    assert await found(sound) == {}


@pytest.mark.parametrize(
    ("fields", "code", "severity", "says"),
    [
        (["id", "status"], "people", "error", "id, status and role"),
        (["id", "status", "role"], "people-fields", "warning", "no sender's name"),
    ],
)
async def test_an_account_that_reads_some_fields_of_people(
    sound: DirectusServer, fields: list[str], code: str, severity: str, says: str
) -> None:
    """A list of fields wants a licence: without one Directus 12 drops the whole permission. There its answer is made up."""
    rights = await sound.ask("GET", "/permissions/me", token=SERVICE_TOKEN)
    query = f"/permissions?filter[policy][_eq]={POLICY_ID}&filter[collection][_eq]=directus_users"
    async with DirectusFront(sound.url) as front:
        if await licensed(sound):
            rights["directus_users"]["read"] = {"access": "full", "fields": fields}
            front.answer(200, {"data": rights}, 10**6, of=lambda _, path: path == "/permissions/me")
        else:
            [right] = await sound.ask("GET", query)
            await sound.ask("PATCH", f"/permissions/{right['id']}", {"fields": fields})
        result = await found(sound, url=front.url)
        assert (set(result), result[code].severity) == ({code}, severity)
        assert says in result[code].says
        if severity == "error":
            with pytest.raises(StartRefused, match=says):
                async with signing_in(sound, url=front.url):
                    pass
        else:
            async with signing_in(sound, url=front.url):
                pass
        front.clear()
    if not await licensed(sound):
        await sound.ask("PATCH", f"/permissions/{right['id']}", {"fields": ["*"]})
    assert await found(sound) == {}


@pytest.mark.parametrize(
    ("version", "severity", "says"),
    [
        ("10.13.1", "error", "too old"),
        ("13.0.0", "warning", "newer than this sidecar knows"),
        (None, "warning", "tell"),
    ],
)
async def test_a_directus_of_another_version(
    sound: DirectusServer, version: str | None, severity: str, says: str
) -> None:
    """Everything is the real one's but for the version that it tells."""
    info: Mapping[str, Any] = await sound.ask("GET", "/server/info")
    told = {name: value for name, value in info.items() if name != "version"}
    if version is not None:
        told["version"] = version
    async with DirectusFront(sound.url) as front:
        other = front.answer(200, {"data": told}, 10**6, of=lambda _, path: path == "/server/info")
        result = await found(sound, url=front.url)
        assert other.happened
        assert (set(result), result["version"].severity) == ({"version"}, severity)
        assert says in result["version"].says
        front.clear()
        assert await found(sound, url=front.url) == {}


def _own_address() -> str:
    """Of this machine, as others know it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # which sends nothing
        except OSError:
            pytest.skip("not promised: this machine has no address for others")
        return str(probe.getsockname()[0])


async def test_tokens_that_go_over_a_network_in_the_clear(sound: DirectusServer) -> None:
    async with DirectusFront(sound.url, _own_address()) as front:
        result = await found(sound, url=front.url)
    assert {"plain-http"} == set(result) - {"public-url"}, "its PUBLIC_URL is of this machine alone"
    assert (result["plain-http"].severity, front.host in result["plain-http"].says) == ("warning", True)


def test_what_server_info_and_the_address_tell() -> None:
    def codes(info: Mapping[str, Any]) -> list[str]:
        return [each.code for each in info_findings({"websocket": {"rest": {"path": "/websocket"}}, **info})]

    assert codes({"version": "11.17.2"}) == codes({"version": "12.4.0"}) == []
    for version, severity in (("10.13.1", "error"), ("13.0.0", "warning"), ("", "warning"), (None, "warning")):
        [finding] = info_findings({"websocket": {"rest": {"path": "/websocket"}}, "version": version})
        assert (finding.code, finding.severity) == ("version", severity)
    assert codes({"version": "12.4.0", "websocket": {"rest": {"path": "/ws"}}}) == ["websockets"]
    assert [each.code for each in way_findings("http://directus.example.com")] == ["plain-http"]
    for near in ("https://directus.example.com", "http://directus:8055", "http://127.0.0.1:8055", "http://[::1]:8055"):
        assert list(way_findings(near)) == []


def test_what_a_licence_tells() -> None:
    limits = {"collections": {"limit": 25}, "seats": {"limit": 3}, "sso_enabled": {"default": False}}
    licence = {"status": "active", "entitlements": limits, "usage": {"collections": 3, "seats": 1}}
    assert list(licence_findings(licence)) == []
    [near] = licence_findings({**licence, "usage": {"collections": 24, "seats": 1}})
    assert (near.code, near.severity) == ("licence-limit", "note")
    for more, expected in (({"addon": 5}, []), ({"addon": 1}, [near.code]), ({"overage": -1}, []), ({"limit": -1}, [])):
        given = {"entitlements": {"collections": {"limit": 25, **more}}, "usage": {"collections": 24}}
        assert [each.code for each in licence_findings({"status": "active", **given})] == expected
    [grace] = licence_findings({**licence, "status": "grace"})
    assert (grace.code, grace.severity) == ("licence", "warning")
