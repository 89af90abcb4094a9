"""What can be seen of a Vault with the sidecar's own token: whether it can be used, and what an operator had better mend."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from hvac.exceptions import InvalidPath, InvalidRequest

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_flaw import Flaw
from plugins.encryption.vault_link import Denied, Link
from plugins.encryption.vault_options import VaultOptions
from plugins.encryption.vault_policy import look_at_policy

_CLOCK_SECONDS = 5.0


async def inspect(link: Link, options: VaultOptions, *, audit: bool = False) -> Sequence[Flaw]:
    """What is wrong with server, policy, engine and token. Raises `Unavailable`.

    `audit`: its audit devices too, which few tokens may see: Vault logs that it was asked and denied.
    """
    health = await _health(link)
    if health.get("sealed") or not health.get("initialized", True):
        return [
            Flaw("sealed", "Vault is sealed", "unseal it: vault operator unseal", severity="error")
            if health.get("initialized", True)
            else Flaw(
                "uninitialised", "Vault is not initialised", "vault operator init, and unseal it", severity="error"
            )
        ]
    found = [*_server(health, options), *_token(link, options)]
    found += await look_at_policy(link, options)
    found += await _engine(link, options)
    if options.mode == "transit":
        found += await _transit(link, options)
    if audit and (devices := await _get(link, "sys/audit")) is not None and not devices:
        found.append(
            Flaw(
                "no_audit_device",
                "Vault has no audit device, so nobody sees who read a key",
                "vault audit enable file file_path=/var/log/vault_audit.log",
            )
        )
    return found


async def _get(link: Link, path: str) -> Mapping[str, Any] | None:
    """GET; None where nothing is or our policy does not let us see it. Raises `Unavailable` for other reasons."""

    def ask(adapter: WireAdapter) -> Mapping[str, Any]:
        return dict(adapter.get(f"/v1/{path}").get("data") or {})

    try:
        return await link.ask(ask, path, anyway=True)
    except (Denied, InvalidPath, InvalidRequest):
        return None


# -- the server --------------------------------------------------------------------------------------------------------


async def _health(link: Link) -> Mapping[str, Any]:
    fine = {"standbyok": "true", "perfstandbyok": "true", "sealedcode": "200", "uninitcode": "200"}

    def ask(adapter: WireAdapter) -> Mapping[str, Any]:
        adapter.namespace = None  # it is the server's, and has none
        return dict(adapter.get("/v1/sys/health", params=fine))

    return await link.pool.run(ask, None)


def _server(health: Mapping[str, Any], options: VaultOptions) -> Iterator[Flaw]:
    if health.get("standby") and not health.get("performance_standby"):
        yield Flaw(
            "standby",
            f"{options.url} is a standby: each call takes the way over the active Vault",
            "name the active one in url, or a balancer that asks sys/health",
            severity="note",
        )
    theirs = health.get("server_time_utc")
    if isinstance(theirs, int | float) and abs(apart := time.time() - theirs) > _CLOCK_SECONDS:
        yield Flaw(
            "clock",
            f"the clocks of Vault and of this host are {abs(apart):.0f} seconds apart",
            "let both follow NTP",
        )
    parts = urlsplit(options.url)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        yield Flaw(
            "no_tls", "token and keys travel to Vault unencrypted", "give Vault a certificate, and write https in url"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _token(link: Link, options: VaultOptions) -> Iterator[Flaw]:
    token = link.tokens.token
    if token is not None and token.grant.seconds and not token.grant.renewable and options.auth.token is not None:
        left = max(token.ends - time.monotonic(), 0)
        yield Flaw(
            "token_ends",
            f"the token ends in {left / 3600:.1f} hours and cannot be renewed",
            "make it with -period=24h, let an agent exchange its file, or sign in by AppRole",
        )


# -- the engines -------------------------------------------------------------------------------------------------------


async def _engine(link: Link, options: VaultOptions) -> Sequence[Flaw]:
    mount = options.mount
    engine = await _get(link, f"sys/internal/ui/mounts/{mount}")
    if engine is None:
        return [
            Flaw(
                "no_engine",
                f"there is no engine at {mount} in Vault, or our policy allows nothing in it",
                f"vault secrets enable -path={mount} kv-v2, and give the role config/vault/policy.hcl; or mend mount",
                fatal=True,
            )
        ]
    if engine.get("type") not in ("kv", "generic") or (engine.get("options") or {}).get("version") != "2":
        return [
            Flaw(
                "no_kv_v2",
                f"the engine at {mount} is no KV v2",
                f"vault kv enable-versioning {mount}, or name a KV v2 engine in mount",
                fatal=True,
            )
        ]
    config = await _get(link, f"{mount}/config") or {}
    found: list[Flaw] = []
    if config.get("delete_version_after") not in (None, "", "0s"):
        found.append(
            Flaw(
                "delete_version_after",
                f"the engine at {mount} deletes entries by itself after {config['delete_version_after']}: keys would be lost",
                f"vault write {mount}/config delete_version_after=0s",
                fatal=True,
            )
        )
    if config.get("max_versions") == 1:
        # Every version of an entry holds all keys, so none is lost by this; only the way back is.
        found.append(
            Flaw(
                "max_versions",
                f"the engine at {mount} keeps one version of an entry: a slip of a hand cannot be taken back",
                f"vault write {mount}/config max_versions=10",
            )
        )
    return found


async def _transit(link: Link, options: VaultOptions) -> Sequence[Flaw]:
    at, key = options.transit.mount, options.transit.name

    def ask(adapter: WireAdapter) -> Mapping[str, Any]:
        return dict(adapter.get(f"/v1/{at}/keys/{key}").get("data") or {})

    try:
        told = await link.ask(ask, f"{at}/keys/{key}", anyway=True)
    except InvalidPath:
        remedy = f"run sidecar bootstrap, or vault write -f {at}/keys/{key} derived=true"
        return [Flaw("no_transit_key", f"there is no transit key {key} at {at}", remedy, fatal=True)]
    except (Denied, InvalidRequest):
        return []
    found: list[Flaw] = []
    if not told.get("supports_encryption"):
        found.append(
            Flaw("transit_type", f"the transit key {key} cannot encrypt", "make one of aes256-gcm96", fatal=True)
        )
    if not told.get("derived"):
        found.append(
            Flaw(
                "transit_not_derived",
                f"the transit key {key} is not derived: a wrapped key could be moved to another chat's entry",
                f"vault write -f {at}/keys/NEW derived=true, name it in transit.name, and run sidecar keys rotate",
            )
        )
    if told.get("exportable") or told.get("allow_plaintext_backup"):
        found.append(
            Flaw("transit_exportable", f"the transit key {key} can be taken out of Vault", "make one that cannot be")
        )
    if told.get("deletion_allowed"):
        found.append(
            Flaw(
                "transit_deletable",
                f"the transit key {key} may be deleted, and every chat with it",
                f"vault write {at}/keys/{key}/config deletion_allowed=false",
            )
        )
    return found
