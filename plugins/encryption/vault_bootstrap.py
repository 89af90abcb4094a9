"""What `sidecar bootstrap` makes in Vault."""

from __future__ import annotations

from collections.abc import Sequence

from hvac.api.secrets_engines import Transit as TransitApi
from hvac.exceptions import InvalidPath, InvalidRequest

from plugins.encryption.vault_link import Denied, Link
from plugins.encryption.vault_options import TransitOptions
from sidecar import Unavailable


async def make_transit_key(link: Link, options: TransitOptions, *, dry_run: bool) -> Sequence[str]:
    """The key that wraps the chats' keys, if it is missing; what was done, or would be. Raises `Unavailable`."""
    at, key = options.mount, options.name
    by_hand = f"vault write -f {at}/keys/{key} type=aes256-gcm96 derived=true"
    try:
        engine = await link.ask(
            lambda adapter: adapter.get(f"/v1/sys/internal/ui/mounts/{at}")["data"]["type"], f"a look at {at}"
        )
    except Denied:
        raise Unavailable(
            "encryption",
            f"there is no engine at {at} in Vault, or our policy allows nothing in it: vault secrets enable -path={at} transit",
        ) from None
    if engine != "transit":
        raise Unavailable("encryption", f"the engine at {at} is no transit engine; see transit.mount")
    try:
        await link.ask(lambda adapter: TransitApi(adapter).read_key(key, mount_point=at), f"{at}/keys/{key}")
        return []
    except InvalidPath:
        pass
    except Denied:
        raise Unavailable(
            "encryption", f"Vault's policy does not let the sidecar see {at}/keys/{key}; make it by hand: {by_hand}"
        ) from None
    if dry_run:
        return [f"make the transit key {key} at {at}"]
    try:
        # Derived: each chat's keys are wrapped for their own place, and open in no other.
        await link.ask(
            lambda adapter: TransitApi(adapter).create_key(key, derived=True, key_type="aes256-gcm96", mount_point=at),
            f"{at}/keys/{key}",
        )
    except Denied:
        raise Unavailable(
            "encryption", f"Vault's policy does not let the sidecar make {at}/keys/{key}; make it by hand: {by_hand}"
        ) from None
    except (InvalidPath, InvalidRequest):
        raise Unavailable("encryption", f"Vault refuses to make {at}/keys/{key}; make it by hand: {by_hand}") from None
    return [f"made the transit key {key} at {at}"]
