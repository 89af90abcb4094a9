"""What the scripts need to know at every call, packed once."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.cache.redis_layout import Keys
from plugins.cache.redis_records import pack
from sidecar import Limits


class ScriptSettings:
    """The core's limits, this process and its listeners, and the shard. `skew` moves the scripts' clock, for tests of lifetimes."""

    def __init__(self, keys: Keys, process: str) -> None:
        self.keys = keys
        self.process = process
        self.channel = f"{keys.prefix}:notice:"
        """Before the name of a process: where it hears what others do."""
        self._limits = Limits()
        self._skew = 0
        self._plugins: Sequence[str] = ()
        self._packed: dict[int | None, bytes] = {}

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._packed.clear()

    @property
    def skew(self) -> float:
        """Seconds by which the scripts' clock is ahead of the server's."""
        return self._skew / 1000

    @skew.setter
    def skew(self, seconds: float) -> None:
        self._skew = round(seconds * 1000)
        self._packed.clear()

    @property
    def plugins(self) -> Sequence[str]:
        """The names that have joined by this process. A shard that was lost has them again with the first entry."""
        return self._plugins

    @plugins.setter
    def plugins(self, names: Sequence[str]) -> None:
        self._plugins = tuple(names)
        self._packed.clear()

    def packed(self, shard: int | None) -> bytes:
        """The settings in the order of `redis_layout.SETTINGS`; None: for scripts that leave the outbox alone, whatever the shard."""
        packed = self._packed.get(shard)
        if packed is None:
            limits = self._limits
            times = (limits.ttl, limits.draft_ttl, limits.debounce, limits.max_debounce)
            packed = self._packed[shard] = pack(
                [
                    *(self._skew, self.process, str(shard or 0), self.channel, limits.active),
                    *(round(seconds * 1000) for seconds in times),
                    *(limits.draft_chats, limits.bytes, limits.events_kept, round(limits.events_ttl * 1000)),
                    *(round(limits.tombstones_ttl * 1000), round(limits.outcomes_ttl * 1000), limits.messages_kept),
                    self._plugins,
                ]
            )
        return packed
