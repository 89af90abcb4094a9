"""What every test may use: a sidecar with the embedded plugins, in this process, on a port of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from sidecar.config import Config, read
from sidecar.server.running import Server, serving
from tests.services.redis_server import RedisServer

pytest_plugins = ["tests.services.fixtures", "tests.services.vault.fixtures"]

# How long an example takes is the machine's business, which others may be at work on.
settings.register_profile("sidecar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sidecar")

NOT_PROMISED = "not promised"
"""How the reason of a skip begins where a contract asks for what this plugin does not promise."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true a test that was skipped for want of something has failed: CI is where everything is to be had."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if NOT_PROMISED not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped in CI: {reason}"
    return report


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "caches(*names): the caches, `memory` or `redis`, with which `serve` serves in this test, one by one"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test runs once for each cache that it, or else its module, is marked with."""
    marker = metafunc.definition.get_closest_marker("caches")
    if marker is not None and marker.args != ("memory",) and "cache_section" in metafunc.fixturenames:
        metafunc.parametrize("cache_section", marker.args, indirect=True)


Serve = Callable[..., AbstractAsyncContextManager[Server]]


def configure(folder: Path, **sections: Any) -> Config:
    """The embedded configuration with its files in `folder`, any free port, and these sections on top."""
    sections.setdefault("server", {})
    sections["server"] = {"port": 0, "drain": "100ms", **sections["server"]}
    path = folder / "sidecar.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(folder / "data"), **sections}))
    return read(path, environment={})


@pytest.fixture
def cache_section(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """The section `cache` with which this test serves, unless it says another: memory, or as `caches` has it."""
    name = getattr(request, "param", "memory")
    if name == "memory":
        return {"use": "memory"}
    server: RedisServer = request.getfixturevalue("redis_server")
    # More than one shard, so that they are shared out, and few, so that a start is quick.
    return {"use": name, "options": {"url": server.url, "shards": 4}}


@pytest.fixture
def serve(tmp_path: Path, cache_section: Mapping[str, Any]) -> Serve:
    """Serves on `tmp_path`: `async with serve(limits={…}) as server`. Again after it was left is a restart with its files."""

    @asynccontextmanager
    async def run(**sections: Any) -> AsyncIterator[Server]:
        sections.setdefault("cache", dict(cache_section))
        async with serving(configure(tmp_path, **sections)) as server:
            yield server

    return run


WipeCache = Callable[[], Awaitable[None]]


@pytest.fixture
def wipe_cache(tmp_path: Path, cache_section: Mapping[str, Any], request: pytest.FixtureRequest) -> WipeCache:
    """Everything is gone that the cache has of anybody: `await wipe_cache()`; with memory only while nothing serves."""
    redis: RedisServer | None = request.getfixturevalue("redis_server") if cache_section["use"] == "redis" else None

    async def wipe() -> None:
        if redis is not None:
            await redis.cli("FLUSHALL", "SYNC")
        else:
            shutil.rmtree(tmp_path / "data" / "cache")

    return wipe


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Server]:
    """A sidecar with the embedded defaults."""
    async with serve() as running:
        yield running
