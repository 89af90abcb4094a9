"""Whose address counts: forwarding headers (T9, S6) and the many spellings of one address (T10)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.peers import client_address, is_forwarded, is_loopback, limiter_key, read_address

PROXY = "10.0.0.1"
TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:ffff::/48")]

# What a client or a proxy may put into X-Forwarded-For (one item for each header), and whose address that makes it
# when it comes from a trusted proxy at 10.0.0.1. From anybody else it is always the peer's own.
SHAPES: list[tuple[list[str], str]] = [
    ([], PROXY),
    ([""], PROXY),
    (["   "], PROXY),
    ([","], PROXY),
    ([",,,"], PROXY),
    (["203.0.113.7"], "203.0.113.7"),
    ([" 203.0.113.7 "], "203.0.113.7"),
    (["\t203.0.113.7\t"], "203.0.113.7"),
    (["203.0.113.7:4711"], "203.0.113.7"),
    (['"203.0.113.7"'], "203.0.113.7"),
    (['"203.0.113.7:4711"'], "203.0.113.7"),
    (["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
    (["1.2.3.4,203.0.113.7"], "203.0.113.7"),
    (["1.2.3.4", "203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7", "10.9.9.9"], "203.0.113.7"),
    (["203.0.113.7, 10.9.9.9, 10.8.8.8"], "203.0.113.7"),
    (["1.1.1.1, 203.0.113.7, 10.9.9.9"], "203.0.113.7"),
    (["127.0.0.1, 203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7, 127.0.0.1"], "127.0.0.1"),
    (["10.7.7.7"], "10.7.7.7"),
    (["10.7.7.7, 10.8.8.8"], "10.7.7.7"),
    (["unknown"], PROXY),
    (["203.0.113.7, unknown"], PROXY),
    (["unknown, 203.0.113.7"], "203.0.113.7"),
    (["203.0.113.7, unknown, 10.9.9.9"], "10.9.9.9"),
    (["_hidden"], PROXY),
    (["localhost"], PROXY),
    (["203.0.113.7,"], PROXY),
    (["203.0.113.256"], PROXY),
    (["203.0.113"], PROXY),
    (["3405803783"], PROXY),  # decimal for 203.0.113.7: no proxy writes it so
    (["0xcb.0.0x71.7"], PROXY),
    (["203.0.113.07"], PROXY),
    (["203.0.113.7:port"], PROXY),
    (["203.0.113.7;10.0.0.2"], PROXY),
    (["203.0.113.7 10.0.0.2"], PROXY),
    (["2001:db8::7"], "2001:db8::7"),
    (["[2001:db8::7]"], "2001:db8::7"),
    (["[2001:db8::7]:4711"], "2001:db8::7"),
    (["2001:db8::7%eth0"], "2001:db8::7"),
    (["::ffff:203.0.113.7"], "203.0.113.7"),
    (["[::ffff:203.0.113.7]:4711"], "203.0.113.7"),
    (["203.0.113.7, 2001:db8:ffff::1"], "203.0.113.7"),
    (["[2001:db8::7"], PROXY),
    (["[203.0.113.7]"], PROXY),
    (["for=203.0.113.7"], PROXY),
]


def test_t9_there_are_forty_shapes() -> None:
    assert len(SHAPES) >= 40


@pytest.mark.parametrize(("values", "expected"), SHAPES)
def test_t9_a_trusted_proxy_is_believed_from_the_right(values: list[str], expected: str) -> None:
    found = client_address(PROXY, values, TRUSTED)
    assert str(found) == expected


@pytest.mark.parametrize(("values", "_"), SHAPES)
@pytest.mark.parametrize("peer", ["198.51.100.9", "2001:db8::9"])
def test_t9_s6_nobody_else_is_believed(values: list[str], _: str, peer: str) -> None:
    assert str(client_address(peer, values, TRUSTED)) == peer
    assert str(client_address(peer, values, [])) == peer


def test_t9_a_mapped_peer_is_the_proxy_that_it_is() -> None:
    assert str(client_address("::ffff:10.0.0.1", ["203.0.113.7"], TRUSTED)) == "203.0.113.7"


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "X-Forwarded-Proto"])
def test_t9_a_request_that_came_through_a_proxy_says_so(name: str) -> None:
    assert is_forwarded({name: ""})
    assert not is_forwarded({"User-Agent": "x", "Host": "y"})


@given(st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_t10_every_spelling_of_an_ipv4_address_has_one_key(number: int, port: int) -> None:
    address = ipaddress.IPv4Address(number)
    mapped = ipaddress.IPv6Address(number | 0xFFFF << 32)
    spellings = [
        f"{address}",
        f" {address} ",
        f'"{address}"',
        f"{address}:{port}",
        f"::ffff:{address}",
        f"::FFFF:{address}",
        f"{mapped}",
        mapped.exploded,
        mapped.exploded.upper(),
        f"[{mapped}]",
        f"[{mapped}]:{port}",
        f"[::ffff:{address}]:{port}",
    ]
    assert {limiter_key(read_address(each)) for each in spellings} == {str(address)}


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 65535))
def test_t10_every_address_and_spelling_of_a_64_has_one_key(prefix: int, one: int, two: int, port: int) -> None:
    if prefix == 0:
        return  # ::/64 holds the mapped addresses, which are IPv4
    keys = set()
    for host in (one, two):
        address = ipaddress.IPv6Address(prefix << 64 | host)
        for spelling in (
            address.compressed,
            address.exploded,
            address.exploded.upper(),
            f"[{address}]",
            f"[{address}]:{port}",
            f"{address}%eth0",
            f"[{address}%25eth0]",
        ):
            keys.add(limiter_key(read_address(spelling)))
    assert keys == {str(ipaddress.ip_network((prefix << 64, 64)))}
    other = ipaddress.IPv6Address((prefix ^ 1) << 64 | one)
    if prefix ^ 1:
        assert limiter_key(other) not in keys


@given(st.text(max_size=40))
def test_t10_any_text_is_an_address_or_none(text: str) -> None:
    found = read_address(text)
    assert found is None or read_address(str(found)) == found


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name", ["", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "0.0.0.0", "::"]
)
def test_not_loopback(name: str) -> None:
    assert not is_loopback(name)
