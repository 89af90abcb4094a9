"""What our policies in Vault allow, beside what the sidecar needs (config/vault/policy.hcl)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hvac.exceptions import InvalidPath, InvalidRequest

from plugins.encryption.vault_adapter import WireAdapter
from plugins.encryption.vault_flaw import Flaw
from plugins.encryption.vault_link import Denied, Link
from plugins.encryption.vault_options import VaultOptions


async def look_at_policy(link: Link, options: VaultOptions) -> Sequence[Flaw]:
    """Whether it is too narrow or too wide. Raises `Unavailable`."""
    allowed = await capabilities(link, [*_needed(options), *_foreign(options)])
    return list(_judge(allowed, options))


def _needed(options: VaultOptions) -> Mapping[str, Sequence[str]]:
    slot = f"{options.path}/00/{'0' * 64}"
    needed = {
        f"{options.mount}/data/{slot}": ("create", "read", "update"),
        f"{options.mount}/metadata/{slot}": ("create", "read", "update", "delete"),
        f"{options.mount}/metadata/{options.path}/": ("list",),
        f"{options.mount}/destroy/{slot}": ("update",),
    }
    if options.mode == "transit":
        at, key = options.transit.mount, options.transit.name
        needed |= {f"{at}/{what}/{key}": ("update",) for what in ("encrypt", "decrypt", "rewrap")}
    return needed


def _foreign(options: VaultOptions) -> Sequence[str]:
    """What is none of the sidecar's business."""
    return [
        f"{options.mount}/data/{options.path}-of-another",
        f"{options.mount}/metadata/{options.path}-of-another",
        f"{options.transit.mount}/export/encryption-key/{options.transit.name}",
        f"{options.transit.mount}/keys/{options.transit.name}/config",
        "sys/policies/acl/another",
        "sys/mounts/another",
        "sys/auth/another",
        "sys/audit/another",
        "sys/seal",
        "auth/token/create",
    ]


async def capabilities(link: Link, paths: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """By path; nothing where the policy does not let us ask."""

    def ask(adapter: WireAdapter) -> Mapping[str, Sequence[str]]:
        told = adapter.post("/v1/sys/capabilities-self", json={"paths": list(paths)})
        return {path: list(told["data"][path]) for path in paths}

    try:
        return await link.ask(ask, "sys/capabilities-self", anyway=True)
    except (Denied, InvalidPath, InvalidRequest):
        return {}


def _judge(allowed: Mapping[str, Sequence[str]], options: VaultOptions) -> Iterator[Flaw]:
    if not allowed:
        yield Flaw(
            "policy_unknown",
            "the policy does not let the sidecar ask what it may do",
            'allow path "sys/capabilities-self" {capabilities = ["update"]}, as config/vault/policy.hcl does',
        )
        return
    if any("root" in each for each in allowed.values()):
        yield Flaw("root", "the token is one of root", "make a role with config/vault/policy.hcl")
        return
    missing = {
        path: [each for each in needed if each not in allowed[path]] for path, needed in _needed(options).items()
    }
    if lacking := [f"{' and '.join(each)} on {path}" for path, each in missing.items() if each]:
        yield Flaw(
            "policy_narrow",
            f"the policy lacks {', '.join(lacking)}",
            "give the role config/vault/policy.hcl, with mount and path as they are here",
            fatal=True,
        )
    if wide := [path for path in _foreign(options) if set(allowed[path]) - {"deny"}]:
        yield Flaw(
            "policy_wide",
            f"the policy allows more than the sidecar needs: {', '.join(wide)}",
            "give the role config/vault/policy.hcl and no other policy",
        )
