"""Rows that could not be read whole: counted, and logged once each."""

from __future__ import annotations

import logging
import threading

_REMEMBERED = 10_000


class Damage:
    """Which rows could not be read whole. Each is logged once, by its id and the columns that are wrong."""

    def __init__(self, logger: str) -> None:
        self._logger = logger
        self._lock = threading.Lock()  # rows may be read in several threads
        self._seen: set[tuple[str, str]] = set()
        self.rows = 0
        """How many were met since the start; not more than 10,000 are told apart."""

    def note(self, kind: str, row_id: str, columns: list[str]) -> None:
        """This row has these columns wrong."""
        with self._lock:
            if (kind, row_id) in self._seen or len(self._seen) >= _REMEMBERED:
                return
            self._seen.add((kind, row_id))
            self.rows += 1
        logging.getLogger(self._logger).error(
            "the row of %s %s is damaged in %s; the rest of it is served, mend it in the database",
            kind,
            row_id,
            ",".join(columns),  # one word, for an argument with blanks is withheld
        )
