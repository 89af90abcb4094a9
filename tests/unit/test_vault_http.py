"""One HTTP exchange as `encryption.vault` makes it: what is sent, whatever way an answer comes, and what is none."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest

from plugins.encryption.vault_http import BrokenExchange, Reply, exchange, question

_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _answered(sockets: tuple[socket.socket, socket.socket], answer: bytes, *, ends: bool = False) -> Reply:
    ours, theirs = sockets
    theirs.sendall(answer)
    if ends:
        theirs.shutdown(socket.SHUT_WR)
    return exchange(ours, b"GET / HTTP/1.1\r\n\r\n", lambda: 2.0, 1000)


def test_a_question_has_its_head_and_its_length() -> None:
    sent = question("POST", "/v1/a?b=1", "vault:8200", {"X-Vault-Token": "t"}, b"{}")
    assert sent == b"POST /v1/a?b=1 HTTP/1.1\r\nHost: vault:8200\r\nX-Vault-Token: t\r\nContent-Length: 2\r\n\r\n{}"
    assert question("GET", "/v1/a", "vault", {}, None) == b"GET /v1/a HTTP/1.1\r\nHost: vault\r\n\r\n"
    assert b"Content-Length: 0" in question("POST", "/v1/a", "vault", {}, b"")


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/v1/a b", {}),
        ("/v1/a\r\nX: y", {}),
        ("v1", {}),
        ("/v1/ü", {}),
        ("/v1/a", {"X-Vault-Token": "t\r\nX: y"}),
        ("/v1/a", {"X\n": "y"}),
        ("/v1/a", {"X-Vault-Namespace": "ü"}),
    ],
)
def test_t36_nothing_breaks_out_of_its_line(target: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="do not belong") as raised:
        question("GET", target, "vault", headers, None)
    assert "X: y" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "status", "content", "keeps"),
    [
        (_JSON, 200, b"{}", True),
        (_CHUNKED, 200, b"{}", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 503 Sealed\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", 503, b"{}", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + _JSON, 200, b"{}", True),
        (_JSON + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]", 200, b"{}", False),
    ],
)
def test_an_answer_is_read_whole_and_no_further(
    sockets: tuple[socket.socket, socket.socket], answer: bytes, status: int, content: bytes, keeps: bool
) -> None:
    reply = _answered(sockets, answer)
    assert (reply.status, reply.content, reply.keeps) == (status, content, keeps)


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("answer", [_JSON, _CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + _JSON])
def test_it_may_come_in_pieces(answer: bytes, pieces: int) -> None:
    reply = Reply()
    for start in range(0, len(answer), pieces):
        assert not reply.whole
        reply.take(answer[start : start + pieces])
    assert (reply.whole, reply.status, reply.content) == (True, 200, b"{}")
    assert ("content-type" in reply.headers) == (answer is not _CHUNKED)


def test_one_without_a_length_lasts_until_the_end(sockets: tuple[socket.socket, socket.socket]) -> None:
    reply = _answered(sockets, b"HTTP/1.1 200 OK\r\n\r\n<html>", ends=True)
    assert (reply.content, reply.keeps) == (b"<html>", False)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "broke"),
        (b"HTTP/1.1 200", "broke"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{", "cut short"),
        (_CHUNKED[:-7], "cut short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, "larger than any"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b" " * 2000, "larger than any"),
    ],
)
def test_what_is_no_whole_answer_is_said(sockets: tuple[socket.socket, socket.socket], answer: bytes, why: str) -> None:
    with pytest.raises(BrokenExchange, match=why):
        _answered(sockets, answer, ends=True)


def test_an_answer_that_trickles_ends_at_the_deadline(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = sockets
    theirs.sendall(_JSON[:-1])
    left: Sequence[float] = [0.5, 0.5, 0.05]
    waits = iter(left)
    with pytest.raises(TimeoutError):
        exchange(ours, b"GET / HTTP/1.1\r\n\r\n", lambda: next(waits), 1000)
