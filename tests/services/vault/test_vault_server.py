"""The Vault of the tests is a real one, keeps its port and what it answered, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import shutil
import stat
import sys
from pathlib import Path

import pytest
import requests
from hvac.exceptions import Forbidden, InvalidRequest, VaultDown

from tests.services.killed_tests import killed_tests_leave_nothing
from tests.services.programs import Missing
from tests.services.vault.fixtures import StartVault
from tests.services.vault.given import GivenVault
from tests.services.vault.programs import find_vault
from tests.services.vault.vault import Vault
from tests.services.vault.vault_server import VaultServer


@pytest.fixture
async def kept(start_vault: StartVault) -> VaultServer:
    """One of the test's own, with kept storage."""
    return await start_vault()


async def _make(vault: Vault, path: str, *, cas: int | None = 0, **data: str) -> None:
    options = {} if cas is None else {"cas": cas}
    await vault.write(f"{vault.mount}/data/{path}", data=data, options=options)


async def _value(vault: Vault, path: str) -> str | None:
    told = await vault.read(f"{vault.mount}/data/{path}")
    return told["data"]["data"]["key"] if told else None


async def test_the_shared_vault_is_empty_for_the_first(vault_server: Vault) -> None:
    assert await vault_server.entries() == []
    await _make(vault_server, "left/behind", key="one")
    assert await vault_server.entries() == ["left/behind"]
    await vault_server.mount_transit("transit")
    await vault_server.policy({"*": ["read"]}, "left")
    await vault_server.approle("left")


async def test_the_shared_vault_is_empty_for_the_next(vault_server: Vault) -> None:
    assert await vault_server.entries() == []
    assert await vault_server.read("transit/keys/any") is None
    assert "left" not in await vault_server.names("sys/policies/acl")


async def test_a_key_is_made_once_and_its_mark_stays(vault_server: Vault) -> None:
    made = await asyncio.gather(
        *(_make(vault_server, "chat", key=str(number)) for number in range(20)), return_exceptions=True
    )
    assert sum(each is None for each in made) == 1
    assert all(each is None or isinstance(each, InvalidRequest) for each in made)
    await vault_server.write(f"{vault_server.mount}/destroy/chat", versions=[1])
    assert await vault_server.entries() == ["chat"]
    with pytest.raises(InvalidRequest, match="check-and-set"):
        await _make(vault_server, "chat", key="again")


async def test_kv_version_1_is_another_engine(vault_server: Vault) -> None:
    mount = await vault_server.mount_kv(version=1)
    await vault_server.write(f"{mount}/one", key="value")
    told = await vault_server.read(f"{mount}/one")
    assert told is not None
    assert told["data"] == {"key": "value"}


async def test_transit_wraps_data_keys(vault_server: Vault) -> None:
    mount = await vault_server.mount_transit()
    await vault_server.write(f"{mount}/keys/chats", type="aes256-gcm96")
    made = await vault_server.write(f"{mount}/datakey/plaintext/chats")
    opened = await vault_server.write(f"{mount}/decrypt/chats", ciphertext=made["data"]["ciphertext"])
    assert opened["data"]["plaintext"] == made["data"]["plaintext"]


async def test_a_role_may_do_what_its_policy_says_and_a_changed_policy_holds_at_once(vault_server: Vault) -> None:
    path = f"{vault_server.mount}/data/chats/*"
    policy = await vault_server.policy({path: ["create", "read"]})
    role = await vault_server.approle(policy, token_ttl="1h", token_type="service")
    with vault_server.client("none") as client:
        signed_in = client.auth.approle.login(role.role_id, role.secret_id, mount_point=role.mount)
        assert signed_in["auth"]["lease_duration"] == 3600
        kv = client.secrets.kv.v2
        kv.create_or_update_secret("chats/one", {"key": "value"}, mount_point=vault_server.mount)
        with pytest.raises(Forbidden):
            kv.create_or_update_secret("other/one", {"key": "value"}, mount_point=vault_server.mount)
        await vault_server.policy({path: ["create"]}, policy)
        with pytest.raises(Forbidden):
            kv.read_secret_version("chats/one", mount_point=vault_server.mount, raise_on_deleted_version=True)


async def test_a_wrapped_secret_id_is_unwrapped_once(vault_server: Vault) -> None:
    role = await vault_server.approle(await vault_server.policy({"sys/mounts": ["read"]}))
    wrapped = await vault_server.secret_id(role.mount, role.name, wrap_ttl="60s")
    with vault_server.client(wrapped) as client:
        secret_id = client.sys.unwrap()["data"]["secret_id"]
        with pytest.raises((InvalidRequest, Forbidden)):
            client.sys.unwrap()
        assert client.auth.approle.login(role.role_id, secret_id, mount_point=role.mount)["auth"]["client_token"]


async def test_a_revoked_token_is_refused(vault_server: Vault) -> None:
    token = await vault_server.token(await vault_server.policy({"*": ["read"]}), ttl="1h")
    with vault_server.client(token) as client:
        assert client.is_authenticated()
        await vault_server.revoke(token)
        assert not client.is_authenticated()


async def test_an_orderly_restart_keeps_port_and_data(kept: VaultServer) -> None:
    port, pid = kept.port, kept.pid
    await _make(kept, "chat", key="kept")
    token = await kept.token(await kept.policy({"*": ["read"]}))
    assert await kept.stop() == 0
    assert not kept.running
    with pytest.raises(requests.ConnectionError):
        await kept.read("sys/mounts")
    await kept.start()
    assert (kept.port, await _value(kept, "chat")) == (port, "kept")
    assert kept.pid != pid
    with kept.client(token) as client:
        assert client.is_authenticated()


async def test_kill_9_loses_nothing_that_was_answered(kept: VaultServer) -> None:
    answered: list[str] = []
    enough = asyncio.Event()

    async def write(writer: int) -> None:
        for number in range(1000):
            path = f"{writer}/{number}"
            try:
                await _make(kept, path, key=path)
            except requests.RequestException:
                return
            answered.append(path)
            if len(answered) == 20:
                enough.set()

    writers = asyncio.gather(*(write(number) for number in range(4)))
    await enough.wait()
    kept.kill()
    await writers
    await kept.start()
    assert [await _value(kept, path) for path in answered] == answered
    await _make(kept, "afterwards", key="new")


async def test_transit_is_there_again_after_kill_9(kept: VaultServer) -> None:
    mount = await kept.mount_transit()
    await kept.write(f"{mount}/keys/chats", type="aes256-gcm96")
    sealed = await kept.write(f"{mount}/encrypt/chats", plaintext="aGVsbG8=")
    kept.kill()
    await kept.start()
    opened = await kept.write(f"{mount}/decrypt/chats", ciphertext=sealed["data"]["ciphertext"])
    assert opened["data"]["plaintext"] == "aGVsbG8="


async def test_storage_put_back_is_a_restored_backup(kept: VaultServer) -> None:
    await _make(kept, "before", key="old")
    await kept.stop()
    shutil.copytree(kept.storage, kept.folder / "backup")
    await kept.start()
    await _make(kept, "after", key="new")
    kept.kill()
    shutil.rmtree(kept.storage)
    shutil.copytree(kept.folder / "backup", kept.storage)
    await kept.start()
    assert await kept.entries() == ["before"]


async def test_sealed_it_answers_503_until_it_is_unsealed(kept: VaultServer) -> None:
    await _make(kept, "chat", key="kept")
    await kept.seal()
    assert await kept.sealed()
    with pytest.raises(VaultDown):
        await _value(kept, "chat")
    await kept.unseal()
    assert not await kept.sealed()
    assert await _value(kept, "chat") == "kept"


async def test_a_standby_sends_to_the_active_one_and_takes_over(start_vault: StartVault) -> None:
    pair = await start_vault(standby=True)
    await _make(pair, "chat", key="kept")
    for _ in range(3):
        active, standby = pair.url, "http://{}:{}".format(*pair.standby)
        asked = await asyncio.to_thread(
            requests.get,
            f"{standby}/v1/{pair.mount}/data/chat",
            headers={"X-Vault-Token": pair.root_token},
            allow_redirects=False,
            timeout=10,
        )
        assert asked.status_code == 307
        assert asked.headers["Location"].startswith(f"{active}/")
        await pair.failover()
        assert pair.url == standby
        assert await _value(pair, "chat") == "kept"


async def test_a_start_without_unsealing_stays_sealed(kept: VaultServer) -> None:
    kept.kill()
    await kept.start(unseal=False)
    assert await kept.sealed()
    await kept.unseal()
    assert await kept.entries() == []


async def test_in_memory_a_start_begins_anew(start_vault: StartVault) -> None:
    server = await start_vault(kept=False)
    await _make(server, "chat", key="lost")
    await server.restart()
    assert await server.entries() == []


async def test_a_paused_vault_answers_nothing_and_then_all(kept: VaultServer) -> None:
    await _make(kept, "chat", key="kept")
    with kept.client(timeout=0.2) as impatient:
        kept.pause()
        assert not kept.answering
        with pytest.raises(requests.Timeout):
            await asyncio.to_thread(impatient.read, f"{kept.mount}/data/chat")
        late = asyncio.create_task(_value(kept, "chat"))
        await asyncio.sleep(0.1)
        assert not late.done()
        kept.resume()
        assert await late == "kept"


async def test_a_blocked_audit_device_holds_up_every_answer(kept: VaultServer) -> None:
    pipe = await kept.audit_to_pipe()
    await _make(kept, "chat", key="kept")
    pipe.block()
    late = asyncio.create_task(_value(kept, "chat"))
    await asyncio.sleep(0.3)
    assert not late.done()
    pipe.unblock()
    assert await late == "kept"


async def test_the_audit_file_names_paths_and_no_values(kept: VaultServer) -> None:
    path = await kept.audit()
    await _make(kept, "chat", key="canary in a value")
    asked = [line["request"]["path"] for line in kept.audited() if line["type"] == "request"]
    assert f"{kept.mount}/data/chat" in asked
    assert "canary" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_vault_that_cannot_start_says_so_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vault"
    program.write_text("#!/bin/sh\ntest \"$1\" = version && echo 'Vault v1.21.4' || { echo no room; exit 1; }\n")
    program.chmod(0o755)
    monkeypatch.setenv("SIDECAR_TEST_VAULT", str(program))
    with pytest.raises(AssertionError, match="no room"):
        async with VaultServer(tmp_path / "server"):
            pass


_START = """
import asyncio, sys
from pathlib import Path
from tests.services.vault.vault_server import VaultServer

async def main():
    async with VaultServer(Path(sys.argv[1])) as server:
        await server.mount_transit()
        print(server.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="not promised elsewhere than on Linux")
@pytest.mark.usefixtures("_vault_program")
async def test_it_ends_when_the_tests_are_killed(tmp_path: Path) -> None:
    await killed_tests_leave_nothing(_START, tmp_path, Path(find_vault().path).name)


_STAND_IN = """#!/bin/sh
if test "$1" = version; then echo '{says}'; exit; fi
exec {python} {here}/stand_in.py {vaultd} {plugins} "$2"
"""
_STAND_IN_SERVER = """
import json, os, sys
program, plugins, given = sys.argv[1:]
told = json.load(open(given.partition("=")[2]))
assert told["disable_mlock"] and told["listener"]["tcp"]["tls_disable"] and told["api_addr"]
kept = ["-storage", os.path.dirname(told["storage"]["file"]["path"])] if "file" in told["storage"] else []
os.execv(program, [program, "-bare", "-address", told["listener"]["tcp"]["address"], *kept])
"""


@pytest.mark.parametrize("says", ["Vault v1.21.4 (0), built 2026-03-01", "OpenBao v2.4.1 (0), built 2026-03-01"])
async def test_an_installed_program_is_configured_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vault: StartVault, says: str
) -> None:
    """Shown with the tests' own behind a stand-in that takes the configuration of an installed one."""
    real = find_vault()
    if real.name != "vaultd":
        pytest.skip("not promised where an installed one serves: every test shows it then")
    program = tmp_path / "installed"
    program.write_text(
        _STAND_IN.format(says=says, python=sys.executable, here=tmp_path, vaultd=real.path, plugins=real.plugins)
    )
    program.chmod(0o755)
    (tmp_path / "stand_in.py").write_text(_STAND_IN_SERVER)
    monkeypatch.setenv("SIDECAR_TEST_VAULT", str(program))
    assert find_vault().name == {"V": "vault", "O": "bao"}[says[0]]
    for kept in (True, False):
        server = await start_vault(kept=kept)
        await _make(server, "chat", key="value")
        await server.restart()
        assert await _value(server, "chat") == ("value" if kept else None)


async def test_a_given_vault_serves_and_keeps_what_it_has(kept: VaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    await _make(kept, "theirs", key="kept")
    await kept.write("sys/policies/acl/theirs", policy='path "*" {capabilities = ["read"]}')
    monkeypatch.setenv("VAULT_ADDR", f"{kept.url}/")
    monkeypatch.setenv("VAULT_TOKEN", kept.root_token)
    given = GivenVault.named()
    assert given is not None
    async with given:
        for _ in range(2):
            await given.clean()
            assert await given.entries() == []
            await _make(given, "theirs", key="another")
            await given.approle(await given.policy({"*": ["read"]}))
    assert await _value(kept, "theirs") == "kept"
    assert sorted(await kept.names("sys/policies/acl")) == ["default", "root", "theirs"]
    mounts = await kept.read("sys/mounts")
    assert mounts is not None
    assert not [name for name in mounts["data"] if name.startswith("sidecar-tests")]


@pytest.mark.parametrize("wrong", ["address", "token", "not root"])
async def test_a_given_vault_that_does_not_serve_is_said(
    kept: VaultServer, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9" if wrong == "address" else kept.url)
    token = await kept.token(await kept.policy({"*": ["read"]})) if wrong == "not root" else "nobody"
    monkeypatch.setenv("VAULT_TOKEN", token)
    given = GivenVault.named()
    assert given is not None
    with pytest.raises(Missing, match="root token" if wrong == "not root" else "does not serve"):
        async with given:
            pass


def test_where_none_is_named_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    assert GivenVault.named() is None
