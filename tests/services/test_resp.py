"""Values of Redis' protocol are cut where they end, however the bytes arrive."""

from __future__ import annotations

import pytest

from tests.services.resp import Values, words

VALUES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-12\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n*2\r\n:1\r\n$-1\r\n*1\r\n+x\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b"(12345678901234567890\r\n",
    b"!5\r\nERR x\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"~2\r\n:1\r\n:2\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
    b"|1\r\n+ttl\r\n:3\r\n*1\r\n+value\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\n\r\n\r\n",
    b"PING\r\n",
    b"\r\n",
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_values_are_cut_where_they_end(size: int) -> None:
    stream, values = b"".join(VALUES), Values()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [value for piece in pieces for value in values.feed(piece)] == VALUES


def test_half_a_value_is_none() -> None:
    for value in VALUES:
        for length in range(len(value)):
            assert Values().feed(value[:length]) == []


def test_what_is_no_protocol_within_a_value_is_said() -> None:
    with pytest.raises(ValueError, match="no Redis protocol"):
        Values().feed(b"*1\r\nHTTP/1.1 200 OK\r\n")


def test_words() -> None:
    assert words(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n", 3) == [b"SET", b"k", b"\r\n"]
    assert words(b"PING now\r\n", 1) == [b"PING"]
    assert words(b"*2\r\n:1\r\n$1\r\na\r\n", 2) == []
