"""Operators' commands: asked of the running sidecar through its socket, or done here when none runs.

The running sidecar answers `POST /operate/{command}` (a JSON object of arguments) on the Unix socket
`data_dir/sidecar.sock` with lines of JSON: `{"progress": {"done": 3, "total": 10}}` and `{"row": {…}}`, any number, and at
the end `{"result": {…}}` or `{"error": {"message": …, "remedy": …}}`. `sidecar.operations.run` yields the same objects.

| command | arguments |
|---|---|
| `plugins-positions` | none |
| `plugins-forget` | `name` |
| `dead-letters-list` | `plugin`, `chat` |
| `dead-letters-replay`, `dead-letters-drop` | `plugin`, `chat`, `all` |
| `keys-rotate`, `keys-reseal`, `keys-prune`, `keys-destroy` | `chat`, `user` |
| `users-devices`, `users-disconnect`, `users-erase` | `user` |
| `doctor` | none |

`plugin`, `chat` and `user` are null where they were not given; `user` is always the hash.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from sidecar.cli.outcome import CommandFailed
from sidecar.cli.output import Steps
from sidecar.config import Config
from sidecar.unix_sockets import reachable

__all__ = ["Answer", "NobodyServes", "ask_running", "operate", "reachable"]

_LONGEST_LINE = 1024 * 1024


class NobodyServes(Exception):
    """There is no socket, or nobody listens on it."""


@dataclass(slots=True)
class Answer:
    rows: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)


def operate(config: Config, command: str, arguments: Mapping[str, Any], what: str, *, alone: bool = False) -> Answer:
    """Carries a command out, wherever the parts are (`alone`: here), showing its progress as `what`. Raises `CommandFailed`."""
    if alone:
        return asyncio.run(_collect(_here(config, command, dict(arguments)), what))
    return asyncio.run(_operate(config, command, dict(arguments), what))


def ask_running(config: Config, command: str, arguments: Mapping[str, Any]) -> Answer | None:
    """The running sidecar's answer, or None when none runs."""

    async def ask() -> Answer | None:
        try:
            return await _collect(_through_socket(config.socket_path, command, dict(arguments)), command)
        except NobodyServes:
            return None

    return asyncio.run(ask())


async def _operate(config: Config, command: str, arguments: dict[str, Any], what: str) -> Answer:
    try:
        return await _collect(_through_socket(config.socket_path, command, arguments), what)
    except NobodyServes:
        return await _collect(_here(config, command, arguments), what)


async def _collect(lines: AsyncGenerator[dict[str, Any], None], what: str) -> Answer:
    answer = Answer()
    with Steps(what) as steps:
        async with aclosing(lines):
            async for line in lines:
                if "progress" in line:
                    steps.show(int(line["progress"]["done"]), line["progress"].get("total"))
                elif "row" in line:
                    answer.rows.append(line["row"])
                elif "error" in line:
                    raise CommandFailed(line["error"]["message"], line["error"].get("remedy") or "")
                elif "result" in line:
                    answer.result = line["result"]
                    return answer
    raise CommandFailed("the sidecar went away in the middle of it", "look at its log, then run the command again")


async def _here(config: Config, command: str, arguments: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    from sidecar.operations import run  # noqa: PLC0415 - only a command that needs the parts loads them

    async with aclosing(run(config, command, arguments)) as lines:
        async for line in lines:
            yield line


async def _through_socket(path: Path, command: str, arguments: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    # No deadline for the whole: resealing takes hours. That the peer lives is shown by the connection itself.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    try:
        with reachable(path) as name:
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(name), timeout=timeout) as session,
                session.post(f"http://sidecar/operate/{command}", json=arguments) as response,
            ):
                if response.status != 200:
                    raise CommandFailed(
                        f"the running sidecar answered {response.status} to {command}",
                        "it may be of another version; restart it with this one",
                    )
                async for line in _lines(response.content):
                    yield line
    except aiohttp.ClientConnectorError as error:
        raise _translated(error.os_error, path) from error
    except OSError as error:
        raise _translated(error, path) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandFailed(
            f"the running sidecar broke off ({type(error).__name__})", "look at its log, then run the command again"
        ) from error


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[dict[str, Any], None]:
    buffer = b""
    async for chunk in content.iter_any():
        *whole, buffer = (buffer + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield _read(line)
        if len(buffer) > _LONGEST_LINE:
            raise CommandFailed("the running sidecar sent a line that is too long", "report it")
    if buffer.strip():
        yield _read(buffer)


def _read(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CommandFailed("the running sidecar sent what is no answer", "see that it has the version of this command")
    return value


def _translated(error: OSError, path: Path) -> Exception:
    if error.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR}:
        return NobodyServes()
    if error.errno in {errno.EACCES, errno.EPERM}:
        return CommandFailed(f"{path} belongs to another user", "run this as the user that runs the sidecar")
    if "too long" in str(error):
        return CommandFailed(f"the path {path} is too long for a socket", "use a shorter data_dir")
    return CommandFailed(
        f"{path} cannot be reached: {error.strerror or type(error).__name__}", "see that it is a socket"
    )
