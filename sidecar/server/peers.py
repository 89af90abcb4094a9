"""Who is at the other end: the address that counts, behind proxies that are trusted (threats T9, T10). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_address(text: str) -> Address | None:
    """The address in this text, an IPv4-mapped one (RFC 4291 §2.5.5.2) as IPv4; with a port, brackets or zone too."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


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
