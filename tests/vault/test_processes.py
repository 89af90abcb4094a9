"""Processes on several hosts share nothing but Vault: one key per chat, and what one did the others see."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sidecar import KeyGone, KeyReference, Sealed
from sidecar.envelope import key_version_of
from tests.sealing import TEXT, USER, chat, field, opens, seal
from tests.services.vault.vault import Vault
from tests.vault.world import ROOT, opened, with_transit

RACING = """
import asyncio, json, sys
from plugins.encryption.vault import Vault
from tests.sealing import seal

async def main():
    made = []
    async with Vault(Vault.Options.model_validate(json.loads(sys.argv[1]))) as plugin:
        cipher = await plugin.provide_encryption()
        print("ready", flush=True)
        sys.stdin.readline()
        for start in range(0, 400, 40):
            made += await asyncio.gather(*(seal(cipher, number) for number in range(start, start + 40)))
    print(json.dumps([[key, sealed.hex()] for key, sealed in made]), flush=True)

asyncio.run(main())
"""


@contextmanager
def started(code: str, options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


async def _first_line(process: subprocess.Popen[str]) -> str:
    """Of what it prints beside its log."""
    assert process.stdout is not None
    while (line := await asyncio.to_thread(process.stdout.readline)) and not line.startswith(("ready", "[[")):
        pass
    return line


@pytest.mark.parametrize("mode", ["kv", "transit"])
async def test_t35_s61_processes_that_race_to_begin_get_one_key(vault_server: Vault, mode: str) -> None:
    """T35, S61: 400 races between 4 processes: one key each, and every value that any of them sealed opens."""
    options = await with_transit(vault_server) if mode == "transit" else {}
    given = {
        "url": vault_server.url,
        "mount": vault_server.mount,
        "auth": {"token": {"value": vault_server.root_token}},
        "timeout": "20s",
        **options,
    }
    with (
        started(RACING, given) as one,
        started(RACING, given) as two,
        started(RACING, given) as three,
        started(RACING, given) as four,
    ):
        racing = (one, two, three, four)
        for process in racing:
            assert await _first_line(process) == "ready\n"
        for process in racing:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = await asyncio.gather(*(_first_line(process) for process in racing))
    assert len(await vault_server.entries()) == 400
    async with opened(vault_server, **options) as cipher:
        for output in outputs:
            for number, (key, sealed) in enumerate(json.loads(output)):
                assert await opens(cipher, number, KeyReference(key), Sealed(bytes.fromhex(sealed)))


async def test_s63_f22_what_another_process_did_holds_once_the_copy_in_memory_is_gone(vault_server: Vault) -> None:
    """S63, F22: a rotation is read at once, and written with after `key_ttl`; a destroyed key is gone after that at the latest."""
    async with opened(vault_server) as one, opened(vault_server) as two:
        key, sealed = await seal(one, 1)
        two.key_ttl = 0.2
        assert await opens(two, 1, key, sealed)
        await one.rotate(key)
        await asyncio.sleep(0.25)
        assert key_version_of(await two.seal(key, field(chat(1)), TEXT)) == 2
        await one.destroy(key)
        await asyncio.sleep(0.25)
        assert two._held == {}  # by itself, though nobody uses it
        for call in (two.seal(key, field(chat(1)), TEXT), two.open(key, field(chat(1)), sealed), two.rotate(key)):
            with pytest.raises(KeyGone):
                await call
        with pytest.raises(KeyGone):
            await two.begin(USER, chat(1))
