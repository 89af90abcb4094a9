"""The file of `persistence.sqlite`: its tables, and how it is opened without harm to what is in it."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from pathlib import Path

from plugins.persistence.sqlite_faults import PART, code_of
from sidecar import StartRefused, Unavailable

VERSION = 1
"""Of the tables, in `PRAGMA user_version`."""
APPLICATION = 0x44537943
"""In `PRAGMA application_id` ("DSyC"): this database is a sidecar's and nobody else's."""
BUSY_SECONDS = 2.0
"""How long a lock of another process is waited for: well under the 5 s that a hook has, so that it ends as
`Unavailable`, which counts no try, and not in a timeout, which does."""
ROW_BYTES = 64 * 1024 * 1024
"""The longest value that is written."""
CHECKED_BYTES = 1024**3
"""A larger file is not read through at start, which takes a few seconds per GiB."""
_START_SECONDS = 5.0

# Beyond the keys no column has a constraint: a row that a repair or an import left half empty can then be seen, reported
# and mended by the next write, and does not hold up its neighbours. `sorted_at` and `sorted_sequence` are what such a row
# is sorted by, exactly as it is read, so that paging by key passes over nothing. The sealed values stand last: the
# columns before them are read without following their overflow pages.
#
# (chat, sequence) is not unique. After a loss of the cache a sequence may be given again before the store was asked; a
# constraint would then refuse an accepted message for good. Both rows stay, ordered by (sequence, id).
_TIME = "BETWEEN -62135596800000 AND 253402300799999"  # the years 1 to 9999 in milliseconds
_TABLES = (
    f"""
    CREATE TABLE chats (
        hashed_user_id TEXT NOT NULL CHECK (typeof(hashed_user_id) = 'text'),
        id TEXT NOT NULL CHECK (typeof(id) = 'text'),
        vault_key_reference TEXT,
        title_version INTEGER,
        title_op TEXT,
        version INTEGER,
        draft_op TEXT,
        draft_state TEXT,
        messages_version INTEGER,
        created_at INTEGER,
        updated_at INTEGER,
        last_message_timestamp INTEGER,
        title BLOB,
        draft BLOB,
        sorted_at INTEGER AS (
            CASE WHEN typeof(updated_at) = 'integer' AND updated_at {_TIME} THEN updated_at ELSE 0 END
        ) VIRTUAL,
        PRIMARY KEY (hashed_user_id, id)
    )
    """,
    "CREATE INDEX chats_newest ON chats (hashed_user_id, sorted_at, id)",
    """
    CREATE TABLE messages (
        id TEXT NOT NULL PRIMARY KEY CHECK (typeof(id) = 'text'),
        hashed_user_id TEXT NOT NULL CHECK (typeof(hashed_user_id) = 'text'),
        chat_id TEXT NOT NULL CHECK (typeof(chat_id) = 'text'),
        client_message_id TEXT,
        role TEXT,
        sender_name TEXT,
        sequence INTEGER,
        created_at INTEGER,
        content BLOB,
        sorted_sequence INTEGER AS (
            CASE WHEN typeof(sequence) = 'integer' AND sequence > 0 THEN sequence ELSE 0 END
        ) VIRTUAL
    )
    """,
    "CREATE INDEX messages_newest ON messages (hashed_user_id, chat_id, sorted_sequence, id)",
    """
    CREATE TABLE deleted_chats (
        hashed_user_id TEXT NOT NULL,
        chat_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (hashed_user_id, chat_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE devices (
        hashed_user_id TEXT NOT NULL,
        id TEXT NOT NULL,
        secret_hash TEXT,
        name TEXT,
        fingerprint TEXT,
        first_seen INTEGER,
        last_seen INTEGER,
        verified_at INTEGER,
        PRIMARY KEY (hashed_user_id, id)
    )
    """,
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)


def _tolerant(text: bytes) -> str:
    # The driver's own decoding raises, and one row with a broken character would take the whole page with it.
    return text.decode("utf-8", "replace")


def connect(path: Path, *, reading: bool = False) -> sqlite3.Connection:
    """A connection to an existing file, transactions by hand; `reading` refuses every write. The caller closes it.

    `synchronous=FULL`: in WAL mode NORMAL already survives kill -9 (what was written is the kernel's), but a
    commit is only on the disk after an fsync, which is what power loss asks for (https://sqlite.org/pragma.html).
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.text_factory = _tolerant
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, ROW_BYTES)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")  # nothing of a row in a file outside of data_dir
        connection.execute("PRAGMA secure_delete = ON")  # what a person erased is zeroed and not only unlinked
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if reading:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path) -> None:
    """Makes the file if it is missing, and sees that it is one that this version can serve.

    Raises `StartRefused` naming file and remedy when it is not (then nothing in it was touched), `Unavailable` when it is locked or the disk
    does not answer. Several processes may do this at once.
    """
    if sqlite3.sqlite_version_info < (3, 31):
        raise StartRefused(PART, f"SQLite {sqlite3.sqlite_version} is too old; install 3.31 or newer")
    _look(path)
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            _open_first(path)
            return
        except sqlite3.Error as error:
            # Two processes that switch a new file to WAL at once get "locked" without the wait that was asked for.
            if code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise _start_error(path, error) from error


def _look(path: Path) -> None:
    folder = path.parent
    log = path.with_name(path.name + "-wal")
    try:
        if not folder.is_dir():
            raise _refused(path, f"its folder {folder} does not exist", "make it, or write another options.path")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise _refused(path, f"its folder {folder} cannot be written", "give the sidecar's user the right to")
        empty = not path.exists() or (path.is_file() and path.stat().st_size == 0)
        if empty and log.exists() and log.stat().st_size > 0:
            # SQLite would begin anew and throw the log away, and with it what was written last.
            raise _refused(
                path, f"it is gone while {log.name} still holds writes", f"put it back, or move {log.name} away"
            )
        try:
            # Made closed from the first moment on; SQLite gives its -wal and -shm files the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            return
        except FileExistsError:
            pass
        found = path.stat()
    except OSError as error:
        raise _refused(
            path, f"it cannot be reached ({error.strerror})", "look at the disk and the permissions"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "it is not a file", "write the path of a file in options.path")
    if not os.access(path, os.R_OK | os.W_OK):
        raise _refused(path, "it cannot be read and written", "give the file to the sidecar's user")
    if os.name != "nt" and found.st_mode & 0o077:
        raise _refused(path, "other users of this machine may open it", f"run: chmod 600 {path}")


def _open_first(path: Path) -> None:
    connection = connect(path)
    try:
        _check_kind(path, connection)
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise _refused(path, "WAL is not possible there (a network file system?)", "keep it on a local disk")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) == 0:  # asked again: another process may have made the tables meanwhile
                for statement in _TABLES:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        _check_pages(path, connection)
    finally:
        connection.close()


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check_kind(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")  # one moment: another process may be making the tables just now
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = _version(connection)
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    finally:
        connection.execute("ROLLBACK")
    if application == 0 and version == 0 and tables == 0:
        return
    if application != APPLICATION:
        raise _refused(path, "it is a database of another program", "write another options.path")
    if version > VERSION:
        raise _refused(
            path, f"its tables have version {version}, this sidecar knows {VERSION}", "run the newer sidecar again"
        )


def _check_pages(path: Path, connection: sqlite3.Connection) -> None:
    if path.stat().st_size > CHECKED_BYTES:
        logging.getLogger("sidecar.persistence.sqlite").warning(
            "%s is too large to be read through at every start; look at it now and then with PRAGMA quick_check", path
        )
        return
    for (finding,) in connection.execute("PRAGMA quick_check(100)"):
        # A wrong value in one row is that row's trouble (it is reported when it is read); the rest is a broken file.
        if finding != "ok" and " value in " not in finding and "constraint failed" not in finding:
            raise _damaged(path)


def _start_error(path: Path, error: sqlite3.Error) -> Exception:
    code = code_of(error)
    if code == sqlite3.SQLITE_NOTADB:
        return _refused(path, "it is no database", "move it away or write another options.path")
    if code == sqlite3.SQLITE_CORRUPT:
        return _damaged(path)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return _refused(path, "it cannot be opened for writing", "look at the permissions of the file and its folder")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(PART, f"another process holds {path.name} locked")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
        return Unavailable(PART, f"the disk of {path.name} is full or does not answer")
    return _refused(path, f"it cannot be opened (code {code})", "restore a backup or write another options.path")


def _damaged(path: Path) -> StartRefused:
    return _refused(
        path,
        "it is damaged",
        "restore a backup, or save what is readable with: sqlite3 FILE .recover",
    )


def _refused(path: Path, what: str, remedy: str) -> StartRefused:
    return StartRefused(PART, f"{path}: {what}; {remedy}")
