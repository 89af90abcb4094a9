"""`make services` installs what is missing where it may, starts no service, and says what it could not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.services import install
from tests.services.directus import installing
from tests.services.directus.installing import find_directus
from tests.services.programs import Missing
from tests.services.vault.programs import find_vault

_APT_GET = """
echo "$@" >> {folder}/asked
case "$*" in *update*) exit 0;; esac
/bin/cp {folder}/policy-rc.d {folder}/policy-then
test {status} = 0 || exit {status}
printf '#!/bin/sh\\necho "Redis server v=7.0.15 sha=0"\\n' > {folder}/redis-server
printf '#!/bin/sh\\n' > {folder}/strace
echo > {folder}/libfaketimeMT.so.1
/bin/chmod +x {folder}/redis-server {folder}/strace
"""


class Machine:
    """Root's, with a stand-in for apt-get, and nothing of what the tests need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = folder / "policy-rc.d"
        self.give("vault", "echo 'Vault v1.21.4 (0), built 2026-03-01'")

    def give(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def give_apt_get(self, *, status: int = 0) -> None:
        self.give("apt-get", _APT_GET.format(folder=self.folder, status=status))

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SIDECAR_TEST_CACHE", str(tmp_path / "cache"))
    for name in ("SIDECAR_TEST_REDIS", "SIDECAR_TEST_VAULT", "VAULT_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SIDECAR_TEST_FAKETIME", str(tmp_path / "libfaketimeMT.so.1"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(install, "install_directus", lambda: None)
    made = Machine(tmp_path)
    monkeypatch.setattr(install, "_POLICY", made.policy)
    return made


def test_what_is_missing_is_installed_once_and_nothing_is_started(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.give_apt_get()
    assert install.main() == 0
    assert "skipped" not in capsys.readouterr().err
    assert [line.split()[3:] for line in machine.asked] == [
        ["update"],
        ["install", "-y", "--no-install-recommends", "redis-server", "strace", "libfaketime"],
    ]
    assert (machine.folder / "policy-then").read_text().endswith("exit 101\n")
    assert not machine.policy.exists()
    assert install.main() == 0
    assert len(machine.asked) == 2


def test_a_policy_that_is_there_stays(machine: Machine) -> None:
    machine.give_apt_get()
    machine.policy.write_text("the administrator's own")
    install.main()
    assert machine.policy.read_text() == (machine.folder / "policy-then").read_text() == "the administrator's own"


@pytest.mark.parametrize("why", ["not root", "no apt-get", "apt-get fails"])
def test_where_it_cannot_install_it_says_what_will_be_skipped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    if why != "no apt-get":
        machine.give_apt_get(status=100)
    if why == "not root":
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert install.main() == 0
    told = capsys.readouterr().err
    assert "No redis-server on PATH" in told
    assert "No strace on PATH" in told
    assert ("that failed" in told) == (why == "apt-get fails")
    assert not machine.policy.exists()
    assert bool(machine.asked) == (why == "apt-get fails")


_GO = """
/bin/mkdir -p {cache}
echo "$PWD" >> {folder}/built
test {status} = 0 || {{ echo "main.go:7: no such thing"; exit {status}; }}
while test "$1" != -o; do shift; done
/bin/mkdir -p "$(/usr/bin/dirname "$2")"
echo 'a server' > "$2"
"""


@pytest.fixture
def bare(machine: Machine) -> Machine:
    """Without any Vault."""
    machine.give_apt_get()
    (machine.folder / "vault").unlink()
    return machine


def _built(machine: Machine) -> list[str]:
    path = machine.folder / "built"
    return [Path(line).name for line in path.read_text().splitlines()] if path.exists() else []


def test_vault_is_built_once_for_all_work_trees(bare: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    bare.give("go", _GO.format(folder=bare.folder, cache=bare.folder / "cache", status=0))
    for _ in range(2):
        assert install.main() == 0
        assert "skipped" not in capsys.readouterr().err
    assert _built(bare) == ["server", "transit"]
    found = find_vault()
    assert found.name == "vaultd"
    assert found.plugins is not None
    assert [path.name for path in found.plugins.iterdir()] == ["transit"]
    assert [path.name for path in (bare.folder / "cache").glob("vault-*")] == [found.version]


def test_without_go_it_says_that_vaults_tests_will_be_skipped(
    bare: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.main() == 0
    assert "No go on PATH" in (told := capsys.readouterr().err)
    assert "will be skipped" in told
    with pytest.raises(Missing, match="make services"):
        find_vault()


def test_a_build_that_fails_leaves_nothing_and_is_said(bare: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    bare.give("go", _GO.format(folder=bare.folder, cache=bare.folder / "cache", status=1))
    assert install.main() == 0
    assert "main.go:7: no such thing" in capsys.readouterr().err
    assert not [*(bare.folder / "cache").glob("vault-*")]


@pytest.mark.parametrize("instead", ["VAULT_ADDR", "bao on PATH", "SIDECAR_TEST_VAULT"])
def test_nothing_is_built_where_another_vault_serves(
    bare: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], instead: str
) -> None:
    bare.give("go", _GO.format(folder=bare.folder, cache=bare.folder / "cache", status=0))
    bare.give("bao" if instead == "bao on PATH" else "other", "echo 'OpenBao v2.4.1 (0)'")
    if instead == "VAULT_ADDR":
        monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:8200")
    if instead == "SIDECAR_TEST_VAULT":
        monkeypatch.setenv("SIDECAR_TEST_VAULT", str(bare.folder / "other"))
    assert install.main() == 0
    assert "skipped" not in capsys.readouterr().err
    assert not _built(bare)


@pytest.mark.parametrize("named", ["/no/such/vault", "other"])
def test_a_vault_that_is_named_and_is_none_is_replaced_by_no_other(
    bare: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    bare.give("go", _GO.format(folder=bare.folder, cache=bare.folder / "cache", status=0))
    bare.give("other", "echo 'something else'")
    monkeypatch.setenv("SIDECAR_TEST_VAULT", named)
    assert install.main() == 0
    assert "SIDECAR_TEST_VAULT" in capsys.readouterr().err
    assert not _built(bare)


_NPM = """#!/bin/sh
echo "$PWD $@" >> {folder}/npm-asked
test {status} = 0 || {{ echo "no network" >&2; exit {status}; }}
/bin/mkdir -p node_modules/directus node_modules/@directus/api/dist/cli
echo '{{"version": "12.4.0"}}' > node_modules/directus/package.json
: > node_modules/@directus/api/dist/cli/run.js
"""


def _give_node(folder: Path, status: int = 0) -> None:
    for name, text in {"node": "#!/bin/sh\necho v22.1.0\n", "npm": _NPM.format(folder=folder, status=status)}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def test_directus_is_installed_once_from_its_lock_and_found_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIDECAR_TEST_DIRECTUS", raising=False)
    _give_node(machine.folder)
    with pytest.raises(Missing, match="No Directus in"):
        find_directus()
    for _ in range(2):
        installing.install()
    asked = (machine.folder / "npm-asked").read_text().splitlines()
    assert len(asked) == 1
    assert " ci --legacy-peer-deps " in asked[0]
    found = find_directus()
    assert found.version == "12.4.0"
    assert found.folder.parent == machine.folder / "cache"
    assert found.command("start") == [str(machine.folder / "node"), str(found.folder / installing._RUN), "start"]
    (machine.folder / "node").write_text("#!/bin/sh\necho v24.0.0\n")
    with pytest.raises(Missing):
        find_directus()  # its native parts were compiled for another Node


@pytest.mark.parametrize("why", ["no node", "old node", "no npm", "npm fails"])
def test_where_directus_cannot_be_installed_it_says_what_will_be_skipped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    monkeypatch.delenv("SIDECAR_TEST_DIRECTUS", raising=False)
    monkeypatch.setattr(install, "install_directus", installing.install)
    machine.give_apt_get()
    _give_node(machine.folder, status=int(why == "npm fails"))
    if why == "old node":
        (machine.folder / "node").write_text("#!/bin/sh\necho v18.2.0\n")
    if why.startswith("no "):
        (machine.folder / why.removeprefix("no ")).unlink()
    assert install.main() == 0
    told = capsys.readouterr().err
    assert {
        "no node": "No node on PATH",
        "old node": "Node v18.2.0 is too old",
        "no npm": "No npm on PATH",
        "npm fails": "npm could not install Directus: no network",
    }[why] in told
    assert "will be skipped" in told
    assert not list((machine.folder / "cache").glob("directus-*/")), "half of it is not kept"
