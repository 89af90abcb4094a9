"""The operators' socket: `POST /operate/{command}` on a Unix socket in `data_dir`, for the command line of this host.

Who may open the file may command: it is 0600, in a folder that is 0700. Lines of JSON go back as the work goes on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import orjson
import structlog
from aiohttp import web

from sidecar.errors import StartRefused
from sidecar.operations import DESTRUCTIVE, TO_THE_END, Live, perform
from sidecar.operations.lines import Line, error
from sidecar.server.context import Context
from sidecar.unix_sockets import reachable

_BACKLOG = 16
_SECONDS = 2.0
"""For a sidecar that may be there already to take a connection."""

log = structlog.get_logger("sidecar.server")


@asynccontextmanager
async def operators_socket(context: Context) -> AsyncIterator[None]:
    """Serves operators' commands while it is entered. Raises `StartRefused`, also where another sidecar serves there."""
    path = context.config.socket_path
    listener = await asyncio.to_thread(_bind, path)
    identity = _identity(path)
    try:
        desk = _Desk(context)
        app = web.Application(client_max_size=64 * 1024)
        app.add_routes([web.post("/operate/{command}", desk.operate)])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            if runner.server is None:
                raise AssertionError("a runner that was set up has its server")
            server = await asyncio.get_running_loop().create_unix_server(runner.server, sock=listener)
            try:
                yield
            finally:
                server.close()
        finally:
            await runner.cleanup()
    finally:
        listener.close()
        if identity is not None and _identity(path) == identity:  # by now it may be another's
            path.unlink(missing_ok=True)


class _Desk:
    """Takes the commands: those that change something one at a time, the others whenever they come."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._busy: str | None = None

    async def operate(self, request: web.Request) -> web.StreamResponse:
        command = request.match_info["command"]
        try:
            arguments = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            arguments = None
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        response.force_close()
        await response.prepare(request)
        there = True
        async with aclosing(self._lines(command, arguments)) as lines:
            async for line in lines:
                try:
                    if there:
                        await response.write(orjson.dumps(line) + b"\n")
                except ConnectionError:
                    # Whoever asked is gone. Most work stops here, at a line: every command can be given again.
                    there = False
                    log.warning("an operator's command lost its asker", name=command[:64])
                    if command not in TO_THE_END:
                        break
        return response

    async def _lines(self, command: str, arguments: object) -> AsyncGenerator[Line, None]:
        if not isinstance(arguments, Mapping):
            yield error("the arguments are no JSON object", "use `sidecar` of this version")
            return
        if command not in DESTRUCTIVE:
            async with aclosing(self._perform(command, arguments)) as lines:
                async for line in lines:
                    yield line
            return
        if self._busy is not None:
            yield error(
                f"this sidecar is busy with {self._busy}", "wait until it is done; it cannot be done twice at once"
            )
            return
        self._busy = command
        try:
            async with aclosing(self._perform(command, arguments)) as lines:
                async for line in lines:
                    yield line
        finally:
            self._busy = None

    def _perform(self, command: str, arguments: Mapping[str, object]) -> AsyncGenerator[Line, None]:
        context = self._context
        live = Live(context.registry, context.worker)
        return perform(context.plugins, context.parts, command, arguments, live)


def _bind(path: Path) -> socket.socket:
    """A listening socket at `path`, 0600 from its first moment on. Raises `StartRefused`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        _refuse_if_served(path)
        with reachable(fresh) as name:
            listener.bind(name)
        try:
            fresh.chmod(0o600)
            listener.listen(_BACKLOG)
            # In one step in the place of a stale one: nobody finds a half-made socket.
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        listener.setblocking(False)
    except StartRefused:
        listener.close()
        raise
    except OSError as failure:
        listener.close()
        why = failure.strerror or str(failure) or type(failure).__name__
        raise StartRefused(
            "server",
            f"the operators' socket {path} cannot be made ({why}); see that data_dir is a local folder of this user",
        ) from None
    return listener


def _refuse_if_served(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise StartRefused("server", f"{path} is no socket; move it away, the operators' socket belongs there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_SECONDS)
        try:
            with reachable(path) as name:
                client.connect(name)
        except OSError as failure:
            if failure.errno in {errno.ECONNREFUSED, errno.ENOENT}:
                return  # left behind by one that was killed
            if not isinstance(failure, TimeoutError | BlockingIOError):
                raise
    raise StartRefused("server", f"another sidecar serves on {path}; stop it, or give each its own data_dir")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
