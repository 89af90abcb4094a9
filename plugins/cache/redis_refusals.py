"""What Redis says instead of an answer, in the core's words: never what it said itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ResponseError,
)

from sidecar import Unavailable

log = structlog.get_logger("plugins.cache.redis")


def reason_of(error: BaseException) -> str:
    """What happened, in words for an operator; never what was sent."""
    if isinstance(error, BusyLoadingError):
        return "Redis is loading its data"
    if isinstance(error, TimeoutError):
        return "Redis did not answer in time"
    if isinstance(error, AuthenticationError):
        return "Redis refuses this user or password; see cache.options.url"
    text = str(error).splitlines()[0][:200] if str(error) else ""
    return text or type(error).__name__


@dataclass(frozen=True, slots=True)
class _Refusal:
    begins: str | type[ResponseError]
    """The first word of the answer, or what redis-py makes of it, which then leaves the word out."""
    says: str
    pause: float = field(default=0.5)

    def is_of(self, error: ResponseError) -> bool:
        return str(error).startswith(self.begins) if isinstance(self.begins, str) else isinstance(error, self.begins)


_REFUSALS = (
    _Refusal(OutOfMemoryError, "Redis has reached maxmemory; give it more, or let messages be stored", 1.0),
    _Refusal("MISCONF", "Redis cannot save its data and takes no writes; look at its log and its disk", 1.0),
    _Refusal("BUSY", "Redis is busy with a script", 0.2),
    _Refusal(MasterDownError, "the Redis replica has lost its primary", 0.5),
    _Refusal(ClusterDownError, "the Redis cluster does not cover every slot", 0.5),
    _Refusal("NOREPLICAS", "Redis has too few replicas to take writes", 0.5),
    _Refusal("UNKILLABLE", "Redis is busy with a script", 0.2),
    _Refusal(NoPermissionError, "Redis denies this user a command or key; see docs/redis.md for what is needed"),
)


def refusal(error: ResponseError) -> Unavailable:
    """What Redis answered instead, as the core knows it."""
    kind = type(error).__name__
    for each in _REFUSALS:
        if each.is_of(error):
            return Unavailable("cache", each.says, retry_after=each.pause)
    if "OOM " in str(error):  # told in the middle of a script's error, as other servers do
        return refusal(OutOfMemoryError())
    log.error("redis_refused", error=kind)
    return Unavailable("cache", f"Redis refused a call ({kind})", retry_after=1.0)
