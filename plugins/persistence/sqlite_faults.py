"""What SQLite and its driver raise, in the words of the sidecar. No text of a row gets into any of it."""

from __future__ import annotations

import sqlite3

from sidecar import Unavailable, Unstorable

PART = "persistence"

_REFUSED_ROW = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE}
_REASONS = {
    sqlite3.SQLITE_BUSY: "another process holds the database locked",
    sqlite3.SQLITE_LOCKED: "another process holds the database locked",
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_IOERR: "reading or writing the disk failed: free some space or look at the disk",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened: look at its folder and permissions",
    sqlite3.SQLITE_READONLY: "the database cannot be written: look at its permissions",
    sqlite3.SQLITE_PERM: "the database cannot be written: look at its permissions",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: stop the sidecar and restore a backup",
    sqlite3.SQLITE_NOTADB: "the database is damaged: stop the sidecar and restore a backup",
}


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code (https://sqlite.org/rescode.html); 0 where the driver itself complained."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def translated(error: Exception) -> Exception:
    """`Unstorable` for a row that will never go in, `Unavailable` for a database that cannot take it now, else the error itself."""
    if isinstance(error, sqlite3.Error):
        code = code_of(error)
        if code in _REFUSED_ROW or isinstance(error, sqlite3.IntegrityError | sqlite3.DataError):
            return Unstorable(f"the row violates a limit or a constraint of the store ({type(error).__name__}, {code})")
        if code == 0 and str(error).startswith("Error binding parameter"):
            return _unbindable(error)
        return Unavailable(PART, _REASONS.get(code, f"the database answered with code {code}"))
    if isinstance(error, UnicodeEncodeError | OverflowError):
        return _unbindable(error)
    return error


def _unbindable(error: Exception) -> Unstorable:
    # Not chained: a UnicodeEncodeError carries the whole text that it stumbled over.
    return Unstorable(f"a field of the row cannot be written to a database ({type(error).__name__})")
