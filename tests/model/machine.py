"""The machine that Hypothesis plays: two to four devices of one person, another person, and everything that goes wrong."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sidecar import UserHash
from sidecar.ids import hash_user
from sidecar.metrics import Metrics
from tests.model.caches import Caches, MemoryCaches
from tests.model.client import Client
from tests.model.held import Held
from tests.model.promises import Promises
from tests.model.reference import Reference
from tests.model.world import World

_PARTS = ("cache", "encryption", "persistence")
_SOON = (0.0, 0.005, 0.02, 0.1, 0.4, 2.5)
_LATE = (12.0, 1_900.0, 90_000.0, 700_000.0)
"""Seconds: past the longest debounce; past the life of a chat; past that of outcomes; past that of the log."""
_DAY = 86_400.0

which = st.integers(0, 7)
often = st.booleans()


class Sidecar(RuleBasedStateMachine):
    """One run. Every rule is a step: something that a person, the network or an operator does."""

    caches: Callable[[Path], Caches] = MemoryCaches
    real_keys = False
    metrics: Metrics
    steps = 0
    """Of all runs of this class; `test_model` counts on a subclass of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        self.world: World
        self.clients: list[Client] = []
        self.people: list[tuple[UserHash, Reference]] = []
        self._promises: Promises

    @initialize(seed=st.integers(0, 2**32 - 1), devices=st.integers(2, 4), tabs=often)
    def begin(self, seed: int, devices: int, tabs: bool) -> None:
        """`seed` fixes every delay of the run; with `tabs` the last two clients are tabs of one device."""
        random.seed(seed)
        self.world = World(self.folder, seed, type(self).metrics, caches=type(self).caches, real_keys=self.real_keys)
        alice, bob = hash_user("alice"), hash_user("bob")
        self.people = [(alice, Reference()), (bob, Reference())]
        for number in range(devices):
            device = f"device-{devices - 1 if tabs and number == devices - 2 else number}"
            self.clients.append(Client(self.world, self.people[0][1], alice, device, f"{'abcd'[number]}"))
        # The same names as the first person's: their chats have the same client chat ids.
        self.clients.append(Client(self.world, self.people[1][1], bob, "device-0", "a"))
        self._promises = Promises(self.world, self.clients, self.people)
        for client in self.clients[:2]:
            client.connect()
        self.world.pass_time(0.2)

    def _step(self, seconds: float = 0.004) -> None:
        type(self).steps += 1
        self.world.pass_time(seconds)

    def _client(self, number: int) -> Client:
        """The second person plays one time in eight."""
        return self.clients[-1] if number == 7 else self.clients[number % (len(self.clients) - 1)]

    @staticmethod
    def _chat(client: Client, number: int) -> Held:
        """One of its chats, the last ones most often; a new one where there are few."""
        chats = list(client.chats.values())
        if number >= min(len(chats), 5):
            return client.new_chat() if len(chats) < 4 or number == 7 else chats[-1]
        return chats[-1 - number]

    # -- what a person does --------------------------------------------------------------------------------------------

    @rule(who=which, chat=which)
    def types(self, who: int, chat: int) -> None:
        client = self._client(who)
        client.edit(self._chat(client, chat))
        self._step()

    @rule(who=which, chat=which)
    def types_on(self, who: int, chat: int) -> None:
        """Edits at once what it has just edited, as an autosave does."""
        client = self._client(who)
        held = self._chat(client, chat)
        client.edit(held)
        self._step(0.001)
        if held.id in client.chats:
            client.edit(held)
        self._step()

    @rule(who=which, chat=which, draft=often)
    def sends(self, who: int, chat: int, draft: bool) -> None:
        client = self._client(who)
        client.send(self._chat(client, chat), draft=draft)
        self._step()

    @rule(who=which, chat=which, clear=st.integers(0, 3))
    def entitles(self, who: int, chat: int, clear: int) -> None:
        client = self._client(who)
        held = self._chat(client, chat)
        if not client.entitle(held, clear=clear == 3):
            client.edit(held)
        self._step()

    @rule(who=which, chat=which)
    def clears(self, who: int, chat: int) -> None:
        client = self._client(who)
        held = self._chat(client, chat)
        if not client.clear(held):
            client.edit(held)
        self._step()

    @rule(who=which, chat=which, really=st.integers(0, 2))
    def deletes(self, who: int, chat: int, really: int) -> None:
        client = self._client(who)
        held = self._chat(client, chat)
        if really == 2 and held.told:
            client.delete(held)
        else:
            client.open(held)
        self._step()

    @rule(who=which, chat=which)
    def looks(self, who: int, chat: int) -> None:
        client = self._client(who)
        client.look_back(None if chat == 7 else self._chat(client, chat))
        self._step()

    @rule(who=which, last=st.integers(0, 29))
    def repeats(self, who: int, last: int) -> None:
        self._client(who).repeat(-1 - last)
        self._step()

    @rule(who=which, chat=which, other=which)
    def both_type(self, who: int, chat: int, other: int) -> None:
        """Two devices edit one chat in the same moment."""
        one, two = self._client(who), self._client(other)
        held = self._chat(one, chat)
        one.edit(held)
        if held.id in two.chats:
            two.edit(two.chats[held.id])
        self._step()

    # -- the network ---------------------------------------------------------------------------------------------------

    @rule(who=which)
    def connects(self, who: int) -> None:
        self._client(who).connect()
        self._step(0.05)

    @rule(who=which, arriving=st.integers(0, 3), lingering=st.sampled_from((0.0, 0.01, 0.3, 5.0)), again=often)
    def disconnects(self, who: int, arriving: int, lingering: float, again: bool) -> None:
        client = self._client(who)
        client.disconnect(arriving, lingering)
        if again:
            client.connect()
        self._step()

    @rule(seconds=st.sampled_from(_SOON))
    def time_passes(self, seconds: float) -> None:
        self._step(seconds)

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from(_LATE), odds=st.integers(0, 5))
    def nobody_moves(self, seconds: float, odds: int) -> None:
        """Hours pass while nothing runs, as on a laptop that sleeps; the sockets do not survive such silence."""
        if odds == 0:
            self.world.sleep(seconds)
            if seconds > _DAY:
                self._forget_outcomes()
        self._step(0.02)

    @rule(arriving=st.integers(0, 3), odds=st.integers(0, 3))
    def dies(self, arriving: int, odds: int) -> None:
        """The process is killed, and another one starts."""
        if odds == 0:
            self.world.kill(arriving)
        self._step()

    @rule(arriving=st.integers(0, 3), odds=st.integers(0, 3))
    def loses_its_cache(self, arriving: int, odds: int) -> None:
        """The process is killed, and the cache's files are gone."""
        if odds == 0:
            self._lose_cache(arriving)
        self._step()

    def _lose_cache(self, arriving: int) -> None:
        self._promises.stored()
        self.world.kill(arriving, lose_cache=True)
        self._forget_outcomes()

    def _forget_outcomes(self) -> None:
        gone = self.world.weather.replacements.forgotten()
        for _, reference in self.people:
            reference.outcomes_lost()
            reference.out_of_reach(gone)

    @rule(who=which, other=which, chat=which, edits=st.integers(1, 3), odds=st.integers(0, 2))
    def part_ways(self, who: int, other: int, chat: int, edits: int, odds: int) -> None:
        """One device edits alone, its edits are lost with the cache, another one goes on from less; then they meet (S67)."""
        one, two = self._client(who), self._client(other)
        held = self._chat(one, chat)
        if odds or one is two or one.user != two.user or held.id not in two.chats:
            one.edit(held)
        else:
            two.disconnect(0, 0.0)
            one.connect()
            for _ in range(edits):
                self.world.pass_time(0.1)
                if held.id in one.chats:
                    one.edit(held)
            self.world.pass_time(0.1)
            one.disconnect(0, 0.0)
            self._lose_cache(0)
            two.connect()
            self.world.pass_time(0.2)
            if held.id in two.chats:
                two.edit(two.chats[held.id])
            self.world.pass_time(0.1)
            one.connect()
        self._step()

    @rule(part=st.sampled_from(_PARTS), for_long=often)
    def goes_away(self, part: str, for_long: bool) -> None:
        self.world.weather.away.add(part)
        if not for_long:
            self.world.loop.call_later(1.0, self.world.weather.away.discard, part)
        self._step()

    @precondition(lambda self: self.world.weather.away)
    @rule()
    def comes_back(self) -> None:
        self.world.weather.away.clear()
        self._step()

    @rule(odds=st.integers(0, 7), fresh=often)
    def rests(self, odds: int, fresh: bool) -> None:
        """Everybody comes back, and nothing moves any more: all promises are looked at."""
        if odds == 0:
            self._promises.settle(again=fresh)
        self._step()

    def teardown(self) -> None:
        try:
            if self.people and not self.world.broken:
                self._promises.settle(again=True)
        finally:
            if self.people:
                self.world.close()
            shutil.rmtree(self.folder, ignore_errors=True)
