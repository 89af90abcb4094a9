"""Who is at the other end: the address that counts, behind proxies that are trusted (threats T9, T10). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORWARDING = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "Via")


def read_address(text: str) -> Address | None:
    """The address in this text, an IPv4-mapped one (RFC 4291 §2.5.5.2) as IPv4; with a port, brackets or zone too.

    None for anything else: an address that is only almost one is nobody's.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    port = ""
    if text.startswith("["):
        text, closed, port = text[1:].partition("]")
        if not closed or ":" not in text:
            return None
    elif text.count(":") == 1:
        text, colon, digits = text.partition(":")
        port = colon + digits
    if port and not (port[0] == ":" and port[1:].isascii() and port[1:].isdigit() and len(port) <= 6):
        return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_forwarded(headers: Container[str]) -> bool:
    """Whether a request says of itself that it came through a proxy."""
    return any(name in headers for name in _FORWARDING)


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """The client's address: the peer's own, or, while a trusted proxy reports it, the next one from the right.

    `forwarded_for` are the values of all `X-Forwarded-For` headers in their order. What cannot be read ends the search at
    the proxy that reported it. Other forwarding headers never count.
    """
    address = read_address(peer)
    hops = [hop for value in forwarded_for for hop in value.split(",")]
    while address is not None and hops and _within(address, trusted):
        reported = read_address(hops.pop())
        if reported is None:
            break
        address = reported
    return address


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def limiter_key(address: Address | None) -> str:
    """What limits count by: an IPv4 address, or an IPv6 /64, which is one customer."""
    if address is None:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def is_loopback(text: str) -> bool:
    """Whether a host is this machine: a loopback address, or `localhost`."""
    address = read_address(text)
    return address.is_loopback if address is not None else text.rstrip(".").lower() == "localhost"
