"""The supervisor of several workers: it opens no part, starts them, looks after them, and ends them one by one.

It is one thread without an event loop, so that it can fork at any time; a worker begins its life as if it had been started
by itself. What the supervisor does at length (the start, the rolling restart, the end) is written down in order, and
`_mind` keeps everything else going meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from sidecar.config import Config
from sidecar.server import signals
from sidecar.server.assignment import Assignment
from sidecar.server.line import LAST, QUIET, STOP, Line
from sidecar.server.premises import Premises, premises
from sidecar.server.rereading import Reread, reread
from sidecar.server.restarts import STEADY_SECONDS, Restarts
from sidecar.server.signals import Signals
from sidecar.server.worker_process import WorkerProcess

_FAILED = 1
_REFUSED = frozenset({2, 3})
"""Exit statuses of a worker that will not start however often it is tried: wrong configuration, a part that refused."""
_SILENT_SECONDS = 30.0
"""A worker whose loop gave no sign of life for so long is replaced: the kernel goes on dealing it connections."""
_READY_SECONDS = 60.0
"""For the successor of a worker that serves to come up."""
_LEAVE_SECONDS = 15.0
"""Beyond the time for closing sockets, until a worker that was told to go is killed."""
_TICK_SECONDS = 1.0

log = structlog.get_logger("sidecar.supervisor")


def supervise(config: Config, ready: Callable[[str], None], read: Reread | None) -> int | Assignment:
    """Runs `config.server.workers` workers until SIGTERM or SIGINT, and returns the exit status.

    Returns in every worker too, with its assignment. `ready` is called with the URL once all of them accept sockets.
    SIGHUP: the configuration is read anew and the workers are replaced one by one. Raises `StartRefused`.
    """
    try:
        with premises(config) as shared, Signals() as woken:
            return _Supervisor(config, shared, read, woken).run(ready)
    except _Born as born:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(
                number, signals.nothing
            )  # what is meant for all is sent to all: the supervisor keeps the order
        signals.unblock()
        return born.assignment


class _Born(BaseException):
    """Raised in a worker that was just forked: it leaves everything of the supervisor's behind. Signals are still blocked."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__()
        self.assignment = assignment


@dataclass(slots=True)
class _Place:
    """A worker's number, and who has it."""

    number: int
    process: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    """During a rolling restart, until it accepts sockets."""
    starts: int = 0
    due: float | None = None
    """When it is started next (monotonic)."""
    restarts: Restarts = field(default_factory=Restarts)

    def ready(self) -> bool:
        return self.process is not None and self.process.ready


class _Supervisor:
    def __init__(self, config: Config, shared: Premises, read: Reread | None, woken: Signals) -> None:
        self._config = config
        self._shared = shared
        self._read = read
        self._woken = woken
        self._places = [_Place(number) for number in range(1, config.server.workers + 1)]
        self._processes: list[WorkerProcess] = []
        """Every one that lives, those that leave too."""
        self._serving = False
        self._stopping = False
        self._restart_asked = False
        self._verdict: int | None = None
        """The exit status, once there is no hope."""

    # -- at length -----------------------------------------------------------------------------------------------------

    def run(self, ready: Callable[[str], None]) -> int:
        """Returns the exit status. Raises `_Born` in the workers."""
        self._begin()
        if not self._over:
            self._serving = True
            ready(self._shared.url)
        while not self._over:
            self._mind(lambda: self._over or self._restart_asked)
            if self._restart_asked and not self._over:
                self._restart_asked = False
                self._replace_all()
        self._end()
        return self._verdict or 0

    def _begin(self) -> None:
        # The first alone: what is refused is refused, and said, once.
        first, *others = self._places
        first.due = time.monotonic()
        self._mind(lambda: self._over or first.ready())
        for place in others:
            place.due = time.monotonic()
        self._mind(lambda: self._over or all(place.ready() for place in self._places))

    def _replace_all(self) -> None:
        config = reread(self._config, self._read) if self._read is not None else self._config
        if config is None:
            return
        log.info("workers_replaced_one_by_one", workers=len(self._places))
        before, self._config = self._config, config
        for place in self._places:
            if not self._replace(place):
                if place is self._places[0]:
                    self._config = before
                return
        log.info("workers_replaced", workers=len(self._places))

    def _replace(self, place: _Place) -> bool:
        """Starts a successor, and ends the worker once the successor accepts sockets. False: the worker goes on, or all is over."""
        old = place.process
        place.successor = new = self._fork(place)
        if new is not None:
            self._mind(lambda: self._over or new.ready or new.ended, _READY_SECONDS)
        if self._over:
            return False
        if new is None or not new.ready:
            log.error(
                "worker_not_replaced", worker=place.number, reason="its successor did not start; the others go on"
            )
            if new is not None:
                new.kill()
            place.successor = None
            if place.process is None and place.due is None:
                place.due = time.monotonic() + place.restarts.died(0.0)  # it was dead before, and is tried again
            return False
        place.process, place.successor = new, None
        if old is not None and not old.ended:
            old.leave(QUIET, STOP)
            self._mind(lambda: self._over or old.ended, self._share + _LEAVE_SECONDS)
            if not self._over:
                self._kill(old, "it did not leave in time")
        return not self._over

    def _end(self) -> None:
        leaving = list(self._processes)
        log.info("workers_stopping", workers=len(leaving))
        for place in self._places:
            place.due = None
        deadline = time.monotonic() + self._config.server.drain + _LEAVE_SECONDS
        for process in leaving:
            process.leave(QUIET)
        for process in leaving:
            process.leave(STOP if process is not leaving[-1] else LAST)
            # What it still delivers after its sockets are closed holds up nobody.
            self._mind(lambda process=process: process.ended, self._share + 1.0)  # type: ignore[misc]
        self._mind(lambda: not self._processes, deadline - time.monotonic())
        for process in self._processes:
            self._kill(process, "it did not leave in time")
        self._mind(lambda: not self._processes, 5.0)

    # -- meanwhile -----------------------------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self._stopping or self._verdict is not None

    @property
    def _share(self) -> float:
        """Seconds over which one worker closes its sockets, so that all together take `server.drain`."""
        return self._config.server.drain / len(self._places)

    def _mind(self, until: Callable[[], bool], seconds: float = float("inf")) -> None:
        """Looks after the workers until something holds or the time is up."""
        end = time.monotonic() + seconds
        while True:
            self._look_after()
            now = time.monotonic()
            if until() or now >= end:
                return
            due = min((place.due for place in self._places if place.due is not None), default=end)
            heard: list[Signals | socket.socket] = [self._woken]
            heard += [process.line for process in self._processes if not process.hung_up]
            select.select(heard, [], [], max(0.0, min(_TICK_SECONDS, end - now, due - now)))
            came = self._woken.take()
            self._stopping = self._stopping or not came.isdisjoint({signal.SIGTERM, signal.SIGINT})
            self._restart_asked = self._restart_asked or signal.SIGHUP in came

    def _look_after(self) -> None:
        for process in list(self._processes):
            process.hear()
            process.look()
            if process.ended:
                self._processes.remove(process)
                self._ended(process)
        now = time.monotonic()
        for process in self._processes:
            if now - process.heard_at > _SILENT_SECONDS:
                process.heard_at = now
                self._kill(process, "it gives no sign of life")
        for place in self._places:
            if place.process is not None and place.process.served(now) >= STEADY_SECONDS:
                place.restarts.steady()
            if place.due is not None and place.due <= now and not self._over:
                place.process = self._fork(place)
                if place.process is None:
                    place.due = now + place.restarts.died(0.0)

    def _ended(self, process: WorkerProcess) -> None:
        told = {"worker": process.number, "pid": process.pid, "code": process.how}
        if process.leaving:
            log.info("worker_ended", **told)
        place = self._places[process.number - 1]
        if process is place.successor:
            place.successor = None
            log.error("worker_died", **told)
        if process is not place.process:
            return
        place.process, place.successor = place.successor, None
        if self._over or process.leaving:
            return
        wait = place.restarts.died(process.served(time.monotonic()))
        log.error("worker_died", **told, seconds=wait)
        if place.process is None:
            place.due = time.monotonic() + wait
        refused = process.code in _REFUSED
        if (refused and not self._serving) or all(each.restarts.hopeless for each in self._places if each.starts):
            log.error("workers_given_up", reason="refused at start" if refused else "they die at once, again and again")
            self._verdict = process.code if refused else _FAILED

    def _kill(self, process: WorkerProcess, reason: str) -> None:
        if not process.ended:
            log.warning("worker_killed", worker=process.number, pid=process.pid, reason=reason)
            process.kill()

    def _fork(self, place: _Place) -> WorkerProcess | None:
        """A new worker in this place; None when the system has no process left. Raises `_Born` in the worker."""
        place.starts += 1
        place.due = None
        here, there = socket.socketpair()
        here.setblocking(False)
        sys.stdout.flush()  # else the worker would print again what is still in the buffers
        sys.stderr.flush()
        signals.block()
        try:
            pid = os.fork()
        except OSError as error:
            signals.unblock()
            here.close()
            there.close()
            log.error("worker_not_forked", worker=place.number, reason=error.strerror or type(error).__name__)
            return None
        if pid == 0:
            here.close()
            for process in self._processes:
                process.line.close()  # as long as anybody holds it, its worker would not notice the end of the supervisor
            raise _Born(self._assignment(place, there))
        there.close()
        signals.unblock()
        log.info("worker_started", worker=place.number, pid=pid)
        process = WorkerProcess(place.number, pid, here)
        self._processes.append(process)
        return process

    def _assignment(self, place: _Place, line: socket.socket) -> Assignment:
        server = self._config.server.model_copy(update={"drain": self._share})
        return Assignment(
            number=place.number,
            starts=place.starts,
            config=self._config.model_copy(update={"server": server}),
            port=self._shared.port,
            metrics_port=self._shared.metrics_port,
            operators=self._shared.operators,
            line=Line(line, self._share + _LEAVE_SECONDS),
        )
