"""The machine that Hypothesis plays: two to four devices of one person, another person, and everything that goes wrong."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sidecar import ChatId, ChatInDB, Field, MessageId, UserHash
from sidecar.ids import hash_user
from sidecar.metrics import Metrics
from tests.model.client import Client, Held
from tests.model.reference import Broken, Reference
from tests.model.world import World

_PARTS = ("cache", "encryption", "persistence")
_SOON = (0.0, 0.005, 0.02, 0.1, 0.4, 2.5)
_LATE = (12.0, 1_900.0, 90_000.0, 700_000.0)
"""Seconds: past the longest debounce; past the life of a chat; past that of outcomes; past that of the log."""
_DAY = 86_400.0
_PATIENCE = 400.0
"""Seconds in which everything must have come to rest, the longest pause of the outbox included."""

which = st.integers(0, 7)
often = st.booleans()


class Sidecar(RuleBasedStateMachine):
    """One run. Every rule is a step: something that a person, the network or an operator does."""

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

    @initialize(seed=st.integers(0, 2**32 - 1), devices=st.integers(2, 4), tabs=often)
    def begin(self, seed: int, devices: int, tabs: bool) -> None:
        """`seed` fixes every delay of the run; with `tabs` the last two clients are tabs of one device."""
        random.seed(seed)
        self.world = World(self.folder, seed, type(self).metrics, real_keys=self.real_keys)
        alice, bob = hash_user("alice"), hash_user("bob")
        self.people = [(alice, Reference()), (bob, Reference())]
        for number in range(devices):
            device = f"device-{devices - 1 if tabs and number == devices - 2 else number}"
            self.clients.append(Client(self.world, self.people[0][1], alice, device, f"{'abcd'[number]}"))
        # The same names as the first person's: their chats have the same client chat ids.
        self.clients.append(Client(self.world, self.people[1][1], bob, "device-0", "a"))
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
        self._what_was_stored()
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
            self.settle(again=fresh)
        self._step()

    def teardown(self) -> None:
        try:
            if self.people and not self.world.broken:
                self.settle(again=True)
        finally:
            if self.people:
                self.world.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- the promises --------------------------------------------------------------------------------------------------

    def settle(self, *, again: bool) -> None:
        """All reconnect and sync until nothing moves; then everything that was promised must hold. `again`: twice."""
        self.world.weather.away.clear()
        self._until_quiet()
        self._check()
        if again:
            for client in self.clients:
                client.disconnect(0, 0.0)
            self._until_quiet()
            for client in self.clients:
                if client.chats_received:
                    raise Broken(f"nothing changed, and {client.name} was sent {client.chats_received} chats")
            self._check()

    def _until_quiet(self) -> None:
        waited, quiet = 0.0, 0
        while quiet < 2:  # twice: what is about to leave the server is nowhere to be seen
            quiet = quiet + 1 if self._quiet() else 0
            for client in self.clients:
                client.connect()
            self.world.pass_time(0.25)
            waited += 0.25
            if waited > _PATIENCE:
                raise Broken(f"this never comes to rest: {self._restless()}")

    def _quiet(self) -> bool:
        if not all(client.quiet for client in self.clients):
            return False
        position = self.world.run(self.world.life.cache.outbox.positions())["persistence"]
        if position.parked:
            raise Broken(f"{position.parked} entries were parked")
        return not position.pending and not self._dirty()

    def _dirty(self) -> bool:
        """Whether a draft or title of a persisted chat waits to be written."""
        for user, _ in self.people:
            ids = [chat_id for client in self.clients if client.user == user for chat_id in client.chats]
            here = self.world.run(self.world.life.cache.chats.read(user, ids))  # type: ignore[arg-type]
            if any(getattr(chat, "dirty", False) and chat.persisted for chat in here.values()):
                return True
        return False

    def _restless(self) -> str:
        return "; ".join(
            f"{client.name}: synced {client.synced}, linked {client.link is not None}, outbox {list(client.outbox)}, "
            + ", ".join(f"{chat.id} {chat.ops}" for chat in client.chats.values() if chat.ops or chat.incomplete)
            for client in self.clients
            if not client.quiet
        )

    def _check(self) -> None:
        for user, reference in self.people:
            clients = [client for client in self.clients if client.user == user]
            shown = clients[0].shown
            for client in clients[1:]:
                if client.shown != shown:
                    raise Broken(f"devices disagree:\n{_difference(clients[0], client)}")
            self._check_texts(reference, shown)
            self._check_messages(reference, shown)
            self.world.run(self._check_rows(user, shown))

    @staticmethod
    def _check_texts(reference: Reference, shown: dict[str, Any]) -> None:
        current = [chat[name][0] for chat in shown.values() for name in ("draft", "title")]
        messages = [text for chat in shown.values() for _, text, _ in chat["messages"]]
        lost = reference.lost(current, messages)
        if lost:
            raise Broken(f"gone: {[(token, reference.typed[token]) for token in lost]}")
        drafts = {chat_id: chat["draft"][0] for chat_id, chat in shown.items()}
        back = reference.come_back(drafts, reference.consumed)
        if back:
            raise Broken(f"sent or removed, and back: {back}")
        alive = reference.gone & shown.keys()
        if alive:
            raise Broken(f"deleted, and back: {alive}")

    @staticmethod
    def _check_messages(reference: Reference, shown: dict[str, Any]) -> None:
        for chat_id, chat in shown.items():
            sequences = [sequence for sequence, _, _ in chat["messages"]]
            texts = [text for _, text, _ in chat["messages"]]
            if len(sequences) != len(set(sequences)) or len(texts) != len(set(texts)):
                raise Broken(f"{chat_id} has {chat['messages']}")
            if any(status != "delivered" for _, _, status in chat["messages"]):
                raise Broken(f"{chat_id} has not delivered {chat['messages']}")
            sent = {
                token for token, typed in reference.typed.items() if (typed.chat, typed.what) == (chat_id, "message")
            }
            if sent != set(texts):
                raise Broken(f"{chat_id} shows {texts}, and {sent} were sent")

    async def _check_rows(self, user: UserHash, shown: dict[str, Any]) -> None:
        """The store opens to exactly what devices show, and knows nothing of a chat without a message."""
        life = self.world.life
        page = await life.sqlite.on_sync(user, None, 1000)
        stored = {chat_id: chat for chat_id, chat in shown.items() if chat["messages"]}
        if {row.id for row in page.items} != stored.keys() or len(page.items) != page.total:
            raise Broken(f"the store has {sorted(row.id for row in page.items)}, devices show {sorted(stored)}")
        for row in page.items:
            opened = await self._opened(row)
            if opened != stored[row.id]:
                raise Broken(f"the store has {opened} of {row.id}, devices show {stored[row.id]}")

    async def _opened(self, row: ChatInDB) -> dict[str, Any]:
        life, user, key = self.world.life, row.hashed_user_id, row.vault_key_reference
        draft = title = None
        if row.draft is not None:
            draft = _text(await life.cipher.open(key, Field(user, row.id, "draft", row.id, row.version), row.draft))
        if row.title is not None:
            field = Field(user, row.id, "title", row.id, row.title_version)
            title = (await life.cipher.open(key, field, row.title)).decode()
        page = await life.store.messages(user, row.id, None, 1000)
        messages = [
            (
                message.sequence,
                _text(await life.cipher.open(key, Field(user, row.id, "message", message.id, 0), message.content)),
                "delivered",
            )
            for message in reversed(page.items)
        ]
        return {
            "draft": (draft, row.draft_state, row.version, row.draft_op),
            "title": (title, row.title_version, row.title_op),
            "messages": messages,
            "messages_version": row.messages_version,
        }

    def _what_was_stored(self) -> None:
        """Before the cache goes: what a device was told to be stored is in the store, at least in that version."""
        self.world.run(self._look_up_promises())

    async def _look_up_promises(self) -> None:
        store = self.world.life.store
        # First what they were told until now: more is told while the store is asked.
        told = [
            (
                client,
                chat.id,
                chat.draft.version if chat.draft.stored else 0,
                chat.title.version if chat.title.stored else 0,
                [each for each, message in chat.messages.items() if message.status == "delivered"],
            )
            for client in self.clients
            for chat in client.chats.values()
            if chat.id not in self._doomed()
        ]
        for client, chat_id, version, title_version, delivered in told:
            row = (await store.known(client.user, [ChatId(chat_id)])).get(ChatId(chat_id))
            there = (row.version, row.title_version) if row is not None else (0, 0)
            if there[0] < version or there[1] < title_version:
                raise Broken(
                    f"{client.name} was told that {version, title_version} of {chat_id} is stored, not {there}"
                )
            if len(await store.find(client.user, ChatId(chat_id), [MessageId(each) for each in delivered])) < len(
                delivered
            ):
                raise Broken(f"{client.name} was told of delivered messages of {chat_id} that the store lacks")

    def _doomed(self) -> set[str]:
        return {chat_id for _, reference in self.people for chat_id in reference.deleted}


def _text(raw: bytes) -> str:
    text: str = orjson.loads(raw)["content"][0]["content"][0]["text"]
    return text


def _difference(one: Client, other: Client) -> str:
    mine, theirs = one.shown, other.shown
    return "\n".join(
        f"{chat_id}\n  {one.name}: {mine.get(chat_id)}\n  {other.name}: {theirs.get(chat_id)}"
        for chat_id in sorted(mine.keys() | theirs.keys())
        if mine.get(chat_id) != theirs.get(chat_id)
    )
