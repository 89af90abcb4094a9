"""config/compose.yaml and the Dockerfile, as far as they can be tried without an engine: what they say, and their commands as plain processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import AuthenticationError

from sidecar.config.reading import read
from tests.directus.people import human
from tests.integration.world import until
from tests.services.directus.server import ADMIN_TOKEN
from tests.services.fixtures import StartDirectus, StartRedis
from tests.services.ports import ReservedPort
from tests.services.programs import find_redis
from tests.services.vault.vault_server import VaultServer

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: Mapping[str, Any] = yaml.safe_load((ROOT / "config" / "compose.yaml").read_text())
SERVICES: Mapping[str, Any] = COMPOSE["services"]
BUILT = [name for name, service in SERVICES.items() if "build" in service]


# -- what they say -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_container_is_as_small_a_target_as_it_can_be(name: str) -> None:
    service = SERVICES[name]
    uid = str(service["user"]).partition(":")[0]
    assert int(uid) > 0, "not root"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "healthcheck" in service or name == "bootstrap", "bootstrap ends"
    if "build" not in service:
        assert re.search(r":\d", service["image"]), "a release, not whatever is newest"


def test_nothing_is_published_but_to_this_host_and_nothing_leaves_the_inside() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"directus": ["127.0.0.1:8055:8055"], "sidecar": ["127.0.0.1:8770:8770"]}
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert [name for name, each in SERVICES.items() if "outside" in each["networks"]] == ["directus", "sidecar"]


def test_every_secret_is_a_file_and_no_container_sees_more_than_it_needs() -> None:
    told = set(COMPOSE["secrets"])
    assert all(set(each) == {"file"} for each in COMPOSE["secrets"].values())
    seen = {name: set(service.get("secrets", ())) for name, service in SERVICES.items()}
    assert set().union(*seen.values()) == told
    assert [name for name in seen if "admin_token" in seen[name]] == ["directus", "bootstrap"], "`serve` has none"
    assert [name for name, each in SERVICES.items() if any("vault-keys:" in v for v in each.get("volumes", ()))] == [
        "vault-setup"
    ]
    text = (ROOT / "config" / "compose.yaml").read_text()
    assert all(f"/run/secrets/{name}" in text or name == "service_token" for name in told)
    for value in (value for service in SERVICES.values() for value in (service.get("environment") or {}).items()):
        assert not re.search(r"(PASSWORD|TOKEN|SECRET)$", value[0]), f"{value[0]} is no file"
    made = re.search(r"for name in ([a-z_ ]+); do", text)
    assert made is not None
    assert set(made[1].split()) == told, "the comment makes all of them"


def test_what_is_mounted_and_depended_on_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / "config" / source).is_file(), source
            else:
                assert source in COMPOSE["volumes"], source
        for name, how in (service.get("depends_on") or {}).items():
            assert name in SERVICES
            needs = "healthcheck" if how["condition"] == "service_healthy" else "command"
            assert needs in SERVICES[name]


def test_the_dockerfile_copies_what_is_there_and_ends_as_somebody_without_rights() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in words:
        if line[0] != "COPY" or line[1].startswith("--from"):
            continue
        for source in line[1:-1]:
            assert (ROOT / source).exists(), source
            folder = source.split("/")[0]
            assert f"!{folder}" in ignored or f"!{folder}/*.yaml" in ignored, f"{source} is not sent to the engine"
    assert [line[1] for line in words if line[0] == "USER"] == ["10001:10001"]
    last = {line[0]: " ".join(line[1:]) for line in words}
    assert json.loads(last["ENTRYPOINT"]) == ["sidecar"]
    assert json.loads(last["CMD"])[:1] == ["serve"]
    assert "requirements.lock" in " ".join(lines)
    assert "--require-hashes" in " ".join(lines)
    for name in BUILT:
        assert SERVICES[name]["user"] == "10001:10001"
    assert "sidecar-healthy" in SERVICES["sidecar"]["healthcheck"]["test"]


def _commands_of_the_comment() -> str:
    """Those that make the secrets, as compose.yaml has them in its first lines."""
    lines = (ROOT / "config" / "compose.yaml").read_text().splitlines()
    told = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    assert told.pop().startswith("docker compose -f config/compose.yaml up ")
    return "\n".join(told)


async def _made_secrets(folder: Path) -> Path:
    """By the commands of compose.yaml, literally; where they are."""
    process = await asyncio.create_subprocess_exec("sh", "-euc", _commands_of_the_comment(), cwd=folder)
    assert await process.wait() == 0
    return folder / "config" / "compose" / "secrets"


async def test_t48_the_commands_make_secrets_that_all_parts_read_alike(
    start_directus: StartDirectus, tmp_path: Path
) -> None:
    """Directus takes a line end in the file of a secret for a part of it; PostgreSQL's image and the sidecar do not."""
    secrets = await _made_secrets(tmp_path)
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    made = {path.name: path.read_text() for path in secrets.iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in made.values())
    assert len(set(made.values())) == len(made)
    told = {
        name: value.replace("/run/secrets", str(secrets))
        for name, value in SERVICES["directus"]["environment"].items()
        if name.endswith("_FILE") and not name.startswith("DB_")
    }
    given = dict.fromkeys((name.removesuffix("_FILE") for name in told), "")
    # A database of its own, in which Directus makes its administrator by what it was told.
    server = await start_directus(DB_CLIENT="sqlite3", DB_FILENAME=str(tmp_path / "own.db"), **given, **told)
    me = await server.ask("GET", "/users/me?fields=email", token=made["admin_token"])
    assert (await server.log_in(me["email"], made["admin_password"]))["access_token"]


@pytest.mark.usefixtures("_redis_program")
async def test_redis_takes_its_password_from_the_file_and_shows_it_to_nobody(tmp_path: Path) -> None:
    """The command of compose.yaml as a plain process, in a folder of its own and at another port."""
    secrets = await _made_secrets(tmp_path)
    port = ReservedPort()
    program = find_redis()
    shell = [each.replace("$$", "$") for each in SERVICES["redis"]["command"]]
    for inside, here in (
        ("/run/secrets", str(secrets)),
        ("/tmp/redis.conf", str(tmp_path / "redis.conf")),
        ("--dir /data", f"--dir {tmp_path} --port {port.number} --bind 127.0.0.1"),
        ("exec redis-server", f"exec {program.path}"),
    ):
        assert inside in shell[-1]
        shell[-1] = shell[-1].replace(inside, here)
    process = await asyncio.create_subprocess_exec(*shell, stdout=asyncio.subprocess.DEVNULL)
    password = (secrets / "redis_password").read_text()
    client = Redis(host="127.0.0.1", port=port.number, password=password, retry=Retry(ConstantBackoff(0.1), 50))
    try:
        assert await client.ping()
        assert password.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert stat.S_IMODE((tmp_path / "redis.conf").stat().st_mode) == 0o600
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
        async with Redis(host="127.0.0.1", port=port.number) as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.ping()
    finally:
        await client.aclose()
        process.terminate()
        assert await process.wait() == 0, "it is the process that is signalled"
        port.close()


def test_whatever_stops_the_sidecar_waits_longer_than_it_may_take() -> None:
    service = SERVICES["sidecar"]
    assert (
        float(service["stop_grace_period"].removesuffix("s"))
        > read(ROOT / "config" / "embedded.yaml", environment={}).server.drain + 15
    )
    assert SERVICES["vault-setup"]["init"] is True, "Python as process 1 takes no notice of SIGTERM"


# -- their commands, as plain processes --------------------------------------------------------------------------------


class _Containers:
    """What compose.yaml runs, without containers: the same files and commands, with other names of hosts and folders."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.folder = folder
        self.names = names
        text = self.here((ROOT / "config" / "compose" / "sidecar.yaml").read_text())
        (folder / "sidecar.yaml").write_text(text)

    def here(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace(name, value)
        return text

    def command(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Arguments of the sidecar in this service, and its environment."""
        service = SERVICES[name]
        told = {key: self.here(value) for key, value in (service.get("environment") or {}).items()}
        arguments = [self.here(each) for each in (*service.get("entrypoint", ("sidecar",)), *service["command"])]
        program = {"sidecar": [sys.executable, "-m", "sidecar"], "python": [sys.executable]}[arguments[0]]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SIDECAR_", "DIRECTUS_"))}
        own = {"PYTHONPATH": str(ROOT), "SIDECAR_SERVER__HOST": "127.0.0.1", "SIDECAR_SERVER__PORT": "0"}
        return [*program, *arguments[1:]], {**kept, **own, **told}

    async def run(self, name: str, *more: str, instead: list[str] | None = None) -> tuple[int, str]:
        """Runs it to its end; status and output."""
        command, environment = self.command(name)
        if instead is not None:
            command = [sys.executable, "-m", "sidecar", *instead]
        process = await asyncio.create_subprocess_exec(
            *command,
            *more,
            env=environment,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(100):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()


class _Bare(VaultServer):
    """A Vault that nobody has initialised or unsealed."""

    async def start(self, *, unseal: bool = False) -> None:
        await super().start(unseal=unseal)


@pytest.mark.usefixtures("_vault_program")
async def test_the_same_commands_as_plain_processes(
    start_directus: StartDirectus, start_redis: StartRedis, tmp_path: Path
) -> None:
    """From nothing to a synced chat: Vault is set up, bootstrap makes what is missing, the sidecar serves and is ready, two
    devices play their example with a Directus token, and what they wrote stands in Directus, sealed; then all of it again."""
    directus = await start_directus()
    redis = await start_redis(appendonly=True, requirepass="a-password")
    secrets, role = tmp_path / "secrets", tmp_path / "role"
    secrets.mkdir()
    for name, value in {
        "admin_token": ADMIN_TOKEN,
        "service_token": "a-service-token-that-openssl-made",
        "redis_password": "a-password",
    }.items():
        (secrets / name).write_text(f"{value}\n")
    async with _Bare(tmp_path / "vault") as vault:
        host, port = redis.address
        containers = _Containers(
            tmp_path,
            {
                "http://directus:8055": directus.url,
                "redis:6379": f"{host}:{port}",
                "http://vault:8200": vault.url,
                "/run/secrets": str(secrets),
                "/run/vault": str(role),
                "/var/lib/sidecar": str(tmp_path / "data"),
                "/keys": str(tmp_path / "keys"),
                "/etc/sidecar/sidecar.yaml": str(tmp_path / "sidecar.yaml"),
                "/etc/sidecar/vault_setup.py": str(ROOT / "config/compose/vault_setup.py"),
                "/etc/sidecar/policy.hcl": str(ROOT / "config/vault/policy.hcl"),
            },
        )
        for again in (False, True):
            if again:
                await vault.stop()
                await vault.start()
            status, output = await containers.run("vault-setup", "0")
            assert (status, output) == (0, "Vault is ready for the sidecar\n"), output
        for file in (tmp_path / "keys" / "vault.json", role / "secret-id", role / "role-id"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600

        status, plan = await containers.run("bootstrap", "--dry-run")
        assert status == 0, plan
        assert "collection sidecar_chats" in plan
        status, output = await containers.run("bootstrap")
        assert (status, sorted(output.splitlines())) == (0, sorted(plan.splitlines()))
        assert await containers.run("bootstrap") == (0, "nothing is missing\n")
        status, output = await containers.run(
            "bootstrap", instead=["doctor", "--alone", "--config", str(tmp_path / "sidecar.yaml")]
        )
        assert "error:" not in output
        assert status == 0, output

        command, environment = containers.command("sidecar")
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                line = (await process.stdout.readline()).decode()
            assert line.startswith("listening on "), (tmp_path / "log").read_text()
            url = line.removeprefix("listening on ").strip()

            async def ready() -> bool:
                async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
                    return answer.status == 200

            await until(ready, 30)
            anna = await human(directus)
            player = await asyncio.create_subprocess_exec(
                sys.executable,
                str(ROOT / "examples" / "two_devices.py"),
                f"{url.replace('http', 'ws')}/ws",
                env={**os.environ, "TOKEN": await anna.session_token()},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            async with asyncio.timeout(60):
                played, _ = await player.communicate()
            assert (player.returncode, played.decode()[-17:]) == (0, "All as promised.\n"), played.decode()

            async def stored() -> bool:
                return bool(await directus.ask("GET", "/items/sidecar_messages"))

            await until(stored)
            [chat] = await directus.ask("GET", "/items/sidecar_chats")
            [message] = await directus.ask("GET", "/items/sidecar_messages")
            shown = f"{chat} {message}"
            assert "second call loses the lock" not in shown, "what was written is sealed"
            assert "Plans for the autumn" not in shown
            assert chat["id"] == message["chat_id"]
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(60):
                assert await process.wait() == 0
        text = (tmp_path / "log").read_text()
        assert "a-service-token" not in text
        assert ADMIN_TOKEN not in text
