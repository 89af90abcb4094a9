"""`sidecar bootstrap` with any plugin: dry runs, repetition, two at once, failures."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.config import Config
from sidecar.errors import StartRefused
from sidecar.operations.bootstrapping import bootstrap
from sidecar.operations.lines import OperationRefused
from sidecar.server.running import serving
from tests.conftest import configure
from tests.integration.world import until
from tests.services.redis_server import RedisServer


def making(folder: Path, **options: Any) -> dict[str, Any]:
    return {"use": "tests.plugins.making:Making", "name": "making", "options": {"folder": str(folder), **options}}


def shared(redis: RedisServer) -> dict[str, Any]:
    return {"use": "redis", "options": {"url": redis.url, "shards": 4}}


def run(config: Config, *arguments: str) -> tuple[int, str, str]:
    outcome = CliRunner().invoke(app, ["bootstrap", "--config", str(config.file), *arguments])
    return outcome.exit_code, outcome.stdout, outcome.stderr


async def test_it_makes_what_is_missing_and_then_the_sidecar_starts(tmp_path: Path) -> None:
    config = configure(tmp_path, plugins=[making(tmp_path / "made")])
    with pytest.raises(StartRefused, match="sidecar bootstrap"):
        async with serving(config):
            pass
    [made] = await bootstrap(config, dry_run=False)
    assert (made.plugin, made.steps, made.error) == ("making", ["folder one", "folder two"], None)
    async with serving(config):
        pass
    [again] = await bootstrap(config, dry_run=False)
    assert again.steps == [], "what is there stays as it is"


def test_a_dry_run_prints_the_plan_and_makes_nothing(tmp_path: Path) -> None:
    config = configure(tmp_path, plugins=[making(tmp_path / "made")])
    assert run(config, "--dry-run") == (0, "making: folder one\nmaking: folder two\n", "")
    assert not (tmp_path / "made").exists()
    assert not config.data_dir.exists(), "not even its own folder"
    status, shown, _ = run(config, "--json")
    plugins = [{"name": "making", "steps": ["folder one", "folder two"], "error": None}]
    assert (status, json.loads(shown)) == (0, {"ok": True, "dry_run": False, "plugins": plugins})
    assert (tmp_path / "made" / "two").is_dir()
    assert run(config) == (0, "nothing is missing\n", "")


def test_what_two_plugins_need_stands_in_the_plan_once(tmp_path: Path) -> None:
    both = [making(tmp_path / "made"), {**making(tmp_path / "made", names=["two", "three"]), "name": "other"}]
    config = configure(tmp_path, plugins=both)
    planned = run(config, "--dry-run")
    assert planned == (0, "making: folder one\nmaking: folder two\nother: folder three\n", "")
    assert run(config) == planned


def test_plugins_that_need_nothing_are_not_asked(tmp_path: Path) -> None:
    assert run(configure(tmp_path)) == (0, "nothing is missing\n", "")


@pytest.mark.parametrize(
    ("fails", "says"),
    [("refuse", "is a file; move it away"), ("raise", "bootstrap failed: ValueError at"), ("answer", "list of lines")],
)
def test_one_that_fails_is_named_stops_no_other_and_ends_it_with_1(tmp_path: Path, fails: str, says: str) -> None:
    first = {**making(tmp_path / "first", fails=fails), "name": "first"}
    config = configure(tmp_path, plugins=[first, making(tmp_path / "made")])
    status, shown, complained = run(config)
    assert (status, shown) == (1, "making: folder one\nmaking: folder two\n")
    assert complained.startswith("sidecar: first: ")
    assert says in complained
    assert "password" not in complained
    status, shown, _ = run(config, "--json")
    said = json.loads(shown)
    assert (status, said["ok"], said["plugins"][0]["steps"]) == (1, False, [])
    assert says in said["plugins"][0]["error"]


async def test_two_at_once_come_one_after_the_other(tmp_path: Path, redis_server: RedisServer) -> None:
    """As the containers of two hosts, each with files of its own, that share a cache."""
    configs = []
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        plugin = making(tmp_path / "made", seconds=0.3)
        configs.append(configure(tmp_path / host, cache=shared(redis_server), plugins=[plugin]))
    started = time.monotonic()
    both = await asyncio.gather(*(bootstrap(config, dry_run=False) for config in configs))
    assert sorted(len(made.steps) for [made] in both) == [0, 2], "the second found everything there"
    assert time.monotonic() - started >= 0.6


async def test_one_that_is_under_way_is_waited_for_and_then_named(tmp_path: Path, redis_server: RedisServer) -> None:
    config = configure(tmp_path, cache=shared(redis_server), plugins=[making(tmp_path / "made", seconds=1.0)])
    first = asyncio.create_task(bootstrap(config, dry_run=False))

    async def under_way() -> bool:
        return bool(await redis_server.cli("KEYS", "*lease:bootstrap"))

    await until(under_way)
    with pytest.raises(OperationRefused, match="under way"):
        await bootstrap(config, dry_run=False, patience=0.2)
    [made] = await first
    assert len(made.steps) == 2
    [again] = await bootstrap(config, dry_run=False, patience=0.2)
    assert again.steps == [], "its place was given back"


async def test_without_its_cache_nothing_is_begun(tmp_path: Path) -> None:
    away = {"use": "redis", "options": {"url": "redis://127.0.0.1:9/0", "timeout": "200ms"}}
    config = configure(tmp_path, cache=away, plugins=[making(tmp_path / "made")])
    status, _, complained = await asyncio.to_thread(run, config)
    assert status == 1
    assert "cache is unavailable" in complained
    assert not (tmp_path / "made").exists()
