"""The outbox in the memory of one process: one shard, a queue per plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from plugins.cache.journal_line import Line
from plugins.cache.memory_leases import MemoryLeases
from plugins.cache.memory_person import Slot
from plugins.cache.memory_queue import Key, Queue
from plugins.cache.memory_state import State
from sidecar import ChatId, Entry, Lease, LeaseLost, Outbox, Position, UserHash

_SHARD = "outbox:0"
_DUE = 1000  # chats whose edits one call appends, at most; the rest comes with the next


class MemoryOutbox(Outbox):
    """Every method runs without an await, so each is one atomic step."""

    def __init__(self, state: State, leases: MemoryLeases) -> None:
        self._state = state
        self._leases = leases

    def _check(self, shard: Lease, now: float) -> None:
        if shard.name != _SHARD or not self._leases.current(shard, now):
            raise LeaseLost(f"{shard.holder} holds {shard.name} no longer under fence {shard.fence}")

    async def join(self, plugins: Sequence[str]) -> None:
        now = self._state.now()
        new = [name for name in dict.fromkeys(plugins) if name not in self._state.queues]
        if new:
            line = Line()
            line.joined(new)
            self._state.write(line, None, now)
            for name in new:
                self._state.queues[name] = Queue()

    async def pending(self, shard: Lease, plugin: str, limit: int) -> Sequence[Entry]:
        now = self._state.now()
        self._check(shard, now)
        self._append_due(now)
        queue = self._state.queues.get(plugin)
        return queue.hand_out(limit) if queue is not None else ()

    def _append_due(self, now: float) -> None:
        """An entry for each draft and title whose time has come, all in one record of the journal."""
        state = self._state
        taken = list(state.dues.take(now, _DUE))
        if not taken:
            return
        line = Line()
        new: list[tuple[Slot, Entry, Sequence[Queue]]] = []
        for user, chat_id in taken:
            person = state.persons.get(user)
            slot = person.chats.get(chat_id) if person is not None else None
            if slot is None or slot.chat.doomed:
                continue
            chat = slot.chat
            if chat.version > max(slot.draft_enqueued, chat.stored_version):
                new.append(self._due_entry(line, slot, "draft", now))
            if chat.title_version > max(slot.title_enqueued, chat.stored_title_version):
                new.append(self._due_entry(line, slot, "title", now))
        try:
            state.write(line, None, now)
        except BaseException:
            for user, chat_id in taken:
                state.dues.mark(user, chat_id, now, now)
            raise
        for slot, entry, queues in new:
            if entry.kind == "draft":
                slot.draft_enqueued = slot.chat.version
            else:
                slot.title_enqueued = slot.chat.title_version
            state.append(entry, queues)
        state.released([(user, chat_id) for user, chat_id in taken], now)

    def _due_entry(self, line: Line, slot: Slot, kind: str, now: float) -> tuple[Slot, Entry, Sequence[Queue]]:
        chat = slot.chat
        entry = Entry(
            self._state.next_entry(),
            chat.user,
            chat.id,
            "draft" if kind == "draft" else "title",
            None,
            datetime.fromtimestamp(now, UTC),
        )
        queues, waiting, parked = self._state.targets((chat.user, chat.id), kind)
        if queues:
            line.entry(entry, waiting, parked)
        return slot, entry, queues

    async def settle(
        self, shard: Lease, plugin: str, done: Sequence[str], failed: Sequence[str], parked: Sequence[str]
    ) -> None:
        state = self._state
        now = state.now()
        self._check(shard, now)
        queue = state.queues.get(plugin)
        if queue is None:
            return
        line = Line()
        passed = [entry_id for entry_id in done if queue.get(entry_id) is not None]
        gone = set(passed)
        aside = [
            later
            for entry_id in parked
            if entry_id not in gone
            for later in queue.following(entry_id)
            if later not in gone
        ]
        tries = []
        for entry_id in failed:
            entry = queue.get(entry_id)
            if entry is not None and entry_id not in gone and not queue.is_parked(entry_id):
                tries.append((entry_id, entry.tries + 1))
        if passed:
            line.passed(plugin, passed)
        if tries:
            line.tried(plugin, tries)
        if aside:
            line.parked(plugin, aside)
        state.write(line, None, now)
        keys: list[Key] = []
        for entry_id in passed:
            key = queue.remove(entry_id)
            if key is not None:
                keys.append(key)
        for entry_id, number in tries:
            queue.set_tries(entry_id, number)
        for entry_id in aside:
            queue.park(entry_id)
        state.released(keys, now)

    async def parked(self, plugin: str, replay: Sequence[str] = (), drop: Sequence[str] = ()) -> Sequence[Entry]:
        """An entry goes back only with or after the earlier ones of its chat; what is dropped is out of their way."""
        state = self._state
        now = state.now()
        queue = state.queues.get(plugin)
        if queue is None:
            return ()
        gone = [entry_id for entry_id in dict.fromkeys(drop) if queue.is_parked(entry_id)]
        back = queue.replayable(replay, gone)
        line = Line()
        if gone:
            line.passed(plugin, gone)
        if back:
            line.tried(plugin, [(entry_id, 0) for entry_id in back])
        state.write(line, None, now)
        keys = [key for entry_id in gone if (key := queue.remove(entry_id)) is not None]
        if back:
            queue.replay(back)
        state.released(keys, now)
        return queue.parked

    async def hurry(self, user: UserHash | None = None) -> None:
        self._state.now()
        self._state.dues.hurry(user)

    async def positions(self) -> Mapping[str, Position]:
        self._state.now()
        return {name: Position(*queue.counts) for name, queue in self._state.queues.items()}

    async def forget(self, plugin: str) -> None:
        state = self._state
        now = state.now()
        queue = state.queues.get(plugin)
        if queue is None:
            return
        line = Line()
        line.left(plugin)
        state.write(line, None, now)
        del state.queues[plugin]
        keys: list[tuple[UserHash, ChatId | None]] = [
            (entry.user, entry.chat_id) for user in queue.everybody() for entry in queue.of_user(user)
        ]
        state.released(keys, now)
