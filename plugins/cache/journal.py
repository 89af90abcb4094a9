"""The journal: each commit is in a file before it is answered, so that it survives kill -9.

It is handed to the operating system with one write and not forced to the disk: a killed process loses nothing, a power
failure may take the last seconds (the devices bring those back). Forced to the disk are a compaction and the orderly end.

Files are generations, `journal.000001` and on. A new one takes every new record while the whole state is written into it;
only when that is complete the older ones go. All that are there are read in order, so a crash in between loses nothing.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

from plugins.cache.journal_reader import BEFORE, JournalReader, JournalRecord, TornTail, refused
from sidecar import StartRefused, Unavailable

_log = logging.getLogger(__name__)
_NAME = re.compile(r"journal\.([0-9]{6,})\Z")


class Journal:
    """Owner of the folder while it is entered; one process at a time. Raises `StartRefused` on entering."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made if need be (0700); its files are 0600."""
        self._folder = folder
        self._lock = -1
        self._file = -1
        self._path = folder
        self._failing = False
        self._broken = False
        self.size = 0
        """Bytes of the present generation."""

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._release()
            raise StartRefused(
                "cache",
                f"{self._folder} is in use by another sidecar; stop that one, give each its own data_dir, "
                "or use the cache `redis` for several processes",
            ) from error
        except OSError as error:
            self._release()
            raise StartRefused(
                "cache", f"{self._folder} cannot be used ({error.strerror}); make it a folder that this user may write"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file != -1:
            try:
                os.fsync(self._file)
            except OSError as failure:
                _log.warning("the journal could not be forced to the disk at the end (%s)", failure.strerror)
            os.close(self._file)
            self._file = -1
        self._release()

    def _release(self) -> None:
        if self._lock != -1:
            os.close(self._lock)  # closing gives the flock back
            self._lock = -1

    def records(self) -> Iterator[JournalRecord]:
        """All records of all generations, oldest first. A torn tail of the last one is set aside and said in the log."""
        paths = self._generations()
        for path in paths:
            reader = JournalReader(path)
            yield from reader
            if reader.torn is not None:
                if path is not paths[-1]:
                    raise refused(
                        path, reader.torn.offset, "the file ends in the middle of a record, and a later one follows"
                    )
                self._set_aside(path, reader.torn)

    def _generations(self) -> list[Path]:
        found = [(int(match[1]), path) for path in self._folder.iterdir() if (match := _NAME.match(path.name))]
        return [path for _, path in sorted(found)]

    def _set_aside(self, path: Path, torn: TornTail) -> None:
        try:
            with path.open("r+b") as file:
                file.seek(torn.offset)
                aside = path.with_name(f"{path.name}.torn-{torn.offset}")
                number = 1
                while aside.exists():
                    aside = path.with_name(f"{path.name}.torn-{torn.offset}-{number}")
                    number += 1
                handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as copy:
                    copy.write(file.read())
                    copy.flush()
                    os.fsync(copy.fileno())
                file.truncate(torn.offset)
        except OSError as error:
            raise refused(path, torn.offset, f"a torn record cannot be set aside ({error.strerror})") from error
        _log.warning(
            "%s ends in the middle of a record that was never answered: its %d bytes were set aside as %s",
            path,
            torn.length,
            aside.name,
        )

    def begin(self, header: bytes) -> None:
        """A new generation, which takes every record from now on. `header` is its first record and names the format."""
        older = self._generations()
        number = int(older[-1].suffix[1:]) + 1 if older else 1
        path = self._folder / f"journal.{number:06d}"
        before = (self._file, self._path, self.size)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable("cache", f"no new journal can be begun ({error.strerror})") from error
        self._path, self.size = path, 0
        try:
            self.append(header)
        except Unavailable:
            os.close(self._file)
            path.unlink(missing_ok=True)
            self._file, self._path, self.size = before
            self._broken = False  # what could not be cut back was the file that is gone now
            raise
        if before[0] != -1:
            os.close(before[0])

    def append(self, header: bytes, blobs: Sequence[bytes] = ()) -> None:
        """Writes one record, whole or not at all. Raises `Unavailable`; then nothing of it is in the file."""
        if self._broken:
            raise Unavailable("cache", "the journal could not be written nor cut back; it is refused until a restart")
        body = b"".join((len(header).to_bytes(4, "little"), header, *blobs))
        data = BEFORE.pack(len(body), crc32(body)) + body
        try:
            written = os.write(self._file, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._cut_back()
            if not self._failing:
                _log.error(
                    "the journal in %s cannot be written (%s); changes are refused", self._folder, error.strerror
                )
                self._failing = True
            raise Unavailable("cache", f"the journal cannot be written ({error.strerror})", retry_after=5.0) from error
        if self._failing:
            _log.warning("the journal in %s can be written again", self._folder)
            self._failing = False
        self.size += len(data)

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._file, self.size)
        except OSError as error:
            # A record behind half a one would be lost at the next start: nothing more may be written.
            self._broken = True
            _log.critical(
                "the journal in %s could not be cut back after a failed write (%s); "
                "all changes are refused until a restart",
                self._folder,
                error.strerror,
            )

    def force(self) -> None:
        """Forces the present generation to the disk; may be called on another thread. Raises `Unavailable`."""
        try:
            file = os.dup(self._file)  # its own, so that closing the journal meanwhile harms nobody
            try:
                os.fsync(file)
            finally:
                os.close(file)
            folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise Unavailable("cache", f"the journal cannot be forced to the disk ({error.strerror})") from error

    def complete(self) -> None:
        """The whole state is in the present generation, and forced: the older ones go."""
        for path in self._generations():
            if path != self._path:
                path.unlink(missing_ok=True)

    @property
    def writable(self) -> bool:
        """Whether the last record could be written."""
        return not (self._failing or self._broken)
