"""`make services`: what the tests' servers need and pip cannot bring. Root on Debian installs it, anyone else is told; Vault is built.

    python -m tests.services.install

It ends well even where nothing can be installed: the tests that want it then say so, one by one, and fail with CI=true.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.services.cache_folder import cache_folder
from tests.services.directus.installing import install as install_directus
from tests.services.programs import Missing, find_faketime, find_redis, find_strace
from tests.services.vault import building
from tests.services.vault.programs import find_vault

_POLICY = Path("/usr/sbin/policy-rc.d")
_FORBID_ALL = "#!/bin/sh\n# Written by `make services` of directus-sync-sidecar, which removes it again.\nexit 101\n"


@contextmanager
def _alone() -> Iterator[None]:
    """Two `make test` at once install one after the other; the second finds it done."""
    with (cache_folder() / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _no_service_started() -> Iterator[None]:
    """Debian starts what it installs, on the port that everybody knows. `policy-rc.d` is the way to say no; one that is there stays."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text(_FORBID_ALL)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _apt_get(*arguments: str) -> None:
    subprocess.run(
        ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments],
        check=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdout=2,
    )


def install(packages: Sequence[str]) -> None:
    """With apt, without starting anything."""
    with _no_service_started():
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", *packages)


def missing_packages() -> dict[str, str]:
    """What Debian has and is not there: its package, and what to do about it."""
    why = {}
    for package, find in {"redis-server": find_redis, "strace": find_strace, "libfaketime": find_faketime}.items():
        try:
            find()
        except Missing as error:
            why[package] = str(error)
    return why


def build_vault() -> str | None:
    """Builds the tests' Vault where none is to be had otherwise; returns why there is none all the same."""
    try:
        if not os.environ.get("VAULT_ADDR"):
            find_vault()
        return None
    except Missing as error:
        why = str(error)
    if os.environ.get("SIDECAR_TEST_VAULT"):  # one that is named is wanted, and no other
        return why
    print("building the tests' Vault: five minutes, once", file=sys.stderr)
    try:
        building.build()
    except Missing as error:
        return str(error)
    return None


def main() -> int:
    with _alone():
        if (packages := [*missing_packages()]) and shutil.which("apt-get") and os.geteuid() == 0:
            print(f"installing {', '.join(packages)}", file=sys.stderr)
            try:
                install(packages)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"that failed: {error}", file=sys.stderr)
        no_vault = build_vault()
    reasons = [*missing_packages().values(), *([no_vault] if no_vault else [])]
    try:
        install_directus()
    except Missing as error:
        reasons.append(str(error))
    for reason in reasons:
        print(f"{reason} The tests that want it will be skipped.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
