"""The fixtures of the real Vault, for `tests/conftest.py`.

The shared one is started once per pytest worker, by the first test that wants it, and each test finds an engine of its own in it.
What a test does to a Vault itself (kill, pause, seal, audit devices) it does to one of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.services.programs import Missing
from tests.services.several import several
from tests.services.vault.given import GivenVault
from tests.services.vault.programs import find_vault
from tests.services.vault.vault import Vault
from tests.services.vault.vault_server import VaultServer

StartVault = Callable[..., Awaitable[VaultServer]]


@pytest.fixture(scope="session")
def _vault_program() -> None:
    """Skips by name where there is no Vault to start; with CI=true that is a failure."""
    try:
        find_vault()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _shared_vault(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Vault]:
    given = GivenVault.named()
    if given is None:
        request.getfixturevalue("_vault_program")
        async with VaultServer(tmp_path_factory.mktemp("vault"), kept=False) as server:
            yield server
        return
    async with AsyncExitStack() as serving:
        try:
            vault = await serving.enter_async_context(given)
        except Missing as missing:
            pytest.skip(str(missing))
        yield vault


@pytest.fixture
async def vault_server(_shared_vault: Vault) -> AsyncIterator[Vault]:
    """A Vault with an empty KV v2 engine, that this test shares with those before and after it. Nothing of it is kept on disk."""
    await _shared_vault.clean()
    before = await _made(_shared_vault)
    yield _shared_vault
    await _shared_vault.clean()
    assert await _made(_shared_vault) == before, (
        "a test that makes engines by a client wants a Vault of its own: start_vault"
    )


async def _made(vault: Vault) -> dict[str, list[str]]:
    """What is there beside what a test made through `vault`."""
    found = {}
    for kind in ("sys/mounts", "sys/auth", "sys/audit"):
        told = await vault.read(kind)
        assert told is not None
        found[kind] = sorted(told["data"])
    return found | {"policies": await vault.names("sys/policies/acl")}


@pytest.fixture
async def start_vault(_vault_program: None, tmp_path: Path) -> AsyncIterator[StartVault]:
    """Starts Vaults of the test's own: `vault = await start_vault()`, with kept storage, `start_vault(kept=False)`, or
    `start_vault(standby=True)`."""
    async with several(VaultServer, tmp_path / "vault") as start:

        async def start_or_skip(**options: Any) -> VaultServer:
            try:
                return await start(**options)
            except Missing as missing:
                pytest.skip(str(missing))

        yield start_or_skip
