"""One call of a plugin and what came of it, told without a word of what the plugin may have put into its errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sidecar.errors import SidecarError


class PluginFailed(SidecarError):
    """A plugin's hook raised something of its own, took too long, or answered with what the hook does not allow.

    `kind` is the type of its error, or `timeout`. The plugin's own text is not kept: it may repeat what a person wrote.
    """

    def __init__(self, plugin: str, hook: str, kind: str) -> None:
        super().__init__(f"plugin {plugin}: {hook} failed: {kind}")
        self.plugin = plugin
        self.hook = hook
        self.kind = kind


class CallTimeout(SidecarError):
    """The call was not over in time; it was cancelled, or will be once the plugin lets go of its thread."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended: with a value, or with an error. An error is a value here, so that a plugin's own `CancelledError`
    or `SystemExit` is never taken for the core's."""

    value: object = None
    error: BaseException | None = None


async def call_here(make: Callable[[], Awaitable[object]], seconds: float | None) -> Answer:
    """Calls on the loop that is running; None has no deadline. Only a cancellation of the caller comes out as an exception,
    and `KeyboardInterrupt`, which on the main thread may be a person's."""
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        async with asyncio.timeout(seconds) as deadline:
            return Answer(await make())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a plugin throws, SystemExit too, ends this call and nothing else
        if isinstance(error, asyncio.CancelledError) and task and task.cancelling() > cancellations:
            raise
        if deadline.expired() and isinstance(error, TimeoutError):
            return Answer(error=CallTimeout(seconds or 0.0))
        return Answer(error=error)


def told(error: BaseException) -> str:
    """The type of an error; with it what is safe to tell: our own errors' text, the system's word for an `OSError`."""
    name = type(error).__name__
    if isinstance(error, SidecarError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name} ({os.strerror(error.errno)})"
    return name


def whereabouts(error: BaseException, most: int = 8) -> str:
    """Where an error was raised: `file:line in function`, innermost first; no source lines, no values.

    A file that did not compile is named with the line that did not.
    """
    places = []
    if isinstance(error, SyntaxError) and error.filename:
        places.append(f"{error.filename}:{error.lineno or 0}")
    step = error.__traceback__
    folder = os.path.dirname(__file__)  # noqa: PTH120 - compared with what a code object holds, as it is
    ours = {os.path.join(folder, f"{name}.py") for name in ("plugin_call", "plugin_thread", "loaded_plugin")}  # noqa: PTH118
    frames = []
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_filename not in ours and not code.co_filename.startswith("<frozen"):
            frames.append(f"{code.co_filename}:{step.tb_lineno} in {code.co_name}")
        step = step.tb_next
    places += reversed(frames[-most:])
    return " < ".join(places) or "unknown place"
