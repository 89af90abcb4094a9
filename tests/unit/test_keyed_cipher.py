from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar import ChatId, Field, KeyedCipher, KeyGone, KeyReference, Sealed, Unavailable, Undecryptable, UserHash
from sidecar.envelope import key_version_of
from sidecar.slots import keyed_cipher

USER = UserHash("ab" * 32)
KEY = KeyReference("ref-1")
FIELD = Field(USER, ChatId("abababab_c"), "draft", "abababab_c", 1)
TEXT = b"a canary that sings"


class Source(KeyedCipher):
    """Keys in a dict; counts how often it is asked, and may be made to wait or to fail."""

    def __init__(self) -> None:
        self.versions: dict[KeyReference, dict[int, bytes]] = {}
        self.asked = 0
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def read_key(self, key: KeyReference) -> Mapping[int, bytes]:
        self.asked += 1
        found = dict(self.versions[key]) if key in self.versions else None  # what holds when the question arrives
        failure = self.failure
        await self.gate.wait()
        if failure is not None:
            raise failure
        if found is None:
            raise Undecryptable("there is no key under this reference")
        return found

    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        self.versions.setdefault(KEY, {1: bytes(32)})
        return KEY

    async def rotate(self, key: KeyReference) -> None:
        newest = max(self.versions[key])
        self.versions[key][newest + 1] = bytes([newest + 1]) * 32
        self.drop_cached(key)

    async def destroy(self, key: KeyReference) -> None:
        self.failure = KeyGone("destroyed")
        self.drop_cached(key)

    async def forget(self, key: KeyReference) -> None:
        self.versions.pop(key, None)
        self.drop_cached(key)


@pytest.fixture
async def source() -> Source:
    source = Source()
    await source.begin(USER, FIELD.chat_id)
    return source


async def test_one_reading_serves_all_who_wait(source: Source) -> None:
    source.gate.clear()
    calls = [asyncio.create_task(source.seal(KEY, FIELD, TEXT)) for _ in range(100)]
    await asyncio.sleep(0)
    source.gate.set()
    assert len(set(await asyncio.gather(*calls))) == 100
    assert source.asked == 1
    await source.seal(KEY, FIELD, TEXT)
    assert source.asked == 1
    assert (source.hits, source.misses) == (1, 100)


async def test_a_cancelled_caller_does_not_take_the_reading_away_from_others(source: Source) -> None:
    source.gate.clear()
    first = asyncio.create_task(source.seal(KEY, FIELD, TEXT))
    second = asyncio.create_task(source.seal(KEY, FIELD, TEXT))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await source.open(KEY, FIELD, await second) == TEXT
    assert first.cancelled()
    assert source.asked == 1


async def test_a_failed_reading_that_nobody_waits_for_is_silent(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    source.gate.clear()
    source.failure = Unavailable("encryption", "down")
    only = asyncio.create_task(source.seal(KEY, FIELD, TEXT))
    await asyncio.sleep(0)
    only.cancel()
    source.gate.set()
    await asyncio.sleep(0.01)
    assert not caplog.records


async def test_with_the_key_in_memory_seal_and_open_do_not_suspend(source: Source) -> None:
    sealed = await source.seal(KEY, FIELD, TEXT)
    for call in (source.seal(KEY, FIELD, TEXT), source.open(KEY, FIELD, sealed)):
        with pytest.raises(StopIteration):
            call.send(None)


async def test_failures_are_not_remembered(source: Source) -> None:
    source.failure = Unavailable("encryption", "down")
    with pytest.raises(Unavailable):
        await source.seal(KEY, FIELD, TEXT)
    source.failure = None
    assert await source.open(KEY, FIELD, await source.seal(KEY, FIELD, TEXT)) == TEXT


async def test_s60_without_a_key_nothing_is_sealed_and_what_is_sealed_does_not_open(source: Source) -> None:
    sealed = await source.seal(KEY, FIELD, TEXT)
    unknown = KeyReference("ref-unknown")
    with pytest.raises(Unavailable, match="no key"):
        await source.seal(unknown, FIELD, TEXT)
    with pytest.raises(Undecryptable):
        await source.open(unknown, FIELD, sealed)
    assert unknown not in source.versions


async def test_a_key_stays_in_memory_only_for_its_time(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(keyed_cipher, "monotonic", lambda: now)
    assert source.key_ttl == 300
    sealed = await source.seal(KEY, FIELD, TEXT)
    now += 299.9
    await source.open(KEY, FIELD, sealed)
    assert source.asked == 1
    now += 0.2
    await source.open(KEY, FIELD, sealed)
    assert source.asked == 2
    source.drop_cached()


async def emptied(source: Source) -> bool:
    for _ in range(500):
        if not source._held:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_key_leaves_memory_although_nobody_asks_for_it_again(source: Source) -> None:
    source.key_ttl = 0.03
    await source.seal(KEY, FIELD, TEXT)
    source.versions[KeyReference("ref-2")] = {1: bytes(32)}
    await asyncio.sleep(0.02)  # so that the first timer finds one key to let go and mostly one to keep
    await source.seal(KeyReference("ref-2"), FIELD, TEXT)
    assert await emptied(source)
    source.key_ttl = 60
    await source.seal(KEY, FIELD, TEXT)
    assert len(source._held) == 1
    source.drop_cached()
    assert not source._held


async def test_memory_holds_a_bounded_number_of_keys(source: Source) -> None:
    source.keys_cached = 10
    for number in range(30):
        reference = KeyReference(f"ref-{number}")
        source.versions[reference] = {1: bytes([number]) * 32}
        await source.seal(reference, FIELD, TEXT)
    assert len(source._held) == 10
    assert len(source._seals) == 10
    asked = source.asked
    await source.seal(KeyReference("ref-29"), FIELD, TEXT)
    assert source.asked == asked
    await source.seal(KeyReference("ref-5"), FIELD, TEXT)
    assert source.asked == asked + 1
    source.drop_cached()


async def test_a_dropped_key_is_gone_at_once(source: Source) -> None:
    sealed = await source.seal(KEY, FIELD, TEXT)
    await source.destroy(KEY)
    with pytest.raises(KeyGone):
        await source.seal(KEY, FIELD, TEXT)
    with pytest.raises(KeyGone):
        await source.open(KEY, FIELD, sealed)


async def test_a_reading_that_began_before_the_drop_is_not_used(source: Source) -> None:
    source.gate.clear()
    sealing = asyncio.create_task(source.seal(KEY, FIELD, TEXT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.asked == 1
    await source.destroy(KEY)
    source.gate.set()
    with pytest.raises(KeyGone):
        await sealing
    assert not source._held


async def test_s63_the_newest_version_seals_and_all_open(source: Source) -> None:
    values = []
    for _ in range(5):
        values.append(await source.seal(KEY, FIELD, TEXT))
        await source.rotate(KEY)
    assert [key_version_of(value) for value in values] == [1, 2, 3, 4, 5]
    for value in values:
        assert await source.open(KEY, FIELD, value) == TEXT


async def test_s63_a_version_made_elsewhere_is_looked_for_once(source: Source) -> None:
    other = Source()
    other.versions = source.versions
    await source.seal(KEY, FIELD, TEXT)
    await other.rotate(KEY)
    new = await other.seal(KEY, FIELD, TEXT)
    assert source.asked == 1
    assert await source.open(KEY, FIELD, new) == TEXT
    assert source.asked == 2
    from_the_future = Sealed(new[:2] + (9).to_bytes(4, "big") + new[6:])
    with pytest.raises(Undecryptable):
        await source.open(KEY, FIELD, from_the_future)
    assert source.asked == 3


async def test_s63_a_reading_older_than_the_rotation_does_not_make_a_value_undecryptable(source: Source) -> None:
    """S63, F23: the caller joins a reading that began before the new version was made."""
    other = Source()
    other.versions = source.versions
    source.gate.clear()
    early = asyncio.create_task(source.seal(KEY, FIELD, TEXT))
    await asyncio.sleep(0.001)
    await other.rotate(KEY)
    late = asyncio.create_task(source.open(KEY, FIELD, await other.seal(KEY, FIELD, TEXT)))
    await asyncio.sleep(0.001)
    source.gate.set()
    assert await late == TEXT
    await early
    assert source.asked == 2


async def test_t33_versions_below_the_lowest_do_not_open(source: Source) -> None:
    """T33: after the first version was withdrawn, a value of it is refused, without asking the source for it each time."""
    old = await source.seal(KEY, FIELD, TEXT)
    await source.rotate(KEY)
    del source.versions[KEY][1]
    source.drop_cached(KEY)
    await source.seal(KEY, FIELD, TEXT)
    asked = source.asked
    for _ in range(3):
        with pytest.raises(Undecryptable):
            await source.open(KEY, FIELD, old)
    assert source.asked == asked


async def test_t32_a_key_seals_only_so_many_values(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """T32: the cap holds although the cached copy went meanwhile; a rotation helps."""
    assert keyed_cipher.SEALS_PER_KEY == 2**24
    monkeypatch.setattr(keyed_cipher, "SEALS_PER_KEY", 5)
    for number in range(5):
        sealed = await source.seal(KEY, FIELD, TEXT)
        if number == 2:
            source.drop_cached(KEY)
    with pytest.raises(Unavailable, match="rotate"):
        await source.seal(KEY, FIELD, TEXT)
    assert await source.open(KEY, FIELD, sealed) == TEXT
    await source.rotate(KEY)
    await source.seal(KEY, FIELD, TEXT)


async def test_t32_a_random_source_that_repeats_itself_is_refused(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T32: with a patched random source no second value is sealed, under whichever key."""
    monkeypatch.setattr("os.urandom", lambda size: b"\x07" * size)
    await source.seal(KEY, FIELD, TEXT)
    source.versions[KeyReference("ref-2")] = {1: b"k" * 32}
    for key in (KEY, KeyReference("ref-2")):
        with pytest.raises(Unavailable, match="random"):
            await source.seal(key, FIELD, TEXT)


async def test_t32_nonces_are_unique(source: Source) -> None:
    """T32: 50,000 here; the operating system's generator is what makes them so."""
    nonces = {(await source.seal(KEY, FIELD, b""))[22:34] for _ in range(50_000)}
    assert len(nonces) == 50_000


FORKING = """
import asyncio, os, sys
from tests.unit.test_keyed_cipher import FIELD, KEY, USER, Source

async def begun():
    source = Source()
    await source.begin(USER, FIELD.chat_id)
    await source.seal(KEY, FIELD, b"")      # whatever state there is exists before the fork
    return source

async def nonces(source):
    source.drop_cached()
    return [(await source.seal(KEY, FIELD, b""))[22:34].hex() for _ in range(500)]

source = asyncio.run(begun())
for _ in range(2):
    if os.fork() == 0:
        sys.stdout.write("\\n".join(asyncio.run(nonces(source))) + "\\n")
        sys.stdout.flush()
        os._exit(0)
    os.wait()
sys.stdout.write("\\n".join(asyncio.run(nonces(source))) + "\\n")
"""


def test_t32_two_children_of_one_process_never_draw_the_same_nonce() -> None:
    """T32: fork, in a process of its own so that no thread of the test runner is there."""
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", FORKING], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    nonces = ran.stdout.split()
    assert len(nonces) == 1500
    assert len(set(nonces)) == 1500


@pytest.mark.parametrize(
    ("versions", "says"),
    [({}, "no version"), ({1: b"k" * 16}, "32 bytes"), ({1: b"k" * 33}, "32 bytes"), ({0: b"k" * 32}, "version")],
)
async def test_unusable_keys_are_refused(source: Source, versions: dict[int, bytes], says: str) -> None:
    source.versions[KEY] = versions
    with pytest.raises(Unavailable, match=says) as caught:
        await source.seal(KEY, FIELD, TEXT)
    assert "kkk" not in str(caught.value)


async def test_t38_nothing_shows_a_key(source: Source) -> None:
    source.versions[KEY] = {1: b"SECRETSECRETSECRETSECRETSECRET!!"}
    await source.seal(KEY, FIELD, TEXT)
    shown = repr(vars(source)["_held"]) + repr(source) + repr(vars(source)["_seals"])
    assert "SECRET" not in shown
    assert b"SECRET".hex() not in shown


async def test_one_cipher_may_be_used_on_one_loop_after_another() -> None:
    source = Source()
    source.key_ttl = 0.02

    async def sealed() -> None:
        await source.begin(USER, FIELD.chat_id)
        await source.seal(KEY, FIELD, TEXT)

    await asyncio.to_thread(asyncio.run, sealed())
    source.drop_cached(KEY)
    await sealed()
    assert await emptied(source), "the timer of a loop that has ended must not be relied on"
