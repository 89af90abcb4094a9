"""Initialises the Vault of config/compose.yaml, unseals it after every start, and makes what the sidecar needs in it.

The unseal key and the administrator's token stay in a volume of their own, which no other container sees; whoever has that volume
and Vault's can read every key. In earnest let Vault unseal itself (a cloud's KMS, an HSM, another Vault) and take this out.

    python vault_setup.py http://vault:8200 KEYS_FOLDER OUT_FOLDER POLICY_FILE [seconds]

It runs for good, looking every few seconds whether Vault is sealed; with `0` for the seconds it does its work once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import hvac
import requests

_ROLE = {"token_policies": ["sidecar"], "token_ttl": "1h", "token_max_ttl": "24h", "secret_id_ttl": "0"}


def write(path: Path, text: str) -> None:
    """In one step, for its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(path)


def unsealed(client: Any, keys: Path) -> dict[str, str]:
    """Vault is initialised and unsealed when this returns; its key and its administrator's token."""
    if not client.sys.is_initialized():
        made = client.sys.initialize(secret_shares=1, secret_threshold=1)
        write(keys, json.dumps({"key": made["keys"][0], "token": made["root_token"]}))
    kept: dict[str, str] = json.loads(keys.read_text())
    if client.sys.is_sealed():
        client.sys.submit_unseal_key(kept["key"])
    return kept


def make(client: Any, out: Path, policy: str) -> None:
    """The engine, the policy, the role and its credentials, where they are missing."""
    if "secret/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    if "approle/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle")
    client.sys.create_or_update_policy("sidecar", policy)
    client.auth.approle.create_or_update_approle("sidecar", **_ROLE)
    write(out / "role-id", client.auth.approle.read_role_id("sidecar")["data"]["role_id"])
    if not (out / "secret-id").exists():
        write(out / "secret-id", client.auth.approle.generate_secret_id("sidecar")["data"]["secret_id"])


def main(url: str, keys: str, out: str, policy: str, seconds: str = "5") -> int:
    client = hvac.Client(url=url)
    done = False
    while True:
        try:
            kept = unsealed(client, Path(keys) / "vault.json")
            if not done:
                client.token = kept["token"]
                make(client, Path(out), Path(policy).read_text())
                client.token, done = None, True
                print("Vault is ready for the sidecar", flush=True)
        except (hvac.exceptions.VaultError, requests.RequestException) as error:
            print(f"Vault is waited for ({type(error).__name__})", file=sys.stderr, flush=True)
        if done and float(seconds) == 0:
            return 0
        time.sleep(float(seconds) or 0.5)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
