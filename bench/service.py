"""Everything on the serving side that one figure is about: server processes, and their Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.redis_server import RedisServer
from bench.served import Served


@dataclass(frozen=True, slots=True)
class Service:
    """Running servers that a person's devices may reach, one like another."""

    servers: Sequence[Served]
    redis: RedisServer | None = None
    cores: Sequence[int] = ()
    """Where they run."""

    @property
    def url(self) -> str:
        return self.servers[0].url

    def urls(self, number: int) -> tuple[str, str]:
        """Of the two devices of that person: on different processes if there are two, and the other way round for the next."""
        count = len(self.servers)
        return self.servers[number % count].url, self.servers[(number + 1) % count].url

    def cpu(self) -> float:
        """Seconds of CPU time that the server processes have used so far."""
        return sum(served.cpu() for served in self.servers)

    def redis_cpu(self) -> float:
        """Seconds of CPU time that Redis has used so far."""
        return 0.0 if self.redis is None else self.redis.cpu()
