"""The operators' socket: `POST /operate/{command}` on a Unix socket in `data_dir`, for the command line of this host.

Who may open the file may command: it is 0600, in a folder that is 0700. Lines of JSON go back as the work goes on.
Several workers accept from one socket: whichever takes a command carries it out, since cache, store and the persons' logs
are the same for all of them.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
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


@contextmanager
def unix_listener(path: Path, *, refuse: bool = True) -> Iterator[socket.socket]:
    """A listening socket, gone with its file afterwards. In a forked process leaving changes nothing.

    Raises `StartRefused`; `refuse`: also where another sidecar listens there, whose place is taken otherwise.
    """
    listener = _bind(path, refuse=refuse)
    owner = os.getpid()
    identity = _identity(path)
    try:
        yield listener
    finally:
        if os.getpid() == owner:
            listener.close()
            if identity is not None and _identity(path) == identity:  # by now it may be another's
                path.unlink(missing_ok=True)


@asynccontextmanager
async def operators_socket(context: Context, shared: socket.socket | None) -> AsyncIterator[Callable[[], None]]:
    """Serves operators' commands while it is entered, on a socket of its own or on one that several workers share.

    Gives what ends the accepting. Raises `StartRefused`, also where another sidecar serves there.
    """
    with ExitStack() as stack:
        listener = shared
        if listener is None:
            listener = stack.enter_context(unix_listener(context.config.socket_path))
        desk = _Desk(context)
        async with serving_unix(listener, [web.post("/operate/{command}", desk.operate)]) as stop_accepting:
            yield stop_accepting


@asynccontextmanager
async def serving_unix(listener: socket.socket, routes: list[web.RouteDef]) -> AsyncIterator[Callable[[], None]]:
    """Serves these routes on a listening Unix socket, and closes it. Gives what ends the accepting."""
    app = web.Application(client_max_size=64 * 1024)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        if runner.server is None:
            raise AssertionError("a runner that was set up has its server")
        server = await asyncio.get_running_loop().create_unix_server(runner.server, sock=listener)
        try:
            yield server.close
        finally:
            server.close()
    finally:
        await runner.cleanup()
        listener.close()


class _Desk:
    """Takes the commands: those that change something one at a time, the others whenever they come."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = context.config.data_dir / "operators.lock"

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
        with _one_at_a_time(self._lock, command) as busy:
            if busy is not None:
                yield error(
                    f"this sidecar is busy with {busy}", "wait until it is done; it cannot be done twice at once"
                )
                return
            async with aclosing(self._perform(command, arguments)) as lines:
                async for line in lines:
                    yield line

    def _perform(self, command: str, arguments: Mapping[str, object]) -> AsyncGenerator[Line, None]:
        context = self._context
        live = Live(context.registry, context.worker)
        return perform(context.config, context.plugins, context.parts, command, arguments, live)


@contextmanager
def _one_at_a_time(path: Path, command: str) -> Iterator[str | None]:
    """Gives None and keeps every other command of this host out, or gives the one that is under way."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield os.pread(descriptor, 64, 0).decode("ascii", "replace") or "another command"
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, command.encode(), 0)
        yield None
    finally:
        os.close(descriptor)  # which unlocks it, as the death of the process does


def _bind(path: Path, *, refuse: bool) -> socket.socket:
    """A listening socket at `path`, 0600 from its first moment on. Raises `StartRefused`; `refuse`: also if somebody listens there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        if refuse:
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
