"""The key file: all chats' keys in one append-only file, shared by the processes of one host. Everything here blocks.

Each step takes the lock, reads what others appended, appends, and has it on the disk before it returns: a key is never
used before it would survive a loss of power. In memory the keys stay sealed as they stand in the file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from plugins.encryption import durable
from plugins.encryption.keyrecords import (
    FORGOTTEN,
    HEADER_BYTES,
    KEY,
    MARK,
    Damaged,
    Record,
    Slot,
    Slots,
    Wrap,
    WrongMasterKey,
    key_plaintext,
    mark_plaintext,
    new_salt,
    read_key_plaintext,
    read_mark_plaintext,
    refusal_of,
    salt_of,
    scan,
)
from plugins.encryption.masterkey import MasterKey
from sidecar import KeyGone, Unavailable, Undecryptable

_log = logging.getLogger(__name__)
_COMPACT_FROM = 64 * 1024


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done with one slot. `begin` needs the names; `look` only reads what other processes wrote."""

    what: Literal["look", "begin", "rotate", "destroy", "forget"]
    slot: bytes
    user: str = ""
    chat_id: str = ""


Failure = Unavailable | KeyGone | Undecryptable


class KeyFile:
    """An open key file. Make it with `KeyFile.at`, and close it."""

    def __init__(self, path: Path, master: MasterKey) -> None:
        self.path = path
        self._counter = durable.Counter(self.lock_of(path))
        self.seen = self._counter.read()
        """Up to where its user took notice of keys that are no longer as they were (`revoked`)."""
        self._master = master
        self._thread_lock = threading.Lock()
        self._slots = Slots()
        self._changed: set[bytes] = set()
        """Slots that changed since the caller was last told."""
        self._header = b""
        self._end = 0
        self._signature: tuple[int, int, int] | None = None
        self._wrap: Wrap | None = None

    @classmethod
    def at(cls, path: Path, master: MasterKey) -> KeyFile:
        """Opens the file, or makes it if there is none. The caller holds the lock (`lock_of`).

        A last record that was cut short is set aside with a warning, an interrupted destruction is finished, and a file
        that is mostly dead is written anew. `StartRefused`, nothing changed: damage, another master key, open to others.
        """
        try:
            file = cls(path, master)
            try:
                file._open()
            except BaseException:
                file.close()
                raise
        except (WrongMasterKey, Damaged, OSError) as error:
            raise refusal_of(path, error) from None
        return file

    def _open(self) -> None:
        if not self.path.exists():
            salt = new_salt()
            durable.write_file(self.path, self._master.wrap(salt).header(salt))
        durable.refuse_if_open_to_others(self.path)
        with self._opened() as descriptor:
            self._catch_up(descriptor, repair=True)
            self._shred(descriptor)
        if self._slots.forgotten or self._slots.dead_bytes > max(_COMPACT_FROM, self._end // 2):
            self._compact()
        self._touched()  # nobody has a key of it yet

    @staticmethod
    def lock_of(path: Path) -> Path:
        return path.with_name(f"{path.name}.lock")

    def close(self) -> None:
        self._counter.close()

    # -- without I/O but one stat: for the event loop ------------------------------------------------------------------

    def revoked(self) -> bool:
        """Whether another process has rotated, destroyed or forgotten a key since `seen`. Asked at every use of a key.

        Keys that others begin are no reason to look, hence not `changed`: a look takes the lock and a thread.
        """
        return self._counter.read() != self.seen

    def changed(self) -> bool:
        """Whether another process wrote since this one looked. `Unavailable` when the file is not there."""
        try:
            return self._signature != _signature(self.path.stat())
        except OSError as error:
            raise self._unavailable(error) from None

    def slot(self, slot: bytes) -> Slot | None:
        """What was known of this slot when this process last looked; None if nothing is."""
        return self._slots.by_slot.get(slot)

    def secrets(self, slot: Slot) -> Mapping[int, bytes]:
        """The keys by version."""
        wrap = self._opener()
        return {record.version: read_key_plaintext(wrap.open(record))[0] for record in slot.keys}

    def destroyed_at(self, slot: Slot) -> datetime | None:
        """Since when the key is destroyed; None if it is not."""
        return read_mark_plaintext(self._opener().open(slot.mark)) if slot.mark else None

    def names(self) -> Iterator[tuple[bytes, str, str]]:
        """Slot, user hash and chat id of every key that is not destroyed."""
        wrap = self._opener()
        for slot, what in list(self._slots.by_slot.items()):
            if what.keys:
                _, user, chat_id = read_key_plaintext(wrap.open(what.keys[0]))
                yield slot, user, chat_id

    def counts(self) -> tuple[int, int]:
        """Slots with keys, and destroyed ones."""
        slots = list(self._slots.by_slot.values())
        with_keys = sum(1 for slot in slots if slot.keys)
        return with_keys, len(slots) - with_keys

    # -- with I/O: for a thread ----------------------------------------------------------------------------------------

    def carry_out(self, steps: Sequence[Step]) -> tuple[list[Slot | Failure | None], set[bytes], int]:
        """Takes these steps together, with one write. When the disk refuses a write, only `look` succeeds and the file is as before.

        Returns each one's slot afterwards, or what is wrong with it; the slots that changed since this process last looked; and
        up to where they did, which is `seen` once the caller has dropped their keys.
        """
        with self._thread_lock:
            try:
                with durable.locked(self.lock_of(self.path)), self._opened() as descriptor:
                    return self._carry_out(descriptor, steps)
            except OSError as error:
                failure = self._unavailable(error)
            except (Damaged, WrongMasterKey) as error:
                self._forget_all()
                failure = Unavailable("encryption", f"{self.path.name} is damaged or was exchanged: {error}")
            except Unavailable as error:
                failure = error
        return (
            [Unavailable(failure.part, failure.reason, failure.retry_after) for _ in steps],
            self._touched(),
            self.seen,
        )

    def _carry_out(self, descriptor: int, steps: Sequence[Step]) -> tuple[list[Slot | Failure | None], set[bytes], int]:
        counted = self._counter.read()
        self._catch_up(descriptor, repair=any(step.what != "look" for step in steps))
        failures: dict[int, Failure] = {}
        appended = bytearray()
        revoking = False
        # Slots as they will be: steps on one slot in the same write must see each other.
        latest: dict[bytes, tuple[int, bool]] = {}
        for number, step in enumerate(steps):
            try:
                record = self._record_for(step, latest)
            except (KeyGone, Undecryptable) as error:
                failures[number] = error
                continue
            appended += record
            revoking = revoking or (bool(record) and step.what != "begin")
        try:
            if revoking:
                counted = self._revoke(counted)
            self._append(descriptor, bytes(appended))
            self._take_in(bytes(appended))
            self._shred(descriptor)
        except OSError as error:
            for number, step in enumerate(steps):
                if step.what != "look":
                    failures.setdefault(number, self._unavailable(error))
        self._signature = _signature(os.fstat(descriptor))
        return (
            [failures.get(number) or self.slot(step.slot) for number, step in enumerate(steps)],
            self._touched(),
            counted,
        )

    def _revoke(self, counted: int) -> int:
        # Before the file is written: whoever sees it takes the lock to look, and so waits until all of it is there. If this
        # process is killed in between, they look in vain.
        value = self._counter.raise_()
        if counted == self.seen:
            self.seen = value  # our own steps are no news to us
        return value

    def _record_for(self, step: Step, latest: dict[bytes, tuple[int, bool]]) -> bytes:
        known = self.slot(step.slot)
        versions, gone = latest.get(step.slot) or (len(known.keys) if known else 0, bool(known and known.mark))
        kind, plaintext = KEY, b""
        match step.what:
            case "begin" | "rotate" if gone:
                raise KeyGone("this chat's key was destroyed")
            case "begin" if versions == 0:
                plaintext = key_plaintext(os.urandom(32), step.user, step.chat_id)
            case "rotate" if versions == 0:
                raise Undecryptable("there is no key under this reference")
            case "rotate":
                user, chat_id = self._names_of(known)
                plaintext = key_plaintext(os.urandom(32), user, chat_id)
            case "destroy" if not gone:
                kind, plaintext = MARK, mark_plaintext(time.time_ns() // 1_000_000)
            case "forget" if gone or versions:
                kind = FORGOTTEN
            case _:
                return b""
        version = versions + 1 if kind == KEY else 0
        latest[step.slot] = version, kind == MARK
        return self._opener().record(kind, step.slot, version, plaintext)

    def _names_of(self, slot: Slot | None) -> tuple[str, str]:
        if slot is None or not slot.keys:
            raise Undecryptable("there is no key under this reference")
        _, user, chat_id = read_key_plaintext(self._opener().open(slot.keys[0]))
        return user, chat_id

    def _append(self, descriptor: int, content: bytes) -> None:
        if not content:
            return
        try:
            durable.write_all(descriptor, content, self._end)
            os.fsync(descriptor)
        except OSError:
            # No half record stays, and none that might be on the disk or not. If this fails too, whoever writes next repairs it.
            os.ftruncate(descriptor, self._end)
            raise

    def _take_in(self, content: bytes) -> None:
        records, self._end = scan(content, self._end)
        self._changed |= self._slots.replay(records, self._opener())

    def _touched(self) -> set[bytes]:
        touched, self._changed = self._changed, set()
        return touched

    def _catch_up(self, descriptor: int, *, repair: bool) -> None:
        """Takes in what was appended since, or the whole file when it is another generation."""
        header = os.pread(descriptor, HEADER_BYTES, 0)
        slots, start, wrap = self._slots, self._end, self._wrap
        if wrap is None or header != self._header:
            salt = salt_of(header)
            if wrap is None or salt != salt_of(self._header):
                wrap = self._master.wrap(salt)
            wrap.check(header)
            self._changed |= set(slots.by_slot)
            slots, start = Slots(), HEADER_BYTES
        if os.fstat(descriptor).st_size < start:
            # Remembered until it is whole again: taken for what it is now, it would have keys made that it already had.
            raise Unavailable("encryption", f"{self.path.name} is shorter than it was: bring back its newest copy")
        content = durable.read_from(descriptor, start)
        records, end = scan(content, start)
        self._changed |= slots.replay(records, wrap)
        # All at once and last: the event loop reads these while a thread is in here.
        self._slots, self._header, self._end, self._wrap = slots, header, end, wrap
        torn = content[end - start :]
        if torn and repair:
            self._set_aside(descriptor, torn)
        self._signature = _signature(os.fstat(descriptor))

    def _set_aside(self, descriptor: int, torn: bytes) -> None:
        side = self.path.with_name(f"{self.path.name}.torn-{time.time_ns() // 1_000_000}")
        durable.write_file(side, torn)
        os.ftruncate(descriptor, self._end)
        os.fsync(descriptor)
        _log.warning(
            "%s ended in a record that was cut short (%d bytes); it is set aside in %s, all whole records are used",
            self.path,
            len(torn),
            side.name,
        )

    def _shred(self, descriptor: int) -> None:
        """Overwrites the bodies of destroyed keys. Their MARK is on the disk: interrupted here, the next start goes on."""
        if not self._slots.to_shred:
            return
        for record in self._slots.to_shred:
            durable.write_all(descriptor, bytes(len(record.body)), record.at)
        os.fsync(descriptor)
        self._slots.to_shred.clear()

    def _compact(self) -> None:
        wrap = self._opener()
        records = [
            each for slot in self._slots.by_slot.values() for each in (*slot.keys, slot.mark) if each is not None
        ]
        content = wrap.header(salt_of(self._header)) + b"".join(map(Record.encoded, records))
        durable.write_file(self.path, content)
        with self._opened() as descriptor:
            self._catch_up(descriptor, repair=True)

    def _forget_all(self) -> None:
        # What was half taken in must not be used; the next step reads the whole file again.
        self._slots, self._header, self._end, self._signature = Slots(), b"", 0, None
        self._wrap = None

    def _opener(self) -> Wrap:
        if self._wrap is None:
            raise Unavailable("encryption", f"{self.path.name} could not be read")
        return self._wrap

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _unavailable(self, error: OSError) -> Unavailable:
        return Unavailable("encryption", f"{self.path.name}: {error.strerror or type(error).__name__}")


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
