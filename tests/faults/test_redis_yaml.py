"""`config/redis.yaml` as it stands in the repository, against a Redis of the tests: two workers, one service (semantics §10)."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import yaml

from plugins.cache.redis import Redis
from tests.device import doc
from tests.integration.workers import close, get, spread
from tests.integration.world import begin, of_chat, rows, say, until
from tests.process import SidecarProcess
from tests.services.cluster import RedisCluster
from tests.services.redis_server import RedisServer

FILE = Path(__file__).parent.parent.parent / "config" / "redis.yaml"


class AsItIs(SidecarProcess):
    """The file itself, and what the environment changes: where Redis is, where its own files go, which port it takes."""

    def __init__(
        self,
        folder: Path,
        redis: RedisServer | RedisCluster,
        file: Path = FILE,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        variables = {
            "SIDECAR_CACHE__OPTIONS__URL": redis.url,
            "SIDECAR_DATA_DIR": str(folder / "data"),
            "SIDECAR_SERVER__PORT": "0",
            "SIDECAR_LOGGING__FORMAT": "json",
            **environment,
        }
        super().__init__(folder, environment=variables)
        self.config = file


@asynccontextmanager
async def as_it_is(
    folder: Path,
    redis: RedisServer | RedisCluster,
    file: Path = FILE,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[AsItIs]:
    async with AsItIs(folder, redis, file, environment) as process:
        assert len(process.workers()) == yaml.safe_load(FILE.read_text())["server"]["workers"] == 2
        yield process


def all_said(folder: Path, **values: str) -> Path:
    """The file with every option that it mentions in a comment, some of them with these values."""
    text = re.sub(r"^( +)# (\w+): +([^ \n]+)( .*)?$", r"\1\2: \3", FILE.read_text(), flags=re.MULTILINE)
    for name, value in values.items():
        text, count = re.subn(rf"^( +{name}:) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        assert count == 1, name
    said = yaml.safe_load(text)["cache"]["options"].keys()
    assert said == Redis.Options.model_fields.keys(), "the file mentions every option"
    path = folder / "redis.yaml"
    path.write_text(text)
    return path


async def test_redis_yaml_serves_two_devices_on_two_workers(tmp_path: Path, redis_server: RedisServer) -> None:
    """S55, F35: they see each other; a worker is killed and replaced, its device comes back and goes on by its cursor."""
    await _serves(tmp_path, redis_server)


async def test_redis_yaml_with_every_option_serves_on_a_cluster(tmp_path: Path, redis_cluster: RedisCluster) -> None:
    """The same with `cluster: true` and whatever else stands there in comments."""
    await _serves(tmp_path, redis_cluster, all_said(tmp_path))


async def test_redis_yaml_with_every_option_serves_on_one_server(tmp_path: Path, redis_server: RedisServer) -> None:
    await _serves(tmp_path, redis_server, all_said(tmp_path, cluster="false", shards="7", prefix="other.project"))


async def _serves(tmp_path: Path, redis: RedisServer | RedisCluster, file: Path = FILE) -> None:
    async with as_it_is(tmp_path, redis, file) as process:
        found = await spread(process, name="alice")
        [one], [other] = found.values()
        for device in (one, other):
            await device.sync()
        await begin(one, "c1", doc("first"))
        assert (await other.event("chat_added"))["chat"]["draft"] == doc("first")
        said = await say(other, "c1", "m1", doc("said"), draftVersion=1)
        assert said["consumed"]
        assert (await one.event("message_new"))["message"]["content"] == doc("said")
        for device in (one, other):
            assert (await device.event("message_update"))["status"] == "delivered"
        assert [row[0] for row in rows(tmp_path, "SELECT client_message_id FROM messages")] == ["m1"]
        cursor = (await one.sync())[-1]["cursor"]
        before = {each.pid for each in process.workers()}
        [killed] = [pid for pid, devices in found.items() if one in devices]
        os.kill(killed, signal.SIGKILL)
        assert await one.closed() == 1006
        edit = {"chatId": "c1", "content": doc("meanwhile"), "basedOnVersion": 2}
        assert (await other.ask("draft_update", edit))["type"] == "draft_updated"
        await one.close()
        await one.open()
        [delta] = await one.sync(cursor=cursor)
        assert [chat["draft"] for chat in delta["chats"]] == [doc("meanwhile")]
        await until(lambda: len({each.pid for each in process.workers()} - before) == 1)
        await until(lambda: _up(process, "1.0", "1.0"), 30)
        await close(found)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        assert "Traceback" not in process.log.read_text()


async def test_redis_yaml_is_looked_after_through_any_worker(tmp_path: Path, redis_server: RedisServer) -> None:
    """`/metrics` tells of each worker, `users disconnect` reaches both, `dead-letters` are found and replayed by either."""
    stubborn = {"SIDECAR_PERSISTENCE__USE": "tests.plugins.stubborn_store:Stubborn"}
    async with as_it_is(tmp_path, redis_server, environment=stubborn) as process:
        refuse = tmp_path / "data" / "refuse"
        found = await spread(process, name="alice")
        await until(lambda: _up(process, "1.0", "1.0"), 30)
        text = (await get(process, "/metrics"))[1]
        connections = dict(re.findall(r'^sidecar_connections\{worker="(\d)"\} (\S+)$', text, re.MULTILINE))
        assert connections == {"1": "1.0", "2": "1.0"}
        refuse.touch()
        for number, [device] in enumerate(found.values()):
            await say(device, f"c{number}", "m1", doc("said"))
            chat = of_chat(device.full(f"c{number}"))
            assert (await device.event("message_update", chat))["status"] == "error"
        letters = await process.command("dead-letters", "list")
        assert sorted(letter["chat"].partition("_")[2] for letter in letters) == ["c0", "c1"]
        refuse.unlink()
        for worker in process.workers():  # while one sleeps the other takes the command
            worker.suspend()
            try:
                assert await process.command("dead-letters", "list") == letters
            finally:
                worker.resume()
        told = await process.command("dead-letters", "replay", "--all")
        assert (told["count"], told["parked"]) == (2, 0), told
        await until(lambda: len(rows(tmp_path, "SELECT 1 FROM messages")) == 2)
        assert await process.command("dead-letters", "list") == []
        assert await process.command("users", "disconnect", "--user", "alice") == {"count": 2, "left": 0}
        assert [await device.closed() for [device] in found.values()] == [4401, 4401]
        await close(found)


async def _up(process: SidecarProcess, *wanted: str) -> bool:
    text = (await get(process, "/metrics"))[1]
    return tuple(re.findall(r'^sidecar_worker_up\{worker="\d"\} (\S+)$', text, re.MULTILINE)) == wanted
