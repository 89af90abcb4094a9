"""What `doctor` finds in the configuration: what is allowed, and hardly wise. What contradicts itself is `sidecar check`'s."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from sidecar.config import Config
from sidecar.config.places import write_path
from sidecar.config.secrets import is_sensitive
from sidecar.findings import Finding

_OF_ONE_PROCESS = frozenset({"memory", "cache.memory", "plugins.cache.memory:Memory"})
_OF_ONE_HOST = {
    "encryption": frozenset({"local", "encryption.local", "plugins.encryption.local:Local"}),
    "persistence": frozenset({"sqlite", "persistence.sqlite", "plugins.persistence.sqlite:Sqlite"}),
}
_NETWORKS_OF_ONE = {4: 16, 6: 48}
"""A wider network than this belongs to more than one operator, unless its addresses are private."""
_IDLE_SECONDS = 55.0
"""Proxies cut a connection on which nothing moved for 60 s (nginx, HAProxy, most load balancers)."""
_PATIENCE_OF_STOPPING = 75.0
"""systemd kills after 90 s what it stops, and the sidecar needs up to 15 s after the drain."""
_PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@")


def config_findings(config: Config) -> Iterator[Finding]:
    """Looks at the values alone; opens nothing but the mode of the YAML file."""
    yield from _reach(config)
    yield from _browsers(config)
    yield from _secrets(config)
    yield from _shared(config)
    yield from _times(config)
    yield from _plugins(config)
    if config.logging.level == "DEBUG":
        yield Finding(
            "debug-logging",
            "warning",
            "logging.level is DEBUG: a line or more for each frame",
            "set logging.level to INFO when you have seen what you were looking for",
        )
    for notice in config.notices:
        yield Finding("environment", "warning", f"{notice.path}: {notice.message}", notice.remedy or "remove it")


def is_local(host: str) -> bool:
    """Whether only this host reaches an address."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reach(config: Config) -> Iterator[Finding]:
    server = config.server
    public = not is_local(server.host)
    if server.demo:
        yield Finding(
            "demo",
            "error" if public else "note",
            "server.demo is on: /demo and /client.js are served where this release has them"
            + (f", on {server.host}" if public else ""),
            "set server.demo to false where it is not for trying it out",
        )
    if public and server.metrics_port is not None:
        yield Finding(
            "metrics-exposed",
            "warning",
            f"/metrics is served on {server.host}:{server.metrics_port} to whoever reaches it",
            "let only your Prometheus reach that port, or leave server.metrics_port null",
        )
    if public and not server.hosts:
        yield Finding(
            "hosts",
            "warning",
            f"server.hosts is empty and the sidecar listens on {server.host}: requests by a name are refused",
            "list the names that clients use in server.hosts, such as chat.example.com",
        )
    if public and not server.trusted_proxies:
        yield Finding(
            "trusted-proxies-none",
            "note",
            "server.trusted_proxies is empty: behind a proxy all clients would count as one address",
            "if a proxy stands before it, list its address in server.trusted_proxies",
        )
    for network in server.trusted_proxies:
        if network.prefixlen == 0:
            yield Finding(
                "trusted-proxies-all",
                "error",
                f"server.trusted_proxies trusts {network}: anybody may claim any address",
                "list the addresses of your proxies alone",
            )
        elif not network.is_private and network.prefixlen < _NETWORKS_OF_ONE[network.version]:
            yield Finding(
                "trusted-proxies-wide",
                "warning",
                f"server.trusted_proxies trusts {network}, more than one operator's network",
                "list the addresses of your proxies alone",
            )
    cores = os.cpu_count() or 1
    if server.workers > cores:
        yield Finding(
            "workers",
            "warning",
            f"server.workers is {server.workers} on {cores} cores: they take each other's time",
            f"set server.workers to {cores} at most",
        )


def _browsers(config: Config) -> Iterator[Finding]:
    server = config.server
    if not is_local(server.host) and not server.origins:
        yield Finding(
            "origins",
            "warning",
            "server.origins is empty: only pages of the same host may connect",
            "list the exact origins of your pages in server.origins, such as https://app.example.com",
        )
    plain = [each for each in server.origins if each.startswith("http://") and not is_local(_host_of(each))]
    if plain:
        yield Finding(
            "origins-plain",
            "warning",
            f"server.origins allows pages that anybody on the way may change: {', '.join(plain)}",
            "serve them by https and list that origin",
        )
    local = [each for each in server.origins if is_local(_host_of(each))]
    if local and not is_local(server.host):
        yield Finding(
            "origins-local",
            "warning",
            f"server.origins allows pages from a person's own machine: {', '.join(local)}",
            "take them out of server.origins where people work with it",
        )
    if config.devices.policy == "off":
        yield Finding(
            "devices-off",
            "warning",
            "devices.policy is off: a stolen token is enough, on any device",
            "set devices.policy to balanced",
        )


def _host_of(origin: str) -> str:
    return urlsplit(origin).hostname or ""


def _secrets(config: Config) -> Iterator[Finding]:
    shared = config.cache.use not in _OF_ONE_PROCESS
    if config.ids.pepper is None and shared:
        yield Finding(
            "pepper",
            "warning",
            "ids.pepper is not set: who knows a user's id knows the name of that person's keys and rows",
            "set ids.pepper before the first use; later it makes everybody a new person",
        )
    written = [write_path(path) for path, value in config.literals() if _is_secret(path, value)]
    if not written or config.file is None:
        return
    yield Finding(
        "secret-in-file",
        "warning",
        f"secrets stand in {config.file.name} itself: {', '.join(written)}",
        "write ${NAME} or ${file:/run/secrets/name} in their place",
    )
    try:
        mode = config.file.stat().st_mode & 0o077
    except OSError:
        return
    if mode:
        yield Finding(
            "secret-file-open",
            "error",
            f"other users of this host may read or change {config.file.name}, in which secrets stand",
            f"chmod 600 {config.file}",
        )


def _is_secret(path: tuple[str | int, ...], value: str) -> bool:
    return any(is_sensitive(part) for part in path if isinstance(part, str)) or bool(_PASSWORD_IN_URL.search(value))


def _shared(config: Config) -> Iterator[Finding]:
    if config.cache.use in _OF_ONE_PROCESS:
        return
    for slot, uses in _OF_ONE_HOST.items():
        if getattr(config, slot).use in uses:
            what, instead = {
                "encryption": ("keys", "encryption.use: vault"),
                "persistence": ("chats", "persistence.use: directus"),
            }[slot]
            yield Finding(
                f"one-host-{slot}",
                "warning",
                f"the cache can be shared by many hosts, and {slot}.use: {getattr(config, slot).use} keeps {what} on this one",
                f"use {instead} before a second host shares this cache",
            )


def _times(config: Config) -> Iterator[Finding]:
    server, chats = config.server, config.chats
    if server.ping_interval > _IDLE_SECONDS:
        yield Finding(
            "ping",
            "warning",
            f"server.ping_interval is {server.ping_interval:.0f} s: most proxies cut a connection that is silent for 60 s",
            "set server.ping_interval to 25s",
        )
    if server.drain > _PATIENCE_OF_STOPPING:
        yield Finding(
            "drain",
            "warning",
            f"server.drain is {server.drain:.0f} s: what stops the sidecar may kill it before that",
            "set server.drain to 15s, or give what stops it server.drain and 15 seconds more",
        )
    if server.drain == 0:
        yield Finding(
            "drain-none",
            "warning",
            "server.drain is 0: at a restart all clients come back in the same moment",
            "set server.drain to 15s",
        )
    if chats.draft_ttl < 300:
        yield Finding(
            "draft-ttl",
            "warning",
            f"chats.draft_ttl is {chats.draft_ttl:.0f} s: a draft whose devices are away that long is nowhere but on them",
            "set chats.draft_ttl to 30m",
        )
    if config.drafts.conflicts == "discard":
        yield Finding(
            "conflicts-discard",
            "note",
            "drafts.conflicts is discard: clients drop a text that lost a conflict",
            "set drafts.conflicts to copy to keep such texts for the person",
        )


def _plugins(config: Config) -> Iterator[Finding]:
    granted = [entry.known_as for entry in config.plugin_entries() if "plaintext" in entry.grants]
    if granted:
        yield Finding(
            "plaintext",
            "note",
            f"these plugins read what people wrote: {_list(granted)}",
            "take `grants: [plaintext]` from those that need not",
        )
    passing = [entry.known_as for entry in config.plugin_entries() if entry.on_failure == "pass"]
    if passing:
        yield Finding(
            "guards-pass",
            "warning",
            f"what these guards would look at passes while they fail: {_list(passing)}",
            "set on_failure to refuse, unless their checks are only advice",
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
