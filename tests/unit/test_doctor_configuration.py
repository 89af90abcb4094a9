"""What doctor finds in the configuration and on this host: each brought about, and not there without its cause."""

from __future__ import annotations

import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sidecar.config import Config, read
from sidecar.findings import SEVERITIES, Finding, clock_finding
from sidecar.operations import host_findings as host
from sidecar.operations.config_findings import config_findings
from sidecar.operations.outbox_findings import outbox_findings
from sidecar.slots.cache import Position

PUBLIC = {"host": "0.0.0.0"}
REDIS = {"use": "redis", "options": {"url": "${REDIS_URL}"}}
WELL: dict[str, Any] = {
    "server": {
        **PUBLIC,
        "hosts": ["chat.example.com"],
        "origins": ["https://app.example.com"],
        "trusted_proxies": ["10.0.0.0/8"],
    },
    "cache": REDIS,
    "encryption": {"use": "tests.plugins.cipher:Cipher"},
    "persistence": {"use": "tests.plugins.store:Store"},
    "ids": {"pepper": "${PEPPER}"},
}
ENVIRONMENT = {"REDIS_URL": "redis://:secret@redis", "PEPPER": "a pepper of the project's own"}


def _read(
    folder: Path, sections: dict[str, Any], mode: int = 0o600, environment: dict[str, str] | None = None
) -> Config:
    path = folder / "sidecar.yaml"
    path.write_text(yaml.safe_dump(sections))
    path.chmod(mode)
    return read(path, environment={**ENVIRONMENT, **(environment or {})})


def _merged(changes: dict[str, Any]) -> dict[str, Any]:
    merged = {**WELL, **changes}
    if "server" in changes:
        merged["server"] = {**WELL["server"], **changes["server"]}
    return merged


def test_a_deployment_that_is_well_has_no_findings(tmp_path: Path) -> None:
    assert [*config_findings(_read(tmp_path, WELL))] == []


@pytest.mark.parametrize(
    ("changes", "code", "severity", "says"),
    [
        ({"server": {"demo": True}}, "demo", "error", "0.0.0.0"),
        ({"server": {"demo": True, "host": "127.0.0.1"}}, "demo", "note", "/demo"),
        ({"server": {"metrics_port": 9100}}, "metrics-exposed", "warning", "0.0.0.0:9100"),
        ({"server": {"hosts": []}}, "hosts", "warning", "server.hosts"),
        ({"server": {"trusted_proxies": []}}, "trusted-proxies-none", "note", "one address"),
        ({"server": {"trusted_proxies": ["0.0.0.0/0"]}}, "trusted-proxies-all", "error", "anybody"),
        ({"server": {"trusted_proxies": ["::/0"]}}, "trusted-proxies-all", "error", "anybody"),
        ({"server": {"trusted_proxies": ["104.0.0.0/8"]}}, "trusted-proxies-wide", "warning", "104.0.0.0/8"),
        ({"server": {"workers": 64}}, "workers", "warning", "64"),
        ({"server": {"origins": []}}, "origins", "warning", "server.origins"),
        ({"server": {"origins": ["http://app.example.com"]}}, "origins-plain", "warning", "http://app.example.com"),
        ({"server": {"origins": ["http://localhost:5173"]}}, "origins-local", "warning", "http://localhost:5173"),
        ({"devices": {"policy": "off"}}, "devices-off", "warning", "stolen token"),
        ({"ids": {"pepper": None}}, "pepper", "warning", "ids.pepper"),
        ({"encryption": {"use": "local"}}, "one-host-encryption", "warning", "keeps keys on this one"),
        ({"persistence": {"use": "sqlite"}}, "one-host-persistence", "warning", "keeps chats on this one"),
        ({"server": {"ping_interval": "60s"}}, "ping", "warning", "60 s"),
        ({"server": {"drain": "5m"}}, "drain", "warning", "300 s"),
        ({"server": {"drain": "0s"}}, "drain-none", "warning", "same moment"),
        ({"chats": {"draft_ttl": "1m"}}, "draft-ttl", "warning", "60 s"),
        ({"drafts": {"conflicts": "discard"}}, "conflicts-discard", "note", "drop a text"),
        ({"logging": {"level": "DEBUG"}}, "debug-logging", "warning", "DEBUG"),
        ({"plugins": [{"use": "audit:Log", "grants": ["plaintext"]}]}, "plaintext", "note", "audit:Log"),
        ({"plugins": [{"use": "audit:Log", "on_failure": "pass"}]}, "guards-pass", "warning", "audit:Log"),
    ],
)  # fmt: skip
def test_each_is_found_alone(tmp_path: Path, changes: dict[str, Any], code: str, severity: str, says: str) -> None:
    found = [*config_findings(_read(tmp_path, _merged(changes)))]
    assert [(each.code, each.severity) for each in found] == [(code, severity)]
    assert says in found[0].says
    assert found[0].remedy
    assert "\n" not in found[0].says + found[0].remedy


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"ids": {"pepper": "written down, which it should not be"}}, "ids.pepper"),
        ({"server": {"service_keys": [{"name": "a", "key": "written down for all"}]}}, "server.service_keys[0].key"),
        ({"cache": {"use": "redis", "options": {"url": "redis://u:hidden@redis"}}}, "cache.options.url"),
        ({"encryption": {"use": "x:Y", "options": {"auth": {"token": "hvs.1"}}}}, "encryption.options.auth.token"),
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_secrets_in_the_file_are_named_and_not_shown(
    tmp_path: Path, changes: dict[str, Any], where: str, mode: int
) -> None:
    found = {each.code: each for each in config_findings(_read(tmp_path, _merged(changes), mode))}
    assert sorted(found) == (["secret-file-open", "secret-in-file"] if mode & 0o077 else ["secret-in-file"])
    assert where in found["secret-in-file"].says
    assert not any(secret in str(found) for secret in ("written down", "hidden", "hvs.1"))


def test_a_variable_that_nearly_names_a_key_is_found(tmp_path: Path) -> None:
    [found] = config_findings(_read(tmp_path, WELL, environment={"SIDECAR_SERVER_PORT": "1"}))
    assert (found.code, found.severity) == ("environment", "warning")
    assert "SIDECAR_SERVER_PORT" in found.says + found.remedy


# -- this host ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A data folder as it should be, and a process that is no root's."""
    config = _read(tmp_path, {**WELL, "data_dir": str(tmp_path / "data")})
    config.data_dir.mkdir(mode=0o700)
    owner = config.data_dir.stat().st_uid or 1000
    if os.geteuid() == 0:
        os.chown(config.data_dir, owner, owner)
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    monkeypatch.setattr(host, "_IN_MEMORY", frozenset[str]())
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65_536, 65_536))
    return config


def _codes(config: Config) -> list[tuple[str, str]]:
    found = [*host.host_findings(config)]
    assert all(each.says and each.remedy for each in found)
    return [(each.code, each.severity) for each in found]


def test_a_host_that_is_well_has_no_findings(of_its_own: Config) -> None:
    assert _codes(of_its_own) == []


def test_before_the_first_start_there_is_no_folder_to_look_at(of_its_own: Config) -> None:
    of_its_own.data_dir.rmdir()
    assert _codes(of_its_own) == []


@pytest.mark.parametrize("mode", [0o750, 0o707, 0o777])
def test_a_folder_that_is_open_to_others(of_its_own: Config, mode: int) -> None:
    of_its_own.data_dir.chmod(mode)
    assert _codes(of_its_own) == [("data-dir-mode", "error")]


def test_a_folder_of_somebody_else(of_its_own: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert _codes(of_its_own) == [("data-dir-owner", "error")]


def test_root(of_its_own: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert ("root", "warning") in _codes(of_its_own)


def test_few_files_may_be_open(of_its_own: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 65_536))
    assert _codes(of_its_own) == [("open-files", "warning")]


@pytest.mark.parametrize(("left", "severity"), [(500, "warning"), (10, "error")])
def test_a_disk_that_is_nearly_full(
    of_its_own: Config, monkeypatch: pytest.MonkeyPatch, left: int, severity: str
) -> None:
    disk = SimpleNamespace(f_bavail=left, f_frsize=1024 * 1024)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    assert _codes(of_its_own) == [("disk", severity)]


@pytest.mark.parametrize(("kind", "code"), [("tmpfs", "data-dir-memory"), ("nfs4", "data-dir-network")])
def test_a_folder_on_a_disk_that_is_none(
    of_its_own: Config, monkeypatch: pytest.MonkeyPatch, kind: str, code: str
) -> None:
    monkeypatch.setattr(host, "_IN_MEMORY", frozenset({"tmpfs"}))
    monkeypatch.setattr(host, "filesystem_of", lambda *_: kind)
    assert _codes(of_its_own) == [(code, "warning")]


def test_the_file_system_is_that_of_the_deepest_mount() -> None:
    mounts = "/dev/sda / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\nserver:/x /srv/my\\040data nfs4 rw 0 0\nodd\n"
    for folder, kind in {"/srv/x": "ext4", "/run/sidecar": "tmpfs", "/runs": "ext4", "/srv/my data/a": "nfs4"}.items():
        assert host.filesystem_of(Path(folder), mounts) == kind
    assert host.filesystem_of(Path("/x"), "") is None


# -- clocks and the outbox ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "severity", "says"),
    [(4, None, ""), (-4, None, ""), (6, "warning", "6 s ahead of"), (-31, "error", "31 s behind")],
)
def test_clocks_that_are_apart(seconds: int, severity: str | None, says: str) -> None:
    now = datetime.now(UTC)
    found = clock_finding("Vault", now + timedelta(seconds=seconds), now)
    assert (found.severity if found else None) == severity
    assert found is None or (found.code == "clock" and f"the clock of Vault is {says}" in found.says)


def test_what_waits_in_the_outbox() -> None:
    now = datetime.now(UTC)
    positions = {
        "well": Position(3, 0, now - timedelta(minutes=1)),
        "parking": Position(2, 2, None),
        "slow": Position(7, 0, now - timedelta(minutes=30)),
        "gone": Position(5, 1, now - timedelta(days=1)),
    }
    found = [*outbox_findings(positions, ["well", "parking", "slow", "new"], now)]
    assert [(each.code, each.severity) for each in found] == [
        ("dead-letters", "error"),
        ("outbox-lag", "error"),
        ("position-gone", "warning"),
    ]
    assert "30 minutes" in found[1].says
    assert found[2].remedy.startswith("sidecar plugins forget gone")


def test_severities_are_those_of_the_type() -> None:
    assert [Finding("x", severity, "y", "z").severity for severity in SEVERITIES] == ["error", "warning", "note"]
