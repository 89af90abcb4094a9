"""Tests that are killed while a server of theirs runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from tests.services.process import program_of

_ROOT = Path(__file__).parent.parent.parent


async def killed_tests_leave_nothing(script: str, folder: Path, program: str) -> None:
    """`script`: starts a server in the folder that it is given and prints its process id; `program`: what that runs."""
    tests = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(folder)), stdout=asyncio.subprocess.PIPE, cwd=_ROOT
    )
    assert tests.stdout is not None
    pid = int(await tests.stdout.readline())
    assert program_of(pid) == program
    os.kill(tests.pid, signal.SIGKILL)
    await tests.communicate()
    until = time.monotonic() + 10
    while program_of(pid) is not None:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
