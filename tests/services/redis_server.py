"""A real redis-server of the tests' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis as redis_py
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from tests.services.local_server import LocalServer
from tests.services.process import ServiceProcess
from tests.services.programs import find_redis

Setting = str | int | bool

_UNLESS_TOLD: dict[str, Setting] = {"save": "", "appendonly": False, "maxmemory_policy": "noeviction"}


def _line(name: str, value: Setting) -> str:
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return f"{name.replace('_', '-')} {text or chr(34) * 2}\n"


class RedisServer(LocalServer):
    """`async with RedisServer(folder, appendonly=True, appendfsync="always") as server`: a redis-server on a port of its own.

    Any directive of redis.conf is an argument, with `_` for `-`; without any it keeps nothing on disk.
    """

    def __init__(self, folder: Path, *, under: Sequence[str] = (), **config: Setting) -> None:
        """`under`: a command that runs the server, with its arguments, such as strace -D or faketime; the pid must stay the server's."""
        super().__init__(folder, "redis")
        self.config = {**_UNLESS_TOLD, **config}
        self._under = under

    @property
    def url(self) -> str:
        """For redis-py's `from_url` and for the sidecar's `cache.redis`."""
        password = self.config.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}{self.host}:{self.port}"

    # -- its life ------------------------------------------------------------------------------------------------------

    def _directives(self) -> dict[str, Setting]:
        """What the server is told beside `config`; asked for once, before the first start."""
        return {"bind": self.host, "port": self._reserve_port(), "dir": str(self.folder)}

    async def _prepare(self) -> ServiceProcess:
        program = find_redis()
        path = self.folder / "redis.conf"
        path.write_text("".join(_line(*each) for each in {**self.config, **self._directives()}.items()))
        return ServiceProcess([*self._under, program.path, str(path)], folder=self.folder, log=self._log)

    async def start(self, *, wait: bool = True) -> None:
        """Starts it, the first time or again: same port, and the data that it kept. Returns when it answers.

        `wait=False` returns at once: it may still be loading, or end by itself.
        """
        self._process.start()
        if wait:
            await asyncio.to_thread(self._until_it_answers)

    def _until_it_answers(self, patience: float = 60) -> None:
        until = time.monotonic() + patience
        once = Retry(NoBackoff(), 0)
        with redis_py.Redis(self.host, self.port, socket_timeout=5, retry=once) as client:
            while True:
                try:
                    client.ping()
                    return
                except (AuthenticationError, NoPermissionError):
                    return  # it answers; who may ask is the test's business
                except redis_py.RedisError as error:
                    if not self.running or time.monotonic() > until:
                        raise AssertionError(f"redis-server did not start: {error}\n{self.log}") from error
                time.sleep(0.005)

    # -- talking to it -------------------------------------------------------------------------------------------------

    def client(self, **options: Any) -> Redis:
        """A client for the running loop: `async with server.client() as redis`."""
        return Redis.from_url(self.url, **options)

    async def cli(self, *command: str | bytes | int | float) -> Any:
        """One command over a connection of its own, as redis-cli would: `await server.cli("CLIENT", "PAUSE", 500)`.

        Texts are str; otherwise the answer is what redis-py makes of it (True for SET).
        """
        async with self.client(decode_responses=True, single_connection_client=True, socket_timeout=10) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def dumped(self) -> bytes:
        """Every key with its value, as they would stand in a snapshot that is not compressed."""
        async with self.client() as client:
            told = await client.config_get("rdbcompression")
            await client.config_set("rdbcompression", "no")
            try:
                return b"".join([key + (await client.dump(key) or b"") async for key in client.scan_iter(count=1000)])
            finally:
                await client.config_set("rdbcompression", str(told["rdbcompression"]))

    async def info(self, *sections: str) -> dict[str, Any]:
        """What INFO says, by name."""
        async with self.client(decode_responses=True) as client:
            told: dict[str, Any] = await client.info(*sections)
            return told

    async def clean(self) -> None:
        """Empties it: keys, scripts, statistics."""
        for command in (("FLUSHALL", "SYNC"), ("SCRIPT", "FLUSH", "SYNC"), ("CONFIG", "RESETSTAT")):
            await self.cli(*command)

    async def settings(self) -> dict[str, str]:
        """All that can be set while it runs, as it is now."""
        async with self.client(decode_responses=True) as client:
            return {str(name): str(value) for name, value in (await client.config_get("*")).items()}
