"""What `doctor` finds on this host: the data folder, its disk, the rights and limits of the process."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

from sidecar.config import Config
from sidecar.findings import Finding

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_OF_A_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs"})
_MIB = 1024 * 1024
_LITTLE, _NOTHING = 1024 * _MIB, 64 * _MIB
_FILES = 4096


def host_findings(config: Config) -> Iterator[Finding]:
    """Of the process that asks: the running sidecar itself, where one serves."""
    folder = config.data_dir
    try:
        found = folder.stat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        yield Finding("data-dir", "error", f"data_dir {folder} cannot be looked at: {error.strerror}", "see its owner")
        return
    if found is not None:
        yield from _folder(folder, found)
    if os.geteuid() == 0:
        yield Finding(
            "root",
            "warning",
            "the sidecar runs as root, which it has no need of",
            "run it as a user of its own that owns data_dir",
        )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        yield Finding(
            "open-files",
            "warning",
            f"this process may have {soft} files open, and each socket is one",
            "raise the limit: LimitNOFILE=65536 in systemd, `ulimit -n 65536` in a shell",
        )


def _folder(folder: Path, found: os.stat_result) -> Iterator[Finding]:
    if found.st_mode & 0o077:
        yield Finding(
            "data-dir-mode",
            "error",
            f"other users of this host come into data_dir {folder} (mode {stat.S_IMODE(found.st_mode):04o})",
            f"chmod 700 {folder}",
        )
    if found.st_uid not in (os.geteuid(), 0) or (found.st_uid == 0 and os.geteuid() != 0):
        yield Finding(
            "data-dir-owner",
            "error",
            f"data_dir {folder} belongs to the user {found.st_uid}, and this process runs as {os.geteuid()}",
            f"chown -R {os.geteuid()} {folder}, or run this as its owner",
        )
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        mounts = ""  # no Linux
    kind = filesystem_of(folder.resolve(), mounts)
    if kind in _IN_MEMORY:
        yield Finding(
            "data-dir-memory",
            "warning",
            f"data_dir {folder} is in memory ({kind}): at the next boot it is empty",
            "put data_dir on a disk, unless every slot keeps its data elsewhere",
        )
    if kind in _OF_A_NETWORK:
        yield Finding(
            "data-dir-network",
            "warning",
            f"data_dir {folder} is on a network file system ({kind}), whose locks do not hold for SQLite and the key file",
            "put data_dir on a local disk",
        )
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < _LITTLE:
        yield Finding(
            "disk",
            "error" if free < _NOTHING else "warning",
            f"the disk of data_dir {folder} has {free // _MIB} MiB left",
            "make room, or put data_dir on a larger disk",
        )


def filesystem_of(folder: Path, mounts: str) -> str | None:
    """The kind of the file system that holds an absolute folder, by the text of /proc/mounts; None where it does not say."""
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # The kernel writes spaces, tabs and backslashes of a path as octal (proc_pid_mounts(5)).
        point = Path(fields[1].encode("latin-1", "replace").decode("unicode_escape"))
        if folder.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), fields[2]
    return best[1] if best else None
