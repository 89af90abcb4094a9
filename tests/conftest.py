"""What every test may use: a sidecar with the embedded plugins, in this process, on a port of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config import Config, read
from sidecar.server.running import Server, serving

pytest_plugins = ["tests.services.fixtures"]

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


Serve = Callable[..., AbstractAsyncContextManager[Server]]


def configure(folder: Path, **sections: Any) -> Config:
    """The embedded configuration with its files in `folder`, any free port, and these sections on top."""
    sections.setdefault("server", {})
    sections["server"] = {"port": 0, "drain": "100ms", **sections["server"]}
    path = folder / "sidecar.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(folder / "data"), **sections}))
    return read(path, environment={})


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serves on `tmp_path`: `async with serve(limits={…}) as server`. Again after it was left is a restart with its files."""

    @asynccontextmanager
    async def run(**sections: Any) -> AsyncIterator[Server]:
        async with serving(configure(tmp_path, **sections)) as server:
            yield server

    return run


@pytest.fixture
async def server(serve: Serve) -> AsyncIterator[Server]:
    """A sidecar with the embedded defaults."""
    async with serve() as running:
        yield running
