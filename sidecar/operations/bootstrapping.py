"""`sidecar bootstrap`: every plugin makes what it needs where that is missing (config *Commands*).

The plugins are not entered, for what they would refuse to start without is what is made here. Only the cache is: a lease in
it keeps a second bootstrap of the same deployment out, from whichever host.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sidecar.config import Config
from sidecar.errors import SidecarError, Unavailable
from sidecar.holding import holding
from sidecar.opening_parts import make_data_dir
from sidecar.operations.lines import OperationRefused
from sidecar.plugins import Plugins
from sidecar.plugins_loading import load
from sidecar.slots.cache import Leases

_LEASE = "bootstrap"
_LEASE_SECONDS = 60.0
_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Made:
    """What one plugin made, or with `dry_run` would make; `error` says what kept it from more."""

    plugin: str
    steps: Sequence[str]
    error: str | None = None


async def bootstrap(config: Config, *, dry_run: bool, patience: float = 60.0) -> Sequence[Made]:
    """Asks every plugin that has a `bootstrap`, one after the other in the order of the YAML; one that fails stops no other.

    Another bootstrap that is under way is waited for, `patience` seconds at most. Raises `ConfigError`, `StartRefused`,
    `Unavailable` and `OperationRefused` where nothing was begun.
    """
    plugins = load(config.plugin_entries(), config.surroundings(), config.search_paths)
    if not any(plugin.bootstraps for plugin in plugins.loaded):
        return []
    if dry_run:
        return await _each(plugins, dry_run=True)
    make_data_dir(config)
    async with plugins.cache_alone() as cache, _alone(cache.leases, patience):
        return await _each(plugins, dry_run=False)


async def _each(plugins: Plugins, *, dry_run: bool) -> Sequence[Made]:
    made: list[Made] = []
    for plugin in plugins.loaded:
        if not plugin.bootstraps:
            continue
        name = plugin.entry.slot or plugin.name
        try:
            steps = await plugin.bootstrap(dry_run)
            # What two plugins need, as an account in one server, the second would find made.
            before = {step for each in made for step in each.steps} if dry_run else ()
            made.append(Made(name, [step for step in steps if step not in before]))
        except SidecarError as error:
            made.append(Made(name, (), _said(error, name)))
    return made


def _said(error: SidecarError, name: str) -> str:
    # Whose it is, is said before it.
    if isinstance(error, Unavailable) and error.part == name and error.reason:
        return error.reason
    return str(error).removeprefix(f"{name}: ")


@asynccontextmanager
async def _alone(leases: Leases, patience: float) -> AsyncIterator[None]:
    holder = f"{os.getpid()}-{secrets.token_hex(6)}"
    end = asyncio.get_running_loop().time() + patience
    while (lease := await leases.take(_LEASE, holder, _LEASE_SECONDS)) is None:
        if asyncio.get_running_loop().time() >= end:
            raise OperationRefused(
                "another bootstrap is under way", "wait for it; one that was killed is out of the way within a minute"
            )
        await asyncio.sleep(_AGAIN_SECONDS)
    async with holding(leases, lease, _LEASE_SECONDS):
        yield
