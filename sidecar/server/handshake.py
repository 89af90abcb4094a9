"""What is looked at before the upgrade: Host, Origin, query, body (threats T3, T4, T5, T26). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sidecar.server.peers import is_loopback, read_address

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
"""RFC 3986 §3.1; an app's web view has one of its own, such as `capacitor`."""
_CREDENTIALS = ("token", "secret", "password", "auth", "jwt", "key", "session", "ticket", "credential")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: status, a word for the metrics, and a sentence that names what to mend."""

    status: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Who may come in, by what a request says of itself."""

    listens_on: str
    hosts: Sequence[str]
    """Names that a Host header may carry, lower case; empty: the address that is listened on."""
    origins: Sequence[str]
    """Exact origins; empty: the host that the request names."""
    cookie: str | None

    def check_host(self, hosts: Sequence[str]) -> Refusal | None:
        """`hosts`: the values of all Host headers (RFC 9112 §3.2: exactly one)."""
        if len(hosts) != 1:
            return Refusal(400, "host", "send exactly one Host header")
        name, _ = split_host(hosts[0])
        if name is None or not self._known(name):
            return Refusal(403, "host", "this host is not served here; add it to server.hosts")
        return None

    def _known(self, name: str) -> bool:
        if self.hosts:
            return name.rstrip(".") in self.hosts or name in self.hosts
        if name == self.listens_on:
            return True
        if is_loopback(self.listens_on):
            return is_loopback(name)
        # Listening on every address: any address will do, which a rebound name is not.
        return self.listens_on in ("0.0.0.0", "::", "") and (read_address(name) is not None or is_loopback(name))  # noqa: S104

    def check_origin(self, origins: Sequence[str], host: str, has_cookie: bool) -> Refusal | None:
        """`origins`: the values of all Origin headers. Without one it is no browser, unless it shows the session cookie."""
        if not origins:
            if has_cookie:
                return Refusal(403, "origin", "signing in by cookie needs an Origin header")
            return None
        if len(origins) > 1:
            return Refusal(403, "origin", "send one Origin header")
        origin = origins[0]
        if self.origins:
            allowed = normal_origin(origin) in self.origins
        else:
            allowed = _same_host(origin, host)
        return None if allowed else Refusal(403, "origin", "this origin may not connect; add it to server.origins")

    @staticmethod
    def check_query(query: Mapping[str, str]) -> Refusal | None:
        """Refuses credentials in the URL, where every log would keep them."""
        for name in query:
            if any(word in name.lower() for word in _CREDENTIALS):
                return Refusal(400, "query", "credentials do not belong in the URL; send them in the `auth` frame")
        return None


def split_host(host: str) -> tuple[str | None, int | None]:
    """Name (lower case, IPv6 without brackets) and port of a Host header; (None, None) for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None, None
    if not name or parts.path or parts.query or parts.fragment or "@" in host or not host.isascii():
        return None, None
    if any(character.isspace() or character in "\\,;" for character in host):
        return None, None
    return name.lower(), port


def normal_origin(origin: str) -> str | None:
    """An origin as browsers write it (RFC 6454 §6.2), without a default port; None for what is none."""
    scheme, separator, rest = origin.partition("://")
    scheme = scheme.lower()
    name, port = split_host(rest) if separator else (None, None)
    if name is None or not _SCHEME.match(scheme) or rest.endswith(":"):
        return None
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme}://{shown}" + ("" if port is None or port == _PORTS.get(scheme) else f":{port}")


def _same_host(origin: str, host: str) -> bool:
    normal = normal_origin(origin)
    if normal is None:
        return False
    scheme, _, rest = normal.partition("://")
    name, port = split_host(rest)
    own_name, own_port = split_host(host)
    if own_name is None or scheme not in _PORTS:
        return False
    # Behind a proxy that ends TLS the Host header has the browser's port, or none: both as the origin's scheme means it.
    return name == own_name and (port or _PORTS[scheme]) == (own_port or _PORTS[scheme])
