"""A plugin that was loaded: where it lives, how it is called, what came of its calls."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import cast

import structlog
from pydantic import BaseModel

from sidecar.errors import ConfigError, Refused, SidecarError, StartRefused, Unauthenticated, Unavailable, Unstorable
from sidecar.findings import Finding
from sidecar.hooks import Implementation
from sidecar.plugin_call import Answer, CallTimeout, PluginFailed, call_here, told, whereabouts
from sidecar.plugin_entry import PluginEntry
from sidecar.plugin_thread import PluginThread, ThreadStuck

_log = structlog.get_logger("sidecar.plugins")

_ENTER_SECONDS = 60.0  # a plugin on its own thread that is not ready by then will not be
_LEAVE_SECONDS = 10.0
_FINDINGS_SECONDS = 30.0  # it asks its server many things
_LOG_SECONDS = 10.0  # the same failure is logged at most this often


@dataclass(frozen=True, slots=True)
class CallCount:
    """Calls of one hook of one plugin since the start. A refusal is no failure; a timeout is one too."""

    calls: int = 0
    failures: int = 0
    timeouts: int = 0
    refusals: int = 0


class LoadedPlugin:
    """Plugins of a slot live on the loop that enters them, entries of `plugins:` on a thread of their own."""

    def __init__(
        self, entry: PluginEntry, instance: object, file: str | None, implementations: Mapping[str, Implementation]
    ) -> None:
        """`file`: of the module that it came from. `implementations`: by hook."""
        self.entry = entry
        self.name = entry.known_as
        self.instance = instance
        self.file = file
        self.implementations = implementations
        self.thread = None if entry.slot else PluginThread(self.name)
        self._counts = {hook: CallCount() for hook in implementations}
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}

    @property
    def counts(self) -> Mapping[str, CallCount]:
        """By hook."""
        return self._counts

    # -- life ----------------------------------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Enters the plugin where it lives. Raises `StartRefused` (also for what it raises of its own), `Unavailable`."""
        if self.thread is not None:
            await self.thread.__aenter__()
        enter = getattr(self.instance, "__aenter__", None)
        if enter is None:
            return
        try:
            answer = await self._run(enter, _ENTER_SECONDS if self.thread else None)
            self._started("entering it", answer)
        except BaseException:
            if self.thread is not None:
                await self.thread.__aexit__()
            raise

    async def provide(self, hook: str) -> object:
        """What the plugin of a slot gives for it. Errors as `enter`."""
        return self._started(hook, await self._run(self.implementations[hook].method, None))

    async def leave(self) -> None:
        """Leaves the plugin where it lives, in bounded time; what it raises is logged."""
        leave = getattr(self.instance, "__aexit__", None)
        try:
            if leave is not None:
                answer = await self._run(lambda: leave(None, None, None), _LEAVE_SECONDS)
                if answer.error is not None:
                    self._failed("__aexit__", answer.error)
        finally:
            if self.thread is not None:
                await self.thread.__aexit__()

    def _started(self, what: str, answer: Answer) -> object:
        error = answer.error
        if error is None:
            return answer.value
        if isinstance(error, StartRefused | Unavailable | ConfigError):
            raise error
        part = self.entry.slot or f"plugin {self.name}"
        raise StartRefused(part, f"{what} failed: {told(error)} at {whereabouts(error, 3)}") from None

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def call(self, hook: str, values: Mapping[str, object]) -> object:
        """Calls the hook with those of `values` that it names, under the timeout of the YAML.

        Raises `Refused`, `Unavailable` and `Unstorable` as the plugin did, `Unavailable` when its thread does not answer,
        and `PluginFailed` for anything else.
        """
        implementation = self.implementations[hook]
        method = implementation.method
        arguments = [values[name] for name in implementation.arguments]
        if self.thread is not None:  # a stranger gets copies: what it does to them stays with it
            arguments = [_copy(each) for each in arguments]
        answer = await self._run(lambda: method(*arguments), self.entry.timeout)
        error = answer.error
        if error is None:
            self._count(hook)
            return answer.value
        if isinstance(error, Refused):
            self._count(hook, refusals=1)
            raise error
        timeout = isinstance(error, CallTimeout)
        self._count(hook, failures=1, timeouts=int(timeout))
        self._failed(hook, error)
        if isinstance(error, ThreadStuck):
            raise Unavailable(self.name, str(error))
        if isinstance(error, Unavailable | Unstorable):
            raise error
        raise PluginFailed(self.name, hook, "timeout" if timeout else type(error).__name__)

    def misanswered(self, hook: str, what: str) -> PluginFailed:
        """Counts and logs an answer that the hook does not allow; `what` names its kind, not its value."""
        count = self._counts[hook]
        self._counts[hook] = dataclasses.replace(count, failures=count.failures + 1)
        failure = PluginFailed(self.name, hook, what)
        self._failed(hook, failure)
        return failure

    @property
    def takes_notices(self) -> bool:
        """Whether it has a `notice(headers, body)`."""
        return callable(getattr(self.instance, "notice", None))

    async def notice(self, headers: Mapping[str, str], body: bytes) -> Sequence[object]:
        """What its own `notice` makes of it, asked where it lives. Raises `Unauthenticated`, `Refused`, `Unavailable`."""
        value = await self._of_notice("notice", headers, body)  # `takes_notices` was asked before
        return tuple(value) if isinstance(value, Iterable) else ()

    async def notice_id(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """What it says makes a notice this one and no other; None where it does not say. Asked of one that it has taken."""
        if not callable(getattr(self.instance, "notice_id", None)):
            return None
        return str(await self._of_notice("notice_id", headers, body))

    async def _of_notice(self, name: str, headers: Mapping[str, str], body: bytes) -> object:
        method = getattr(self.instance, name)

        async def ask() -> object:
            said = method(headers, body)
            return await said if inspect.isawaitable(said) else said

        answer = await self._run(ask, self.entry.timeout)
        if answer.error is None:
            return answer.value
        if isinstance(answer.error, Unauthenticated | Refused | Unavailable):
            raise answer.error
        self._failed(name, answer.error)
        raise Unavailable(self.name, "its plugin failed over the notice")

    async def state(self) -> object:
        """What the plugin's own `state()` says, asked where it lives; `"ok"` where it has none."""
        if self.thread is not None and (blocked := self.thread.blocked_for()) > 0.5:
            return {"ok": False, "reason": f"its thread has not answered for {blocked:.1f} s"}
        method = getattr(self.instance, "state", None)
        if not callable(method):
            return "ok"

        async def ask() -> object:
            said = method()
            return await said if inspect.isawaitable(said) else said

        answer = await self._run(ask, min(self.entry.timeout, 1.0))
        if answer.error is None:
            return answer.value
        return {"ok": False, "reason": told(answer.error)}

    @property
    def bootstraps(self) -> bool:
        """Whether the plugin has something to make before it can be entered."""
        return callable(getattr(self.instance, "bootstrap", None))

    async def bootstrap(self, dry_run: bool) -> Sequence[str]:
        """What the plugin made, or would make, a line each. It must not be entered: what it needs for this it opens itself.

        Raises what the plugin did of `SidecarError`, and `PluginFailed` for anything else.
        """
        make = getattr(self.instance, "bootstrap")  # noqa: B009  # optional, found by name
        async with AsyncExitStack() as stack:
            if self.thread is not None:
                await stack.enter_async_context(self.thread)
            answer = await self._run(lambda: make(dry_run), None)
        error = answer.error
        if isinstance(error, SidecarError):
            raise error
        if error is not None:
            raise PluginFailed(self.name, "bootstrap", f"{told(error)} at {whereabouts(error, 3)}")
        steps = answer.value
        if not isinstance(steps, list | tuple) or not all(isinstance(step, str) for step in steps):
            raise PluginFailed(self.name, "bootstrap", "it must return a list of lines")
        return tuple(steps)

    async def findings(self) -> Sequence[Finding]:
        """What the plugin finds wrong where it looks, for `doctor`; asked where it lives, once it was entered.

        A plugin that cannot look (what it raises, a timeout) is itself the finding.
        """
        method = getattr(self.instance, "findings", None)
        if not callable(method):
            return ()

        async def ask() -> object:
            said = method()
            return await said if inspect.isawaitable(said) else said

        answer = await self._run(ask, _FINDINGS_SECONDS)
        error, found = answer.error, answer.value
        if isinstance(error, SidecarError):
            return (finding_of(error),)
        if error is None and not (
            isinstance(found, list | tuple) and all(isinstance(each, Finding | str) for each in found)
        ):
            return (_unlooked("it must return a list of sidecar.Finding"),)
        if error is not None:
            return (_unlooked(f"{told(error)} at {whereabouts(error, 3)}"),)
        # A bare line is what a plugin says that knows no better.
        return tuple(
            each if isinstance(each, Finding) else Finding("said", "warning", *_halves(each))
            for each in cast("Sequence[Finding | str]", found)
        )

    async def _run(self, make: Callable[[], Awaitable[object]], seconds: float | None) -> Answer:
        return await (self.thread.call(make, seconds) if self.thread is not None else call_here(make, seconds))

    def _count(self, hook: str, *, failures: int = 0, timeouts: int = 0, refusals: int = 0) -> None:
        count = self._counts[hook]
        self._counts[hook] = CallCount(
            count.calls + 1, count.failures + failures, count.timeouts + timeouts, count.refusals + refusals
        )

    def _failed(self, hook: str, error: BaseException) -> None:
        kind = (hook, type(error).__name__)
        if kind not in self._logged and len(self._logged) >= 64:
            kind = (hook, "")  # error types made up at run time shall not fill the memory
        now = time.monotonic()
        last, skipped = self._logged.get(kind, (float("-inf"), 0))
        if now - last < _LOG_SECONDS:
            self._logged[kind] = (last, skipped + 1)
            return
        self._logged[kind] = (now, 0)
        at = "" if isinstance(error, SidecarError) and error.__traceback__ is None else whereabouts(error)
        _log.warning("plugin failed", plugin=self.name, hook=hook, error=told(error), at=at, repeated=skipped)


def finding_of(error: SidecarError) -> Finding:
    """What a part that did not start, or did not answer, says of itself. The texts of these errors end with what to do."""
    if isinstance(error, StartRefused):
        says, remedy = _halves(str(error).removeprefix(f"{error.part}: "))
        return Finding("refused", "error", says, remedy)
    if isinstance(error, Unavailable):
        says, remedy = _halves(str(error), "see that it runs and can be reached from this host")
        return Finding("unavailable", "error", says, remedy)
    return Finding("failed", "error", f"{type(error).__name__}: {error}", "look at the log of the sidecar")


def _unlooked(why: str) -> Finding:
    return Finding("findings", "warning", f"its findings() failed: {why}", "report it to the plugin's author")


def _halves(text: str, otherwise: str = "see the plugin's documentation") -> tuple[str, str]:
    says, _, remedy = text.partition("; ")
    return says, remedy or otherwise


def _copy(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_copy()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value)
    return value  # str, bytes, int, datetime, tuples of them: nobody can change these


async def ask_all(calls: Mapping[str, Awaitable[object]]) -> Mapping[str, object | SidecarError]:
    """Awaits all at once; a `SidecarError` is the answer of the one that raised it. Cancelled, it cancels them all."""

    async def one(call: Awaitable[object]) -> object | SidecarError:
        try:
            return await call
        except SidecarError as error:
            return error

    if len(calls) == 1:
        [(name, only)] = calls.items()
        return {name: await one(only)}
    return dict(zip(calls, await asyncio.gather(*map(one, calls.values())), strict=True))
