"""What the tests of several sidecars may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.fleet import Fleet
from tests.services.redis_server import RedisServer


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer) -> Fleet:
    """Sidecars that share `redis_server`: `async with fleet.serving(2) as (one, other)`."""
    return Fleet(tmp_path, {"use": "redis", "options": {"url": redis_server.url}})
