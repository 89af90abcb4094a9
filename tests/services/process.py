"""A server in a process of its own, that ends with the tests however they end."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_psutil: Any = importlib.import_module("psutil")  # it ships no types

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("those who wanted this server have gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Run before the server's program, in its process: on Linux the kernel then kills it with the thread that started it."""


def program_of(pid: int) -> str | None:
    """The name of the program that runs as this process; None: it has ended."""
    try:
        process = _psutil.Process(pid)
        name: str = process.name()
        return None if process.status() == _psutil.STATUS_ZOMBIE else name
    except _psutil.NoSuchProcess:
        return None


class ServiceProcess:
    """A command that can be started again and again, with what it writes in `log`. Bound to no event loop.

    Start it from the main thread only: it is killed when the thread that started it ends, so that a pytest that was itself
    killed leaves nothing running.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment`: all of it, from the next start on; None is the tests' own."""
        self.environment = environment
        self._command = list(command)
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def answering(self) -> bool:
        """Whether it runs and is not paused."""
        return self.running and not self._paused

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was never started"
        return self._process.pid

    def start(self) -> None:
        assert not self.running, "it runs already"
        command, self._paused = self._command, False
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; it must be running."""
        assert self.running, "it does not run"
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: it does nothing more, and its connections stay. Returns when it has stopped."""
        self.signal(signal.SIGSTOP)
        self._paused = True
        while _psutil.Process(self.pid).status() != _psutil.STATUS_STOPPED:
            assert self.running, "it ended instead of stopping"

    def resume(self) -> None:
        """SIGCONT: it goes on with all that reached it meanwhile."""
        self.signal(signal.SIGCONT)
        self._paused = False

    def kill(self) -> None:
        """kill -9, paused or not; returns when it has gone. Nothing to do where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def stop(self, patience: float = 20) -> int:
        """SIGTERM, and waits until it has gone; its exit status."""
        self.signal(signal.SIGTERM)
        self.resume()  # a stopped process takes no signal but this one and SIGKILL
        return await self.exited(patience)

    async def exited(self, patience: float = 20) -> int:
        """Waits until it has gone by itself; its exit status."""
        assert self._process is not None, "it was never started"
        return await asyncio.to_thread(self._process.wait, patience)
