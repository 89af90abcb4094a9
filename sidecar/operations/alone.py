"""One command with no running server: the parts are opened for it and closed after it."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing

from sidecar.config import Config
from sidecar.connections import Registry
from sidecar.metrics import Metrics
from sidecar.opening_parts import open_parts
from sidecar.operations.commands import DESTRUCTIVE, perform
from sidecar.operations.diagnosing import diagnose_alone
from sidecar.operations.lines import Line
from sidecar.operations.work import Live
from sidecar.outbox import OutboxWorker

_PATIENCE = 10.0
"""Seconds for deliveries; what is left stays in the outbox for the next start."""


async def run(config: Config, command: str, arguments: Mapping[str, object]) -> AsyncGenerator[Line, None]:
    """Opens the parts, carries out one command, closes them, and only then yields its last line.

    Raises `ConfigError`, `StartRefused` and `Unavailable` when the parts cannot be opened: a cache or store that only one
    process can have is refused while a sidecar runs that does not answer on its socket.
    """
    if command == "doctor":
        # A part that does not open is what it is asked for.
        async with aclosing(diagnose_alone(config)) as found:
            async for line in found:
                yield line
        return
    last: Line | None = None
    async with AsyncExitStack() as stack:
        plugins, parts = await stack.enter_async_context(open_parts(config, Metrics()))
        live = None
        if command in DESTRUCTIVE:
            # Without listeners an entry would reach nobody; and what is made due here should go out here.
            holder = f"{os.getpid()}-{secrets.token_hex(6)}"
            worker = await stack.enter_async_context(OutboxWorker(parts, plugins.listeners, holder))
            live = Live(Registry(), worker, _PATIENCE)
        lines = await stack.enter_async_context(aclosing(perform(config, plugins, parts, command, arguments, live)))
        async for line in lines:
            if last is not None:
                yield last
            last = line
    if last is not None:
        yield last
