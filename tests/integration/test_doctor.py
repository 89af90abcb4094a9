"""`sidecar doctor`: through the running sidecar and without one, by people and by scripts, with parts that are away."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.config import Config
from sidecar.server.running import serving
from tests.conftest import configure
from tests.device import Device, doc
from tests.faults.vault_world import keys_in, role
from tests.integration.world import AT_ONCE, begin, say, until
from tests.services.fixtures import StartRedis
from tests.services.ports import ReservedPort
from tests.services.proxy import FaultProxy
from tests.services.redis_server import RedisServer
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import Vault


def run(config: Config, *arguments: str) -> tuple[int, str, str]:
    outcome = CliRunner().invoke(app, ["doctor", "--config", str(config.file), *arguments])
    return outcome.exit_code, outcome.stdout, outcome.stderr


async def examined(config: Config) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    """Exit status, and what was found by part and code; every finding has all that one must have."""
    status, shown, _ = await asyncio.to_thread(run, config, "--json")
    said = json.loads(shown)
    rows = said["findings"]
    for each in rows:
        assert set(each) == {"part", "severity", "code", "says", "remedy"}
        assert each["says"]
        assert each["remedy"]
    for severity in ("error", "warning", "note"):
        assert said[f"{severity}s"] == sum(each["severity"] == severity for each in rows)
    assert said["ok"] == (said["errors"] == 0) == (status == 0)
    return status, {(each["part"], each["code"]): each for each in rows}


def ailing(how: str) -> dict[str, Any]:
    return {"use": "tests.plugins.ailing:Ailing", "name": "ailing", "options": {"how": how}}


@pytest.mark.parametrize("serves", [True, False])
async def test_the_embedded_sidecar_is_well(tmp_path: Path, serves: bool) -> None:
    config = configure(tmp_path)
    if serves:
        async with serving(config):
            status, found = await examined(config)
    else:
        status, found = await examined(config)
    assert status == 0
    assert found[("auth", "dev")]["severity"] == "note"
    assert found[("encryption", "master-key-beside")]["severity"] == "note"


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize(
    ("how", "code", "severity", "says", "remedy"),
    [
        ("finding", "index", "error", "its index is old", "build it anew"),
        ("line", "said", "warning", "its index is old", "build it anew"),
        ("unavailable", "unavailable", "error", "nobody answers", "can be reached"),
        ("raises", "findings", "warning", "findings() failed: ValueError", "author"),
        ("answers nonsense", "findings", "warning", "list of sidecar.Finding", "author"),
        ("state", "state", "error", "its server is asleep", "log"),
    ],
)
async def test_what_a_plugin_finds_is_told_wherever_it_lives(
    tmp_path: Path, serves: bool, how: str, code: str, severity: str, says: str, remedy: str
) -> None:
    config = configure(tmp_path, plugins=[ailing(how)])
    if serves:
        async with serving(config):
            status, found = await examined(config)
    else:
        status, found = await examined(config)
    told = found.pop(("ailing", code))
    assert (told["severity"], says in told["says"], remedy in told["remedy"]) == (severity, True, True)
    assert status == int(severity == "error")
    assert not [part for part, _ in found if part == "ailing"]
    assert "password" not in str(told)


async def test_a_part_that_does_not_open_hides_no_other(tmp_path: Path) -> None:
    port = ReservedPort()
    away = {"use": "redis", "options": {"url": f"redis://127.0.0.1:{port.number}", "timeout": "200ms"}}
    plugins = [ailing("refused"), {**ailing("finding"), "name": "other"}]
    config = configure(tmp_path, cache=away, plugins=plugins)
    status, found = await examined(config)
    port.close()
    assert status == 1
    assert found[("cache", "unavailable")]["severity"] == "error"
    assert found[("ailing", "refused")]["says"] == "its server knows no such user"
    assert found[("ailing", "refused")]["remedy"] == "make one"
    assert ("other", "index") in found
    assert ("encryption", "master-key-beside") in found


async def test_a_part_that_went_away_is_found_by_the_running_sidecar(tmp_path: Path, start_redis: StartRedis) -> None:
    server = await start_redis()
    config = configure(tmp_path, cache={"use": "redis", "options": {"url": server.url, "shards": 1}})
    async with serving(config):
        assert (await examined(config))[0] == 0
        server.kill()
        status, found = await examined(config)
        assert status == 1
        assert found[("cache", "unavailable")]["severity"] == "error"
        await server.start()


async def test_the_dev_authenticator_off_loopback(tmp_path: Path) -> None:
    status, found = await examined(configure(tmp_path, server={"host": "0.0.0.0"}))
    assert status == 1
    assert "lets anybody in" in found[("auth", "refused")]["says"]
    assert "server.host" in found[("auth", "refused")]["remedy"]


async def test_the_memory_cache_says_what_is_wrong_with_its_files(tmp_path: Path) -> None:
    _, found = await examined(configure(tmp_path, cache={"use": "memory", "options": {"journal": False}}))
    assert found[("cache", "no-journal")]["severity"] == "warning"
    config = configure(tmp_path)
    async with serving(config):
        (config.data_dir / "cache" / "journal.1.torn-17").write_bytes(b"half")
        _, found = await examined(config)
    assert "journal.1.torn-17" in found[("cache", "torn")]["says"]


async def test_sqlite_says_which_rows_are_damaged(tmp_path: Path) -> None:
    config = configure(tmp_path, drafts=AT_ONCE)
    async with serving(config) as server, Device(server.url) as device:
        await device.sync()
        await say(device, "one", "m1", doc("hello"))
        await device.event("message_update", lambda event: event["status"] == "delivered")
    shutil.rmtree(config.data_dir / "cache")
    with sqlite3.connect(config.data_dir / "store.sqlite") as file:
        assert file.execute("UPDATE chats SET version = 'abc'").rowcount == 1
    file.close()
    async with serving(config) as server:
        assert ("persistence", "damaged-rows") not in (await examined(config))[1]
        async with Device(server.url) as device:
            await device.sync()
        status, found = await examined(config)
    assert status == 1
    assert "1 damaged rows" in found[("persistence", "damaged-rows")]["says"]


async def test_what_is_parked_is_found_and_so_is_what_waits_for_nobody(tmp_path: Path) -> None:
    config = configure(tmp_path, drafts=AT_ONCE, plugins=[ailing("parks")])
    async with serving(config) as server, Device(server.url) as device:
        await device.sync()
        await begin(device, "one", doc("hello"))

        async def parked() -> bool:
            return ("outbox", "dead-letters") in (await examined(config))[1]

        await until(parked)
        status, found = await examined(config)
        assert status == 1
        assert "1 entries are parked for ailing" in found[("outbox", "dead-letters")]["says"]
        assert ("outbox", "position-gone") not in found
    _, found = await examined(configure(tmp_path))
    assert found[("outbox", "position-gone")]["remedy"].startswith("sidecar plugins forget ailing")


# -- Redis -------------------------------------------------------------------------------------------------------------


def _redis(folder: Path, url: str) -> Config:
    return configure(folder, cache={"use": "redis", "options": {"url": url, "shards": 1}})


async def test_redis_without_files_and_limit(tmp_path: Path, start_redis: StartRedis) -> None:
    server = await start_redis()
    _, found = await examined(_redis(tmp_path, server.url))
    assert found[("cache", "persistence")]["severity"] == "warning"
    assert found[("cache", "memory-unlimited")]["severity"] == "note"


async def test_redis_that_is_as_it_should_be(tmp_path: Path, start_redis: StartRedis) -> None:
    server = await start_redis(appendonly=True, appendfsync="everysec", maxmemory="100mb")
    status, found = await examined(_redis(tmp_path, server.url))
    assert status == 0
    assert not [code for part, code in found if part == "cache"]


@pytest.mark.parametrize(
    ("setting", "value", "code", "severity"),
    [
        ("appendfsync", "no", "fsync", "warning"),
        ("maxmemory", "1200000", "memory", "warning"),
        ("maxmemory_policy", "allkeys-lru", "refused", "error"),
    ],
)
async def test_redis_with_a_setting_that_is_wrong(
    tmp_path: Path, start_redis: StartRedis, setting: str, value: str, code: str, severity: str
) -> None:
    right = {"appendonly": True, "appendfsync": "everysec", "maxmemory": "100mb"}
    server = await start_redis(**{**right, setting: value})
    _, found = await examined(_redis(tmp_path, server.url))
    assert found[("cache", code)]["severity"] == severity


async def test_redis_that_was_set_wrong_while_the_sidecar_runs(tmp_path: Path, start_redis: StartRedis) -> None:
    server = await start_redis(maxmemory="100mb")
    config = _redis(tmp_path, server.url)
    async with serving(config):
        await server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        status, found = await examined(config)
    assert status == 1
    assert found[("cache", "eviction")]["severity"] == "error"


async def test_redis_that_could_not_save(tmp_path: Path, start_redis: StartRedis) -> None:
    server = await start_redis(appendonly=True, maxmemory="100mb")
    (server.folder / "dump.rdb").mkdir()  # what it writes anew cannot take its place
    await server.cli("BGSAVE")

    async def failed() -> bool:
        return str((await server.info("persistence"))["rdb_last_bgsave_status"]) != "ok"

    await until(failed)
    _, found = await examined(_redis(tmp_path, server.url))
    assert found[("cache", "saving")]["severity"] == "error"


async def test_redis_that_is_far_away(tmp_path: Path, redis_server: RedisServer) -> None:
    async with FaultProxy(redis_server.address) as proxy:
        proxy.slow(0.02)
        _, found = await examined(_redis(tmp_path, f"redis://{proxy.host}:{proxy.port}"))
    assert found[("cache", "slow")]["severity"] == "warning"


async def test_redis_with_another_time(tmp_path: Path, redis_server: RedisServer, faketime: str) -> None:
    config = _redis(tmp_path, redis_server.url)
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "doctor", "--config", str(config.file), "--json"),
        env={**os.environ, "LD_PRELOAD": faketime, "FAKETIME": "-20"},
        stdout=asyncio.subprocess.PIPE,
    )
    shown, _ = await asking.communicate()
    [clock] = [each for each in json.loads(shown)["findings"] if each["code"] == "clock"]
    assert (clock["part"], clock["severity"]) == ("cache", "warning")
    assert "s ahead of this host's" in clock["says"]


async def test_redis_that_is_asked_in_the_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plugins.cache.redis_findings import _way

    assert [finding.code for finding in _way("redis://redis.example.com")] == ["plain", "password"]
    assert [finding.code for finding in _way("rediss://:secret@redis.example.com")] == []
    assert [finding.code for finding in _way("redis://127.0.0.1:6379")] == []
    assert [finding.code for finding in _way("unix:///run/redis.sock")] == []


# -- Vault -------------------------------------------------------------------------------------------------------------


def _closed(config: Config) -> Config:
    """The file has secrets: it is nobody else's."""
    assert config.file is not None
    config.file.chmod(0o600)
    return config


async def test_vault_that_is_as_it_should_be(tmp_path: Path, start_vault: StartVault) -> None:
    vault = await start_vault()
    await vault.audit()
    config = _closed(configure(tmp_path, encryption=keys_in(vault, await role(vault))))
    async with serving(config):
        status, found = await examined(config)
    assert status == 0, found
    assert not [code for part, code in found if part == "encryption"]


@pytest.mark.parametrize("serves", [True, False])
async def test_vault_that_is_sealed_or_away(tmp_path: Path, start_vault: StartVault, serves: bool) -> None:
    vault = await start_vault()
    config = configure(tmp_path, encryption=keys_in(vault, await role(vault)))
    async with AsyncExitStack() as running:
        if serves:
            await running.enter_async_context(serving(config))
        await vault.seal()
        status, found = await examined(config)
        assert status == 1
        [told] = [each for (part, _), each in found.items() if part == "encryption" and each["severity"] == "error"]
        assert "sealed" in told["says"]
        vault.kill()
        status, found = await examined(config)
        assert status == 1
        [told] = [each for (part, _), each in found.items() if part == "encryption" and each["severity"] == "error"]
        assert "Vault" in told["says"]
        assert vault.root_token not in str(found)


async def test_vault_as_root(tmp_path: Path, vault_server: Vault) -> None:
    options = {
        "url": vault_server.url,
        "mount": vault_server.mount,
        "auth": {"token": {"value": vault_server.root_token}},
    }
    status, found = await examined(_closed(configure(tmp_path, encryption={"use": "vault", "options": options})))
    assert status == 0
    assert found[("encryption", "root")]["severity"] == "warning"
    assert vault_server.root_token not in str(found)


# -- how it is shown ---------------------------------------------------------------------------------------------------


def test_people_read_a_line_and_what_mends_it(tmp_path: Path) -> None:
    status, shown, _ = run(configure(tmp_path, plugins=[ailing("finding")]))
    lines = shown.splitlines()
    assert status == 1
    assert lines[:2] == ["error: ailing: its index is old", "  build it anew"], "the worst first"
    assert lines[-1].startswith("1 error, ")


def test_a_configuration_that_is_wrong_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text("server: {prot: 1}\n")
    outcome = CliRunner().invoke(app, ["doctor", "--config", str(path)])
    assert outcome.exit_code == 2
    assert "server.prot" in outcome.stderr
