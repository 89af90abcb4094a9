"""`make services` installs what is missing where it may, starts no service, and says what it could not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.services import install
from tests.services.directus import installing
from tests.services.directus.installing import find_directus
from tests.services.programs import Missing

_APT_GET = """#!/bin/sh
echo "$@" >> {folder}/asked
case "$*" in *update*) exit 0;; esac
/bin/cp {folder}/policy-rc.d {folder}/policy-then
test {status} = 0 || exit {status}
printf '#!/bin/sh\\necho "Redis server v=7.0.15 sha=0"\\n' > {folder}/redis-server
printf '#!/bin/sh\\n' > {folder}/strace
echo > {folder}/libfaketime
/bin/chmod +x {folder}/redis-server {folder}/strace
"""


class Machine:
    """Root's, with a stand-in for apt-get, and nothing of what the tests need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = folder / "policy-rc.d"

    def give_apt_get(self, *, status: int = 0) -> None:
        path = self.folder / "apt-get"
        path.write_text(_APT_GET.format(folder=self.folder, status=status))
        path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SIDECAR_TEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIDECAR_TEST_REDIS", raising=False)
    monkeypatch.setenv("SIDECAR_TEST_FAKETIME", str(tmp_path / "libfaketime"))
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
