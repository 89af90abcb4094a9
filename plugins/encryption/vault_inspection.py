"""What can be seen of a Vault with the sidecar's own token: whether it can be used, and what an operator had better mend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hvac.exceptions import InvalidPath, InvalidRequest

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_link import Denied, Link
from plugins.encryption.vault_options import VaultOptions
from sidecar import StartRefused


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    says: str
    remedy: str
    fatal: bool = False
    """With this the plugin must not be used."""

    def __str__(self) -> str:
        return f"{self.says}: {self.remedy}"


def refuse(findings: Sequence[Finding]) -> None:
    """Raises `StartRefused` with the fatal ones."""
    fatal = [str(finding) for finding in findings if finding.fatal]
    if fatal:
        raise StartRefused("encryption", "; ".join(fatal))


async def inspect(link: Link, options: VaultOptions) -> Sequence[Finding]:
    """What is wrong with engine, policy and token. Raises `Unavailable`."""
    return [*await _engine(link, options)]


async def _get(link: Link, path: str) -> Mapping[str, Any] | None:
    """GET; None where nothing is or our policy does not let us see it. Raises `Unavailable` for other reasons."""

    def ask(adapter: WireAdapter) -> Mapping[str, Any]:
        return dict(adapter.get(f"/v1/{path}").get("data") or {})

    try:
        return await link.ask(ask, path)
    except (Denied, InvalidPath, InvalidRequest):
        return None


async def _engine(link: Link, options: VaultOptions) -> Sequence[Finding]:
    mount = options.mount
    engine = await _get(link, f"sys/internal/ui/mounts/{mount}")
    if engine is None:
        return [
            Finding(
                "no_engine",
                f"there is no engine at {mount} in Vault, or our policy allows nothing in it",
                f"vault secrets enable -path={mount} kv-v2, and give the role config/vault/policy.hcl; or mend mount",
                fatal=True,
            )
        ]
    if engine.get("type") not in ("kv", "generic") or (engine.get("options") or {}).get("version") != "2":
        return [
            Finding(
                "no_kv_v2",
                f"the engine at {mount} is no KV v2",
                f"vault kv enable-versioning {mount}, or name a KV v2 engine in mount",
                fatal=True,
            )
        ]
    found: list[Finding] = []
    config = await _get(link, f"{mount}/config")
    if config is not None and config.get("delete_version_after") not in (None, "", "0s"):
        found.append(
            Finding(
                "delete_version_after",
                f"the engine at {mount} deletes entries by itself after {config['delete_version_after']}: keys would be lost",
                f"vault write {mount}/config delete_version_after=0s",
                fatal=True,
            )
        )
    return found
