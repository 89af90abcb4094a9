"""`encryption.local` shared by several processes of one host: one key per chat, and no stale one is used once more."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plugins.encryption import durable
from plugins.encryption.keyfile import Step
from plugins.encryption.keyrecords import HEADER_BYTES, scan
from sidecar import (
    KeyGone,
    KeyReference,
    Sealed,
    Unavailable,
    Undecryptable,
)
from sidecar.envelope import key_version_of
from tests.integration.world import until
from tests.sealing import TEXT, USER, chat, field, opens, seal
from tests.unit.local_keys import opened, started

RACING = """
import asyncio, json, sys
from pathlib import Path
from tests.sealing import USER, chat, seal
from tests.unit.local_keys import opened

async def main():
    made = []
    async with opened(Path(sys.argv[1])) as cipher:
        print("ready", flush=True)
        sys.stdin.readline()
        for start in range(0, 2000, 50):
            made += await asyncio.gather(*(seal(cipher, number) for number in range(start, start + 50)))
    print(json.dumps([[key, sealed.hex()] for key, sealed in made]), flush=True)

asyncio.run(main())
"""


async def test_t35_s61_processes_that_race_to_begin_get_one_key(tmp_path: Path) -> None:
    """T35, S61: 2,000 races between 4 processes: one key each, and every value that any of them sealed opens."""
    racing = [started(RACING, tmp_path) for _ in range(4)]
    try:
        for process in racing:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in racing:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in racing))
    finally:
        for process in racing:
            process.kill()
            process.wait()
    async with opened(tmp_path) as cipher:
        assert cipher.counts() == (2000, 0)
        for output, _ in outputs:
            for number, (key, sealed) in enumerate(json.loads(output)):
                assert await opens(cipher, number, KeyReference(key), Sealed(bytes.fromhex(sealed)))
    records, _ = scan((tmp_path / "keys").read_bytes()[HEADER_BYTES:], HEADER_BYTES)
    assert len(records) == 2000


async def test_s63_another_process_rotates_and_destroys(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        key, old = await seal(one, 1)
        await other.rotate(key)
        newer = await other.seal(key, field(chat(1)), TEXT)
        assert newer[2:6] > old[2:6]
        assert await opens(one, 1, key, newer)
        assert await opens(one, 1, key, old)
        await other.destroy(key)
        assert set(await one.destroyed(USER, [chat(1)])) == {chat(1)}
        with pytest.raises(KeyGone):  # although the key was in memory: what is seen to be destroyed is dropped
            await one.seal(key, field(chat(1)), TEXT)


async def test_s63_f22_what_another_process_did_to_a_key_holds_at_its_next_use(tmp_path: Path) -> None:
    """S63, F22: the key is in memory, nobody looked at the file in between, and yet no stale version is used once more."""
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        key, old = await seal(one, 1)
        assert await opens(other, 1, key, old)
        for version in range(2, 8, 2):
            await other.rotate(key)
            assert key_version_of(await one.seal(key, field(chat(1)), TEXT)) == version
            await one.rotate(key)
            assert key_version_of(await other.seal(key, field(chat(1)), TEXT)) == version + 1
        await other.destroy(key)
        with pytest.raises(KeyGone):
            await one.seal(key, field(chat(1)), TEXT)
        with pytest.raises(KeyGone):
            await one.open(key, field(chat(1)), old)
        await other.forget(key)
        with pytest.raises(Undecryptable):
            await one.open(key, field(chat(1)), old)


async def test_f22_a_key_that_another_process_destroyed_is_let_go_of_though_nobody_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F22, semantics §8: dropped at once, not when it is next asked for."""
    monkeypatch.setattr("plugins.encryption.local._WATCH_SECONDS", 0.05)
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        gone, kept = await seal(one, 1), await seal(one, 2)
        assert one._held.keys() == {gone[0], kept[0]}
        await other.destroy(gone[0])
        await until(lambda: gone[0] not in one._held)
        assert one._held.keys() == {kept[0]}


async def test_keys_that_another_process_begins_are_no_reason_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes a thread and the lock; under the chats that all processes begin, every text would wait for one."""
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        key, _ = await seal(one, 1)
        looks = 0
        carry_out = one._file.carry_out

        def counting(*arguments: Any) -> Any:
            nonlocal looks
            looks += 1
            return carry_out(*arguments)

        monkeypatch.setattr(one._file, "carry_out", counting)
        for number in range(2, 20):
            await other.begin(USER, chat(number))
            await one.seal(key, field(chat(1)), TEXT)
        assert looks == 0
        await other.rotate(key)
        await one.seal(key, field(chat(1)), TEXT)
        await one.seal(key, field(chat(1)), TEXT)
        assert looks == 1


async def test_own_rotations_are_no_news_to_the_process_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as cipher:
        keys = [(await seal(cipher, number))[0] for number in range(3)]
        steps: list[str] = []
        carry_out = cipher._file.carry_out

        def noting(batch: Sequence[Step]) -> Any:
            steps.extend(step.what for step in batch)
            return carry_out(batch)

        monkeypatch.setattr(cipher._file, "carry_out", noting)
        for key in keys:
            await cipher.rotate(key)
        await cipher.seal(keys[0], field(chat(0)), TEXT)
        assert steps == ["rotate"] * 3


USING = """
import asyncio, json, sys
from pathlib import Path
from sidecar import KeyGone, Unavailable
from sidecar.envelope import key_version_of
from tests.sealing import TEXT, USER, chat, field
from tests.unit.local_keys import opened

async def main():
    sealed, gone = 0, 0
    async with opened(Path(sys.argv[1])) as cipher:
        key = await cipher.begin(USER, chat(0))
        loop = asyncio.get_running_loop()
        def listen():
            for line in sys.stdin:
                loop.call_soon_threadsafe(orders.put_nowait, line.strip())
        orders = asyncio.Queue()
        import threading
        threading.Thread(target=listen, daemon=True).start()
        print("ready", flush=True)
        while True:
            order = await orders.get()
            if order == "end":
                return
            try:
                version = key_version_of(await cipher.seal(key, field(chat(0)), TEXT))
            except KeyGone:
                version = "gone"
            print(json.dumps(version), flush=True)

asyncio.run(main())
"""


async def test_t35_f23_four_processes_see_each_rotation_and_the_end_at_once(tmp_path: Path) -> None:
    """F23: after each rotation by one process the three others seal with the new version, and after the end not at all."""
    others = [started(USING, tmp_path) for _ in range(3)]

    def ask() -> list[object]:
        for process in others:
            assert process.stdin is not None
            process.stdin.write("seal\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in others if process.stdout is not None]

    try:
        for process in others:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        async with opened(tmp_path) as cipher:
            key = await cipher.begin(USER, chat(0))
            assert await asyncio.to_thread(ask) == [1, 1, 1]
            for version in range(2, 12):
                await cipher.rotate(key)
                assert await asyncio.to_thread(ask) == [version] * 3
            await cipher.destroy(key)
            assert await asyncio.to_thread(ask) == ["gone"] * 3
    finally:
        for process in others:
            process.kill()
            process.communicate()


DYING = """
import asyncio, random, sys
from pathlib import Path
from tests.sealing import TEXT, USER, chat, field
from tests.unit.local_keys import opened

async def main():
    chance = random.Random(sys.argv[2])
    async with opened(Path(sys.argv[1])) as cipher:
        print("ready", flush=True)
        while True:
            number = chance.randrange(200)
            key = await cipher.begin(USER, chat(number))
            if chance.random() < 0.3:
                await cipher.rotate(key)
            sealed = await cipher.seal(key, field(chat(number)), TEXT)
            print(number, key, sealed.hex(), flush=True)

asyncio.run(main())
"""


async def test_f35_processes_killed_while_they_share_the_file_lose_no_key_that_sealed(tmp_path: Path) -> None:
    """F35: four at a time begin and rotate the same keys, one after the other is killed; every value opens afterwards."""
    written: list[str] = []
    running: list[subprocess.Popen[str]] = []
    try:
        for number in range(8):
            running.append(started(DYING, tmp_path, str(number)))
            stdout = running[-1].stdout
            assert stdout is not None
            assert await asyncio.to_thread(stdout.readline) == "ready\n"
            if len(running) == 4:
                await asyncio.sleep(0.2)
                oldest = running.pop(0)
                oldest.kill()
                assert oldest.stdout is not None
                written += [line for line in await asyncio.to_thread(oldest.stdout.readlines) if line.endswith("\n")]
                oldest.communicate()
        for process in running:
            process.kill()
            assert process.stdout is not None
            written += [line for line in process.stdout if line.endswith("\n")]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    assert len(written) > 100
    async with opened(tmp_path) as cipher:
        for line in written:
            name, key, sealed = line.split()
            assert await opens(cipher, name, KeyReference(key), Sealed(bytes.fromhex(sealed)))


async def test_a_process_that_holds_the_lock_for_good_makes_the_others_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_LOCK_DEADLINE", 0.05)
    async with opened(tmp_path) as cipher:
        known = await seal(cipher, 1)
        cipher.drop_cached()
        with durable.locked(tmp_path / "keys.lock"):
            with pytest.raises(Unavailable, match="another process"):
                await cipher.begin(USER, chat(2))
            assert await opens(cipher, 1, *known)
        await cipher.begin(USER, chat(2))
