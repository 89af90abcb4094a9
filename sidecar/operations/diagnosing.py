"""`doctor`: every part is asked what is wrong with it, and the configuration and this host are looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

from sidecar.config import Config
from sidecar.errors import SidecarError, StartRefused
from sidecar.findings import SEVERITIES, Finding
from sidecar.loaded_plugin import LoadedPlugin, finding_of
from sidecar.opening_parts import make_data_dir
from sidecar.operations.arguments import Arguments
from sidecar.operations.config_findings import config_findings
from sidecar.operations.host_findings import host_findings
from sidecar.operations.lines import Line, result, row
from sidecar.operations.outbox_findings import outbox_findings
from sidecar.operations.work import Work
from sidecar.parts import utc_now
from sidecar.plugins_loading import load
from sidecar.slots.cache import Cache

Said = tuple[str, Finding]
"""Which part, and what of it."""


async def diagnose(work: Work, _: Arguments) -> AsyncGenerator[Line, None]:
    """Rows, the worst first: `part`, `severity`, `code`, `says`, `remedy`. The result counts them: `errors`, `warnings`, `notes`."""
    plugins = work.plugins.loaded
    said = [*_own(work.config)]
    for part, found in zip(plugins, await asyncio.gather(*map(_asked, plugins)), strict=True):
        said += [(part.entry.slot or part.name, finding) for finding in found]
    said += await _outbox(work.parts.cache, [listener.name for listener in work.plugins.listeners])
    for line in _lines(work.config, said):
        yield line


async def diagnose_alone(config: Config) -> AsyncGenerator[Line, None]:
    """The same where nothing serves: each part is opened by itself and closed again, so that one that does not open hides no other.

    Raises `ConfigError`.
    """
    plugins = load(config.plugin_entries(), config.surroundings(), config.search_paths)
    said = [*_own(config)]
    try:
        make_data_dir(config)
    except StartRefused as error:
        said.append(("data_dir", finding_of(error)))
    listening = [listener.name for listener in plugins.listeners]
    for plugin in plugins.loaded:
        said += await _opened(plugin, listening)
    for line in _lines(config, said):
        yield line


def _own(config: Config) -> Iterator[Said]:
    yield from (("configuration", finding) for finding in config_findings(config))
    yield from (("host", finding) for finding in host_findings(config))


async def _opened(plugin: LoadedPlugin, listening: Sequence[str]) -> Sequence[Said]:
    part = plugin.entry.slot or plugin.name
    try:
        await plugin.enter()
    except SidecarError as error:
        return [(part, finding_of(error))]
    try:
        said = [(part, finding) for finding in await _asked(plugin)]
        if plugin.entry.slot == "cache":
            cache = await plugin.provide("provide_cache")
            if isinstance(cache, Cache):
                said += await _outbox(cache, listening)
        return said
    except SidecarError as error:
        return [(part, finding_of(error))]
    finally:
        await plugin.leave()


async def _asked(plugin: LoadedPlugin) -> Sequence[Finding]:
    found = [*await plugin.findings()]
    if any(finding.severity == "error" for finding in found):
        return found
    # What it says of itself all the time, where its findings do not say it better.
    state = await plugin.state()
    if isinstance(state, Mapping) and (state.get("ok") is False or state.get("state", "ok") != "ok"):
        why = state.get("reason") or state.get("state") or "it says so"
        remedy = "see what its server and the log of the sidecar say"
        found.append(Finding("state", "error", f"it cannot serve: {why}", remedy))
    return found


async def _outbox(cache: Cache, listening: Sequence[str]) -> Sequence[Said]:
    try:
        positions = await cache.outbox.positions()
    except SidecarError:
        return []  # the cache itself was asked, and said so
    return [("outbox", finding) for finding in outbox_findings(positions, listening, utc_now())]


def _lines(config: Config, said: Sequence[Said]) -> Iterator[Line]:
    # Two plugins of one server say the same of it.
    said = list({finding: (part, finding) for part, finding in reversed(said)}.values())[::-1]
    for part, finding in sorted(said, key=lambda each: SEVERITIES.index(each[1].severity)):
        yield row(
            part=part,
            severity=finding.severity,
            code=finding.code,
            says=config.redact(" ".join(finding.says.split())),
            remedy=config.redact(" ".join(finding.remedy.split())),
        )
    counts = {f"{severity}s": sum(finding.severity == severity for _, finding in said) for severity in SEVERITIES}
    yield result(**counts)
