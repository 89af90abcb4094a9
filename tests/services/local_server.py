"""What the servers of the tests' own have in common: a place, a log and a life."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tests.services.ports import HOST, ReservedPort
from tests.services.process import ServiceProcess


class LocalServer:
    """`async with` it: a server in a process of its own, on a port of its own, with its files and its log in `folder`.

    It can be stopped, killed, paused and started again, with the same port and files, any number of times; leaving the
    context kills it. It is bound to no event loop, but is started from the main thread only.

    A kind of server says how it is prepared (`_prepare`) and when it has started (`start`).
    """

    def __init__(self, folder: Path, name: str) -> None:
        """`name`: of its log."""
        self.folder = folder
        self._log = folder / f"{name}.log"
        self._ports: list[ReservedPort] = []
        self._process: ServiceProcess

    async def _prepare(self) -> ServiceProcess:
        """Reserves its ports, the first of which is `port`, and writes what it needs to start; the folder is there."""
        raise NotImplementedError

    def _reserve_port(self) -> int:
        self._ports.append(ReservedPort())
        return self._ports[-1].number

    # -- where it is ---------------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        return HOST

    @property
    def port(self) -> int:
        return self._ports[0].number

    @property
    def address(self) -> tuple[str, int]:
        """For a proxy in front of it."""
        return self.host, self.port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process.running

    @property
    def answering(self) -> bool:
        """Whether it runs and is not paused."""
        return self._process.answering

    @property
    def log(self) -> str:
        """What it wrote since it was first started."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # -- its life ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._process = await self._prepare()
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if hasattr(self, "_process"):
            self._process.kill()
        while self._ports:
            self._ports.pop().close()

    async def start(self) -> None:
        """Starts it, the first time or again: same port, and the data that it kept. Returns when it answers."""
        raise NotImplementedError

    async def stop(self) -> int:
        """SIGTERM, as an orderly host does it: it finishes its files and goes. Its exit status."""
        return await self._process.stop()

    async def exited(self, patience: float = 20) -> int:
        """Waits until it has gone by itself; its exit status."""
        return await self._process.exited(patience)

    def kill(self) -> None:
        """kill -9. What it had not given to the kernel is lost."""
        self._process.kill()

    async def restart(self) -> None:
        """An orderly stop, and a start."""
        await self.stop()
        await self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay, requests pile up, nothing is answered."""
        self._process.pause()

    def resume(self) -> None:
        """SIGCONT: it answers all that piled up."""
        self._process.resume()
