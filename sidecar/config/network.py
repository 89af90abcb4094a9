"""Addresses, host names, origins and networks as the YAML gives them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic.json_schema import JsonSchemaValue

from sidecar.config.values import Kind, kind_of, wrong

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s*\\]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    if _is_address(text):
        return True
    # A dotted name whose last part is a number is a mistyped address, not a name (WHATWG URL, "ends in a number").
    return len(text) <= 253 and bool(_HOST_NAME.fullmatch(text)) and not text.rstrip(".").rsplit(".", 1)[-1].isdigit()


@dataclass(frozen=True, slots=True)
class Host(Kind):
    """A host name or an IP address, without scheme, port or path; lower case, IPv6 without brackets."""

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(f"must be a host, not {kind_of(value)}", "write a name or an address, such as 127.0.0.1")
        text = value.strip().lower()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        if _is_host(text):
            return text
        if "://" in text or "/" in text:
            raise wrong("is a URL, not a host", "write the name or address alone, such as chat.example.com")
        if re.fullmatch(r"[^:]+:[0-9]+", text):
            raise wrong("carries a port", "write the name or address alone, such as chat.example.com")
        raise wrong("is neither a host name nor an address", "write one such as chat.example.com, 127.0.0.1 or ::1")

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1, "maxLength": 253}


@dataclass(frozen=True, slots=True)
class Origin(Kind):
    """An exact origin, `scheme://host[:port]` (RFC 6454), as a browser sends it: lower case, without a default port."""

    def read(self, value: Any) -> str:
        example = "write scheme, host and, if it is not the usual one, port: https://app.example.com"
        if not isinstance(value, str):
            raise wrong(f"must be an origin, not {kind_of(value)}", example)
        text = value.strip()
        if "*" in text:
            raise wrong("origins are exact, without wildcards", "list each origin, such as https://app.example.com")
        if text.lower() == "null":
            raise wrong("the origin null belongs to any sandboxed page", "list the real origins")
        if not text.isascii():
            raise wrong("a browser sends the ASCII form of a host", "write it in its xn-- form")
        if text.endswith("/") and _ORIGIN.fullmatch(text[:-1]):
            raise wrong("an origin has no path, not even /", "leave the / at its end away")
        if not _ORIGIN.fullmatch(text):
            raise wrong("is not an origin: it has a scheme and a host, and no path, query or user", example)
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise wrong("its port or address cannot be read", example) from None
        if not _is_host(host) or text.endswith(":"):
            raise wrong("its host is neither a name nor an address", example)
        scheme = parts.scheme.lower()
        netloc = f"[{host}]" if ":" in host else host
        return f"{scheme}://{netloc}" + ("" if port is None or port == _DEFAULT_PORTS.get(scheme) else f":{port}")

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_ORIGIN.pattern}$"}


@dataclass(frozen=True, slots=True)
class Cidr(Kind):
    """A network, `10.0.0.0/8` or `2001:db8::/32`; a single address is a network of one."""

    def read(self, value: Any) -> Network:
        if not isinstance(value, str):
            raise wrong(f"must be a network, not {kind_of(value)}", "write a CIDR such as 10.0.0.0/8")
        text = value.strip()
        try:
            return ipaddress.ip_network(text)
        except ValueError:
            pass
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise wrong("is not a network", "write a CIDR such as 10.0.0.0/8, or one address") from None
        raise wrong(
            "has bits set after its prefix",
            "write its first address with the prefix, such as 10.0.0.0/8 for 10.1.2.3/8, or one address without a prefix",
        )

    def write(self, value: Any) -> str:
        return str(value)

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "pattern": r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$"}
