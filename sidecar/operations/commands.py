"""The table of operators' commands, and the one place where their failures become a line.

| command | arguments |
|---|---|
| `plugins-positions` | none |
| `plugins-forget` | `name` |
| `dead-letters-list` | `plugin`, `chat` |
| `dead-letters-replay`, `dead-letters-drop` | `plugin`, `chat`, `all`; one of them must choose something |
| `keys-rotate`, `keys-reseal` | `chat`, `user`; neither means everything |
| `keys-prune` | `chat`, `user`, `grace` (seconds, 60) |
| `keys-destroy` | `chat`, `user` |
| `users-devices`, `users-disconnect`, `users-erase` | `user` |
| `doctor` | none |

`user` is always the hash. Rows and results are said at each command.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType

import structlog

from sidecar.config import Config
from sidecar.errors import SidecarError, Unavailable
from sidecar.operations.arguments import Arguments, read_arguments
from sidecar.operations.dead_letters import drop_letters, list_letters, replay_letters
from sidecar.operations.destroying import destroy_chat
from sidecar.operations.diagnosing import diagnose
from sidecar.operations.erasing import erase
from sidecar.operations.lines import Line, OperationRefused, error
from sidecar.operations.persons import disconnect, list_devices
from sidecar.operations.positions import forget_position, list_positions
from sidecar.operations.pruning import prune_keys
from sidecar.operations.resealing import reseal
from sidecar.operations.rotation import rotate_keys
from sidecar.operations.work import Live, Work
from sidecar.parts import Parts
from sidecar.plugins import Plugins

_COMMANDS: Mapping[str, Callable[[Work, Arguments], AsyncGenerator[Line, None]]] = MappingProxyType(
    {
        "plugins-positions": list_positions,
        "plugins-forget": forget_position,
        "dead-letters-list": list_letters,
        "dead-letters-replay": replay_letters,
        "dead-letters-drop": drop_letters,
        "keys-rotate": rotate_keys,
        "keys-reseal": reseal,
        "keys-destroy": destroy_chat,
        "keys-prune": prune_keys,
        "users-devices": list_devices,
        "users-disconnect": disconnect,
        "users-erase": erase,
        "doctor": diagnose,
    }
)

DESTRUCTIVE = frozenset(_COMMANDS) - {
    "plugins-positions",
    "dead-letters-list",
    "users-devices",
    "users-disconnect",
    "doctor",
}
"""Commands that change what is kept: a server does one of them at a time."""
TO_THE_END = frozenset({"keys-destroy", "users-erase"})
"""Commands that are finished even when whoever gave them has gone: half of it would be worse than all or nothing."""

log = structlog.get_logger("sidecar.operations")


async def perform(
    config: Config, plugins: Plugins, parts: Parts, command: str, arguments: Mapping[str, object], live: Live | None
) -> AsyncGenerator[Line, None]:
    """Carries out one command on open parts. Every failure is its last line; nothing is raised but a cancellation."""
    try:
        carry_out = _COMMANDS.get(command)
        if carry_out is None:
            raise OperationRefused(
                f"there is no command {command[:64]!r}", f"the commands are: {', '.join(sorted(_COMMANDS))}"
            )
        given = read_arguments(arguments)
        if command in DESTRUCTIVE:
            log.info("an operator's command", name=command, user=given.user, chat=given.chat, plugin=given.plugin)
        async with aclosing(carry_out(Work(config, plugins, parts, live), given)) as lines:
            async for line in lines:
                yield line
    except Exception as failure:  # noqa: BLE001  # every failure becomes a line
        yield _failed(command, failure)


def _failed(command: str, failure: Exception) -> Line:
    match failure:
        case OperationRefused():
            return error(failure.message, failure.remedy)
        case Unavailable():
            return error(str(failure), "run the command again when /readyz says that this part serves")
        case SidecarError():  # their texts hold no content, by their rule
            return error(f"{type(failure).__name__}: {failure}", "see the log of the sidecar")
        case _:
            incident = secrets.token_hex(6)
            log.error("an operator's command failed", incident=incident, name=command, exc_info=failure)
            return error(
                f"something unexpected happened (incident {incident})",
                "look for the incident in the log, and report it",
            )
