"""Origin, Host and query before the upgrade (T3, T4, T5), and masks after it (T25)."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.handshake import Doorkeeper, normal_origin
from sidecar.server.masks import Masks

LOCAL = Doorkeeper("127.0.0.1", (), (), None)
LISTED = Doorkeeper(
    "0.0.0.0",
    ("chat.example.com",),
    (
        "https://app.example.com",
        "https://app.example.com:8443",
        "https://xn--mnchen-3ya.example",
        "capacitor://localhost",
    ),
    "directus_session_token",
)

ORIGINS: list[tuple[list[str], bool]] = [
    (["https://app.example.com"], True),
    (["https://app.example.com:443"], True),
    (["HTTPS://APP.EXAMPLE.COM"], True),
    (["https://app.example.com:8443"], True),
    (["https://xn--mnchen-3ya.example"], True),
    (["capacitor://localhost"], True),
    ([""], False),
    (["null"], False),
    (["*"], False),
    (["https://"], False),
    (["app.example.com"], False),
    (["//app.example.com"], False),
    (["http://app.example.com"], False),
    (["ws://app.example.com"], False),
    (["wss://app.example.com"], False),
    (["https://app.example.com:80"], False),
    (["https://app.example.com:8444"], False),
    (["https://app.example.com:"], False),
    (["https://app.example.com:99999"], False),
    (["https://app.example.com/"], False),
    (["https://app.example.com/path"], False),
    (["https://app.example.com?query"], False),
    (["https://app.example.com#fragment"], False),
    (["https://app.example.com."], False),
    (["https://user@app.example.com"], False),
    (["https://app.example.com@evil.example"], False),
    (["https://app.example.com.evil.example"], False),
    (["https://evil-app.example.com"], False),
    (["https://evilapp.example.com"], False),
    (["https://example.com"], False),
    (["https://sub.app.example.com"], False),
    (["https://app.example.com evil"], False),
    (["https://app.example.com,https://evil.example"], False),
    (["https://app.example.com\\.evil.example"], False),
    (["https://app.example.com%00.evil.example"], False),
    (["https://münchen.example"], False),
    (["https://аpp.example.com"], False),  # a Cyrillic а
    (["https://app。example.com"], False),
    (["file://"], False),
    (["chrome-extension://app.example.com"], False),
    (["https://app.example.com", "https://evil.example"], False),
    (["https://app.example.com", "https://app.example.com"], False),
]


def test_t3_there_are_thirty_origins() -> None:
    assert len(ORIGINS) >= 30


@pytest.mark.parametrize(("origins", "allowed"), ORIGINS)
def test_t3_only_the_exact_origins_come_in(origins: list[str], allowed: bool) -> None:
    refusal = LISTED.check_origin(origins, "chat.example.com", True)
    assert (refusal is None) is allowed
    assert refusal is None or refusal.status == 403


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8770", "localhost:8770", True),
        ("http://[::1]:8770", "[::1]:8770", True),
        ("https://chat.example.com", "chat.example.com", True),
        ("https://chat.example.com", "chat.example.com:443", True),
        ("http://localhost:3000", "localhost:8770", False),
        ("http://127.0.0.1:8770", "localhost:8770", False),
        ("http://localhost", "localhost:8770", False),
        ("http://localhost:8770", "localhost", False),
        ("https://evil.example", "chat.example.com", False),
        ("ws://localhost:8770", "localhost:8770", False),
        ("null", "localhost:8770", False),
    ],
)
def test_t3_an_empty_list_means_the_same_host(origin: str, host: str, allowed: bool) -> None:
    assert (LOCAL.check_origin([origin], host, False) is None) is allowed


def test_t3_signing_in_by_cookie_needs_an_origin() -> None:
    assert LISTED.check_origin([], "chat.example.com", True) is not None
    assert LISTED.check_origin([], "chat.example.com", False) is None


@pytest.mark.parametrize(
    ("door", "hosts", "allowed"),
    [
        (LOCAL, ["127.0.0.1:8770"], True),
        (LOCAL, ["localhost:8770"], True),
        (LOCAL, ["LOCALHOST"], True),
        (LOCAL, ["[::1]:8770"], True),
        (LOCAL, [], False),
        (LOCAL, [""], False),
        (LOCAL, ["localhost", "localhost"], False),
        (LOCAL, ["evil.example"], False),
        (LOCAL, ["localhost.evil.example:8770"], False),
        (LOCAL, ["127.0.0.1.nip.io"], False),
        (LOCAL, ["192.168.1.2"], False),
        (LOCAL, ["0.0.0.0"], False),
        (LOCAL, ["2130706433"], False),
        (LOCAL, ["localhost:port"], False),
        (LOCAL, ["localhost/evil"], False),
        (LOCAL, ["evil@localhost"], False),
        (LOCAL, ["localhost evil.example"], False),
        (LISTED, ["chat.example.com"], True),
        (LISTED, ["chat.example.com:443"], True),
        (LISTED, ["CHAT.example.com."], True),
        (LISTED, ["127.0.0.1"], False),
        (LISTED, ["example.com"], False),
        (LISTED, ["x.chat.example.com"], False),
        (Doorkeeper("0.0.0.0", (), (), None), ["192.168.1.2:8770"], True),
        (Doorkeeper("0.0.0.0", (), (), None), ["rebound.example"], False),
    ],
)
def test_t4_only_known_hosts_come_in(door: Doorkeeper, hosts: list[str], allowed: bool) -> None:
    assert (door.check_host(hosts) is None) is allowed


@pytest.mark.parametrize(
    "name", ["token", "access_token", "ACCESS_TOKEN", "auth", "jwt", "api_key", "session", "password", "ticket"]
)
def test_t5_s2_credentials_in_the_url_are_refused(name: str) -> None:
    refusal = LOCAL.check_query({name: "eyJhbGciOi"})
    assert refusal is not None
    assert "eyJ" not in refusal.message
    assert LOCAL.check_query({"v": "1"}) is None


@given(st.text(max_size=60))
def test_t3_any_text_is_an_origin_or_none(text: str) -> None:
    normal = normal_origin(text)
    assert normal is None or normal_origin(normal) == normal


def _frame(payload: bytes, *, masked: bool = True, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((0x81, bit | size))
    elif size < 65536:
        head = bytes((0x81, bit | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x81, bit | 127)) + size.to_bytes(8)
    return head + (os.urandom(4) if masked else b"") + payload


@given(
    st.lists(st.sampled_from([0, 1, 5, 125, 126, 127, 300, 65535, 65536]), max_size=6),
    st.lists(st.integers(1, 50_000), max_size=12),
    st.booleans(),
)
def test_t25_a_bare_frame_is_found_however_the_bytes_are_cut(sizes: list[int], cuts: list[int], bare: bool) -> None:
    stream = b"".join(_frame(bytes(size)) for size in sizes)
    if bare:
        stream += _frame(b"x" * 10, masked=False)
    masks, good, at = Masks(), True, 0
    for cut in [*cuts, len(stream)]:
        good = good and masks.follow(stream[at : at + cut])
        at += cut
    assert good is not bare


def test_t25_a_bare_frame_is_found_byte_by_byte() -> None:
    masks = Masks()
    good = _frame(b"hello") + _frame(bytes(200)) + _frame(b"")
    assert all(masks.follow(bytes((byte,))) for byte in good)
    assert masks.follow(b"\x81")
    assert not masks.follow(b"\x05")
