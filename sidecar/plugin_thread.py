"""A thread with an event loop of its own, on which one plugin lives.

Whatever the plugin does there (block, spin, hang, raise what it likes), the caller gets its answer or its timeout in time.
A thread that no longer answers is not called until it does: calls fail at once instead of piling up behind it. What a thread
cannot keep away: a plugin that spins in Python takes its share of the interpreter, and C code that holds the interpreter's
lock holds everybody.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from sidecar.errors import SidecarError
from sidecar.plugin_call import Answer, CallTimeout, told, whereabouts

_log = structlog.get_logger("sidecar.plugins")

_GRACE = 0.25  # a healthy loop answers within this; less would take a busy one for a blocked one


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows, nor for a Python that it does not know yet
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class ThreadStuck(SidecarError):
    """The plugin's thread does not answer, or has too many calls that never ended: the call was not made."""


class _Call:
    """One call on its way: made on the plugin's loop, answered on the caller's."""

    def __init__(
        self,
        make: Callable[[], Awaitable[object]],
        home: asyncio.AbstractEventLoop,
        answered: Callable[[_Call, Answer], None],
    ) -> None:
        self.future: asyncio.Future[Answer] = home.create_future()
        self._make = make
        self._home = home
        self._answered = answered
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the plugin's thread."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """On the plugin's thread."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            answer = Answer(await self._make())
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt would end the plugin's loop
            answer = Answer(error=error)
        try:
            self._home.call_soon_threadsafe(self._answered, self, answer)
        except RuntimeError:
            pass  # the caller's loop is closed: nobody waits any more


class PluginThread:
    """An async context manager; `call` works from the loop that entered it."""

    def __init__(self, name: str, *, most: int = 256, leave_seconds: float = 2.0) -> None:
        """`most`: calls that may be under way at once, those included that were given up and have not ended.
        `leave_seconds`: how long leaving waits for the thread; one that does not end is left behind and dies with the process."""
        self._name = name
        self._most = most
        self._leave_seconds = leave_seconds
        self._under_way = 0
        self._asked_at: float | None = None
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None

    async def __aenter__(self) -> PluginThread:
        if self._home is not None:
            raise RuntimeError("a plugin's thread is entered once")
        self._home = asyncio.get_running_loop()
        self._ended = self._home.create_future()
        self._loop = _new_loop()
        # The loop's own handler would log the text of an exception, which may repeat what a person wrote.
        self._loop.set_exception_handler(self._unhandled)
        threading.Thread(target=self._live, args=(self._loop,), name=f"plugin {self._name}", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._loop is not None  # noqa: S101 - entered
        assert self._ended is not None  # noqa: S101
        self._stopping = True
        self._post(self._loop.stop)
        done, _pending = await asyncio.wait([self._ended], timeout=self._leave_seconds)
        if not done:
            _log.warning("plugin thread left behind", plugin=self._name, seconds=self._leave_seconds)

    def blocked_for(self) -> float:
        """Seconds since the thread was asked for a sign of life that it has not given; 0.0 while it answers."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    async def call(self, make: Callable[[], Awaitable[object]], seconds: float | None) -> Answer:
        """Calls `make` on the plugin's thread, in a copy of the caller's context. Raises nothing but the caller's cancellation.

        `Answer.error` is what it raised, `CallTimeout` after `seconds` (None: no deadline), or `ThreadStuck`.
        """
        if self._loop is None or self._home is None or self._stopping:
            return Answer(error=ThreadStuck("its thread is not running"))
        if (blocked := self.blocked_for()) > _GRACE:
            return Answer(error=ThreadStuck(f"its thread has not answered for {blocked:.1f} s"))
        if self._under_way >= self._most:
            return Answer(error=ThreadStuck(f"{self._under_way} of its calls have not ended"))
        call = _Call(make, self._home, self._answered)
        self._under_way += 1
        try:
            self._loop.call_soon_threadsafe(call.start, context=contextvars.copy_context())
        except RuntimeError:
            self._under_way -= 1
            return Answer(error=ThreadStuck("its thread has ended"))
        try:
            done, _pending = await asyncio.wait([call.future], timeout=seconds)
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        if done:
            return call.future.result()
        self._give_up(call)
        return Answer(error=CallTimeout(seconds or 0.0))

    def _answered(self, call: _Call, answer: Answer) -> None:
        self._under_way -= 1
        if not call.future.done():
            call.future.set_result(answer)

    def _give_up(self, call: _Call) -> None:
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        self._post(call.cancel)
        self._post(self._here)

    def _here(self) -> None:
        self._asked_at = None

    def _post(self, function: Callable[[], None]) -> None:
        try:
            assert self._loop is not None  # noqa: S101 - entered
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # closed: the thread has ended already

    # -- on the plugin's thread ----------------------------------------------------------------------------------------

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while not self._stopping:
                try:
                    loop.run_forever()
                except BaseException as error:  # noqa: BLE001 - from a task of the plugin's own: the loop goes on
                    _log.error("plugin task raised", plugin=self._name, error=told(error), at=whereabouts(error))
            self._wind_up(loop)
        finally:
            loop.close()
            try:
                if self._home is not None:
                    self._home.call_soon_threadsafe(self._end)
            except RuntimeError:
                pass  # the process leaves without waiting for us

    def _wind_up(self, loop: asyncio.AbstractEventLoop) -> None:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=self._leave_seconds / 2))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException as error:  # noqa: BLE001 - the thread ends all the same
            _log.error("plugin task raised", plugin=self._name, error=told(error), at=whereabouts(error))

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            _log.error("plugin task raised", plugin=self._name, error=told(error), at=whereabouts(error))
        else:
            _log.warning("plugin task left behind", plugin=self._name)

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
