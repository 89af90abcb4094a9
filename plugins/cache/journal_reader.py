"""What stands in one file of the journal, and where it is damaged.

A record is three little-endian 32-bit numbers (length of what follows the second, CRC-32 of that, length of the header), a
header in JSON that begins with `{"at":`, and the blobs that the header counts in `blobs`. The first record of a file says its format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import orjson

from sidecar import StartRefused

FORMAT = 1
FIRST = b'{"at":'
"""How every header begins; by it a later record is found behind a damaged one."""
BEFORE = struct.Struct("<II")
"""Length and CRC-32 of the body, which stands behind them."""
_HEAD = struct.Struct("<III")
_HEADER_LENGTH = struct.Struct("<I")
_TORN_START = (
    4096  # a first record cut short by a crash is smaller; anything longer that does not begin well is no torn tail
)


@dataclass(frozen=True, slots=True)
class JournalRecord:
    header: dict[str, Any]
    blobs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TornTail:
    """The last record of a file was not written to its end: it was never answered."""

    offset: int
    length: int


def refused(path: Path, offset: int | None, what: str) -> StartRefused:
    """The refusal to start on this file, with its remedy."""
    where = f"{path}" if offset is None else f"{path}, byte {offset}"
    return StartRefused(
        "cache",
        f"{where}: {what}; nothing was changed. Move the file aside and start again: "
        "the devices bring their drafts back, stored chats come from the store",
    )


class JournalReader:
    """Reads one file from its beginning. After the last record `torn` says whether bytes were left over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.torn: TornTail | None = None

    def __iter__(self) -> Iterator[JournalRecord]:
        """The records in order. Raises `StartRefused` on damage, a newer format and a file that cannot be read."""
        try:
            with self._path.open("rb") as file:
                yield from self._records(file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise refused(self._path, None, f"cannot be read ({error.strerror})") from error

    def _records(self, file: IO[bytes], size: int) -> Iterator[JournalRecord]:
        offset = 0
        while offset < size:
            body = _body(file, size - offset)
            record = None if body is None else _parsed(body)
            if record is None:
                self._judge_rest(file, offset, size)
                return
            if offset == 0:
                self._check_format(record)
            yield record
            offset = file.tell()

    def _check_format(self, record: JournalRecord) -> None:
        found = record.header.get("format")
        if not isinstance(found, int):
            raise refused(self._path, 0, "this is no journal of the memory cache")
        if found > FORMAT:
            raise refused(
                self._path, 0, f"written by a newer release (format {found}, this one reads up to {FORMAT}); upgrade"
            )

    def _judge_rest(self, file: IO[bytes], offset: int, size: int) -> None:
        """Nothing good behind the bad place: a torn tail. Otherwise the file is damaged in its middle."""
        file.seek(offset)
        rest = file.read()
        if _good_record_behind(rest):
            raise refused(self._path, offset, "a record is damaged, and good ones follow it")
        if offset == 0 and size > _TORN_START:
            raise refused(self._path, 0, "this is no journal of the memory cache, or its beginning is damaged")
        self.torn = TornTail(offset, len(rest))


def _body(file: IO[bytes], left: int) -> bytes | None:
    """Header length, header and blobs of the next record, or None where it is incomplete or its checksum is wrong."""
    start = file.read(8)
    if len(start) < 8:
        return None
    length, crc = BEFORE.unpack(start)
    if length < 4 + len(FIRST) or length > left - 8:
        return None
    body = file.read(length)
    return body if len(body) == length and crc32(body) == crc else None


def _parsed(body: bytes) -> JournalRecord | None:
    (length,) = _HEADER_LENGTH.unpack_from(body)
    if not 0 < length <= len(body) - 4:
        return None
    try:
        header = orjson.loads(body[4 : 4 + length])
        blobs, at = [], 4 + length
        for size in header.get("blobs", ()):
            blobs.append(body[at : at + size])
            at += size
    except (ValueError, AttributeError, TypeError):
        return None
    return JournalRecord(header, tuple(blobs)) if at == len(body) else None


def _good_record_behind(rest: bytes) -> bool:
    at = rest.find(FIRST, _HEAD.size + 1)
    while at != -1:
        length, crc, _ = _HEAD.unpack_from(rest, at - _HEAD.size)
        begin = at - _HEADER_LENGTH.size
        if length <= len(rest) - begin and length > 4 and crc32(memoryview(rest)[begin : begin + length]) == crc:
            return True
        at = rest.find(FIRST, at + 1)
    return False
