"""Notices when the main loop does not answer, and says in the log what holds it up (F39)."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType, MappingProxyType

import structlog

_log = structlog.get_logger("sidecar.watchdog")


class Watchdog:
    """An async context manager, entered on the loop that it watches.

    Its own thread asks the loop for a sign of life. When none came for `patience` seconds, one log line names the stack of the
    loop's thread (file, line, function; no values) and the plugin whose file is on it; again at most every `again` seconds.
    """

    def __init__(
        self,
        files: Mapping[str, str] = MappingProxyType({}),
        *,
        patience: float = 1.0,
        again: float = 10.0,
        interval: float = 0.25,
    ) -> None:
        """`files`: which plugin a file belongs to (`Plugins.files`)."""
        self._files = files
        self._patience = patience
        self._again = again
        self._interval = interval
        self._asked_at: float | None = None
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = 0

    async def __aenter__(self) -> Watchdog:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        threading.Thread(target=self._watch, args=(self._loop,), name="watchdog", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not joined: it ends within one interval, and touches a closed loop without harm.
        self._stop.set()

    def loop_blocked_for(self) -> float:
        """Seconds for which the loop has owed a sign of life; 0.0 while it answers. From any thread."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else max(0.0, time.monotonic() - asked_at)

    def _here(self) -> None:
        self._asked_at = None

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        reported_at = float("-inf")
        while True:
            slept_at = time.monotonic()
            if self._stop.wait(self._interval):
                return
            now = time.monotonic()
            if now - slept_at > self._interval + self._patience / 2 and self._asked_at is not None:
                self._asked_at = (
                    now  # we did not run either: the whole process was stopped, and the loop is not to blame
                )
            if self._asked_at is None:
                self._asked_at = now
                try:
                    loop.call_soon_threadsafe(self._here)
                except RuntimeError:
                    return  # closed: there is nothing left to watch
            elif now - self._asked_at > self._patience and now - reported_at >= self._again:
                reported_at = now
                self._report(now - self._asked_at)

    def _report(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._watched)
        places, plugin = self._read(frame)
        _log.error("loop blocked", seconds=round(seconds, 1), plugin=plugin, at=" < ".join(places))

    def _read(self, frame: FrameType | None) -> tuple[list[str], str | None]:
        places: list[str] = []
        plugin = None
        while frame is not None:
            code = frame.f_code
            plugin = plugin or self._files.get(code.co_filename)
            if len(places) < 12:
                places.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_name}")
            frame = frame.f_back
        return places, plugin
