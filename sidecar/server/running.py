"""The sidecar's life: everything is opened here in order, and left in reverse.

With `server.workers` above 1 this is the life of each worker; the process that was started only supervises them.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar import logs
from sidecar.config import Config
from sidecar.connections import Registry
from sidecar.feed import Feeds
from sidecar.metrics import Metrics
from sidecar.opening_parts import open_parts
from sidecar.outbox import OutboxWorker
from sidecar.server.assignment import Assignment
from sidecar.server.context import Context
from sidecar.server.cut_off import watch_cache
from sidecar.server.door import serve_socket
from sidecar.server.handshake import Doorkeeper
from sidecar.server.health import Health
from sidecar.server.housekeeping import keep_house
from sidecar.server.listening import BACKLOG, Handshakes, bind, share, url_of
from sidecar.server.notices import Hooks
from sidecar.server.operators import operators_socket
from sidecar.server.reports import follow_ended, follow_met, follow_store
from sidecar.server.rereading import Reread
from sidecar.server.siblings import Siblings, answering_siblings
from sidecar.server.supervisor import supervise
from sidecar.watchdog import Watchdog

_YOUNG_OBJECTS = 50_000
"""Allocations between two looks of the garbage collector. Python's own 700 are seven drafts, and drafts make no cycles."""

_FLUSH_SECONDS = 5.0

log = structlog.get_logger("sidecar.server")


def run(config: Config, ready: Callable[[str], None], reread: Reread | None = None) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit status. `ready` is called with the URL once sockets are accepted.

    With `server.workers` above 1 it forks, and returns in every worker as well, with that worker's own exit status; `reread`
    reads the configuration anew when SIGHUP asks for it. Raises `ConfigError` and `StartRefused`.
    """
    _no_core_dumps()
    if config.server.workers == 1:
        return _on_a_loop(_serve(config, ready))
    outcome = supervise(config, ready, reread)
    return outcome if isinstance(outcome, int) else _on_a_loop(_work(outcome))


def _on_a_loop(life: Coroutine[Any, Any, int]) -> int:
    if sys.platform == "win32":
        return asyncio.run(life)
    import uvloop  # noqa: PLC0415  # not to be had on Windows

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(life)


def _no_core_dumps() -> None:
    """A dump of this process would hold keys and texts (threats T37). CPython cannot promise to wipe them."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):
        log.warning("core_dumps_stay_on")


async def _serve(config: Config, ready: Callable[[str], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(config) as server:
        ready(server.url)
        await stop.wait()
        log.info("stopping", connections=len(server.context.registry))
        await server.drain()
    return 0


async def _work(assignment: Assignment) -> int:
    """One of several: it goes when its supervisor says so."""
    config, line = assignment.config, assignment.line
    logs.configure(config.logging.level, config.logging.format, redact=config.redact, worker=str(assignment.number))
    async with line, serving(config, assignment) as server:
        line.ready()
        await line.quiet.wait()
        server.stop_accepting()
        await line.stop.wait()
        log.info("stopping", connections=len(server.context.registry))
        # Who goes on delivers what is due, and would be waited for in vain: it has new work all the time.
        await server.drain(flush=line.last)
    return 0


class Server:
    """A sidecar that serves."""

    def __init__(self, context: Context, url: str, stop_accepting: Callable[[], None]) -> None:
        self.context = context
        self.url = url
        """`http://host:port`."""
        self._stop_accepting = stop_accepting

    def stop_accepting(self) -> None:
        """Lets nobody in any more; who is in goes on."""
        self.context.stopping = True
        self._stop_accepting()

    async def drain(self, *, flush: bool = True) -> None:
        """Stops accepting, closes the sockets with 1012 spread over `server.drain`, and lets what is due go out.

        `flush` False: others of this host go on with it.
        """
        context = self.context
        self.stop_accepting()
        for wire in list(context.opening):
            wire.close(1012, "the server restarts; reconnect")
        connections = list(context.registry)
        pause = context.config.server.drain / max(1, len(connections))
        for number, connection in enumerate(connections):
            connection.close(1012, "the server restarts; reconnect")
            if number + 1 < len(connections):
                await asyncio.sleep(min(pause, 0.5))
        try:
            async with asyncio.timeout(5.0):
                await context.registry.empty()
        except TimeoutError:
            log.warning("connections_left", connections=len(context.registry))
        if flush:
            await context.worker.flush(_FLUSH_SECONDS)
        else:
            await context.worker.hand_over(_FLUSH_SECONDS)


@asynccontextmanager
async def serving(config: Config, assignment: Assignment | None = None) -> AsyncIterator[Server]:
    """Everything opened, and sockets accepted; `assignment` as one of several workers."""
    async with AsyncExitStack() as stack:
        host, port = config.server.host, config.server.port
        # A worker listens when all is open: what it was dealt before would wait for it, and no other could take it.
        listener = bind(host, port) if assignment is None else share(host, assignment.port)
        stack.callback(listener.close)
        metrics = Metrics()
        plugins, parts = await stack.enter_async_context(open_parts(config, metrics))
        watchdog = await stack.enter_async_context(Watchdog(plugins.files))
        registry = Registry()
        feeds = await stack.enter_async_context(Feeds(parts, registry))
        holder = f"{os.getpid()}-{secrets.token_hex(6)}"
        worker = await stack.enter_async_context(OutboxWorker(parts, plugins.listeners, holder))
        feeds.on_entry = worker.wake
        context = Context(
            config=config,
            parts=parts,
            plugins=plugins,
            registry=registry,
            feeds=feeds,
            worker=worker,
            watchdog=watchdog,
            door=Doorkeeper(config.server.host, config.server.hosts, config.server.origins, config.server.cookie),
            digest_key=hashlib.sha256((config.pepper or "").encode()).digest(),
        )
        followers = (follow_ended(context), follow_store(context), follow_met(context))
        for follower in (keep_house(context), *followers, watch_cache(context)):
            task = asyncio.create_task(follower)
            stack.push_async_callback(_cancel, task)
        operators = assignment.operators if assignment is not None else None
        close_desk = await stack.enter_async_context(operators_socket(context, operators))
        siblings = None
        if assignment is not None:
            siblings = Siblings(assignment, metrics.registry)
            await stack.enter_async_context(answering_siblings(siblings))
        url = url_of(listener)
        close_door = await _listen(context, stack, listener, assignment, siblings)

        def stop_accepting() -> None:
            close_door()
            if assignment is not None:
                close_desk()  # another worker takes the command, and is not about to go

        gc.collect()
        gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
        gc.freeze()  # what the start made lives as long as the process: no collection need look at it again
        try:
            yield Server(context, url, stop_accepting)
        finally:
            for task in list(context.tasks):
                task.cancel()
            await asyncio.gather(*context.tasks, return_exceptions=True)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _listen(
    context: Context,
    stack: AsyncExitStack,
    listener: socket.socket,
    assignment: Assignment | None,
    siblings: Siblings | None,
) -> Callable[[], None]:
    health = Health(context, siblings)

    async def metrics(_: web.Request) -> web.Response:
        return await health.metrics_response()

    routes = [
        web.get("/ws", partial(serve_socket, context), allow_head=False),
        *health.routes(),
        *Hooks(context).routes(),
    ]
    stop_accepting = await _accept(stack, listener, routes)
    host, port = context.config.server.host, context.config.server.metrics_port
    if assignment is not None and assignment.metrics_port is not None:
        await _accept(stack, share(host, assignment.metrics_port), [web.get("/metrics", metrics)])
    elif port is not None:
        await _accept(stack, bind(host, port), [web.get("/metrics", metrics)])
    return stop_accepting


@web.middleware
async def _only_one(request: web.Request, handler: Handler) -> web.StreamResponse:
    # One request a connection, whatever the answer: there is nothing to smuggle into (threats T26).
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.force_close()
        raise
    if not isinstance(response, web.WebSocketResponse):
        response.force_close()
    return response


async def _accept(stack: AsyncExitStack, listener: socket.socket, routes: list[web.RouteDef]) -> Callable[[], None]:
    """Serves these routes on a listening socket; returns what ends the accepting."""
    stack.callback(listener.close)
    app = web.Application(client_max_size=64 * 1024, middlewares=[_only_one])
    app.add_routes(routes)
    runner = web.AppRunner(
        app,
        access_log=None,  # a request line holds what the client chose
        handle_signals=False,
        shutdown_timeout=1.0,
        lingering_time=1.0,  # for a body that nobody reads
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    if runner.server is None:
        raise AssertionError("a runner that was set up has its server")
    handshakes = Handshakes()
    handshakes.make = runner.server
    server = await asyncio.get_running_loop().create_server(handshakes, sock=listener, backlog=BACKLOG)
    stack.callback(server.close)
    return server.close
