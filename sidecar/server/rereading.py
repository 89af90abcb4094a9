"""The configuration read anew while its workers run."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from sidecar.config import Config
from sidecar.errors import ConfigError

Reread = Callable[[], Config]
"""Reads the configuration anew. Raises `ConfigError`."""

_FIXED = ("host", "port", "workers", "metrics_port")
"""Keys of `server` that hold as long as the supervisor does; `data_dir` does too."""

log = structlog.get_logger("sidecar.supervisor")


def reread(present: Config, read: Reread) -> Config | None:
    """What the configuration says now, but for the keys that cannot change. None when it is wrong, which is logged."""
    try:
        config = read()
    except ConfigError as error:
        for problem in error.problems:
            log.error(
                "configuration_refused",
                path=problem.path,
                line=problem.line,
                reason=problem.message,
                remedy=problem.remedy,
            )
        return None
    fixed = {name: getattr(present.server, name) for name in _FIXED}
    changed = [f"server.{name}" for name, value in fixed.items() if getattr(config.server, name) != value]
    if config.data_dir != present.data_dir:
        changed.append("data_dir")
    if changed:
        log.warning("restart_needed", names=changed, reason="these keys hold until the sidecar is started anew")
    server = config.server.model_copy(update=fixed)
    return config.model_copy(update={"server": server, "data_dir": present.data_dir})
