"""Ends a sidecar process by kill -9 at a chosen place on the way of a message, from its frame to its row.

`install` is run in a process before it serves (`SidecarProcess(before=…)`). The way has stages, and every time that a stage waits is
a place twice: while it waits, some milliseconds after it began to, and as it goes on. A test writes a place into `folder/kill`; the
first process to come there dies.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from sidecar.outbox_position import PluginPosition
from sidecar.server import dispatch, socket

WAITS, GOES_ON = "waits", "goes on"
_MEANWHILE_SECONDS = 0.003
"""Up to which it waits before it dies, by chance: what it asked for was not sent yet, is being carried out, or is done."""


class Walk:
    """A coroutine, driven step by step."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], stage: str, points: KillPoints) -> None:
        self._coroutine = coroutine
        self._stage = stage
        self._points = points

    def __await__(self) -> Generator[Any, Any, Any]:
        waits = 0
        step, given = self._coroutine.send, None
        try:
            while True:
                try:
                    awaited = step(given)
                except StopIteration as end:
                    return end.value
                waits += 1
                self._points.come_to(self._stage, waits, WAITS)
                try:
                    given = yield awaited
                    step = self._coroutine.send
                except BaseException as error:  # the coroutine gets it, as it would without us
                    given, step = error, self._coroutine.throw
                self._points.come_to(self._stage, waits, GOES_ON)
        finally:
            self._points.passed(self._stage, waits)


class KillPoints:
    def __init__(self, folder: Path) -> None:
        self._plan = folder / "kill"
        self._killed = folder / "killed"
        self._waits = folder / "waits"
        self._most: dict[str, int] = {}

    def come_to(self, stage: str, wait: int, when: str) -> None:
        place = f"{stage} {wait} {when}"
        try:
            if self._plan.read_text() != place:
                return
            self._plan.unlink()  # who succeeds in that dies, and nobody else
        except FileNotFoundError:
            return
        with self._killed.open("a") as file:
            file.write(f"{os.getpid()} {place}\n")
        if when == WAITS:
            threading.Thread(target=_die, args=(random.uniform(0, _MEANWHILE_SECONDS),), daemon=True).start()
        else:
            _die(0)

    def passed(self, stage: str, waits: int) -> None:
        """How often a stage waits at most, for the test that is to choose."""
        if waits > self._most.get(stage, 0):
            self._most[stage] = waits
            with self._waits.open("a") as file:
                file.write(f"{stage} {waits}\n")


def _die(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def install(folder: str) -> None:
    """From now on this process, and those that it forks, can be killed at places."""
    points = KillPoints(Path(folder))
    answer, chat, settle = dispatch.answer, PluginPosition._chat, PluginPosition._settle

    def walking(function: Callable[..., Coroutine[Any, Any, Any]], stage: str) -> Callable[..., Any]:
        async def walk(*arguments: Any) -> Any:
            return await Walk(function(*arguments), stage, points)

        return walk

    async def answering(parts: Any, connection: Any, frame: Any) -> Any:
        coroutine = answer(parts, connection, frame)
        return await (Walk(coroutine, "accepting", points) if frame.type == "message_send" else coroutine)

    vars(socket)["answer"] = answering
    PluginPosition._chat = walking(chat, "delivering")  # type: ignore[method-assign]
    PluginPosition._settle = walking(settle, "settling")  # type: ignore[method-assign]
