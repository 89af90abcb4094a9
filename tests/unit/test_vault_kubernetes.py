"""Signing in from a pod. There is no cluster here: what answers is pretended, and says what Vault says (its API's documentation)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugins.encryption.vault import Vault
from plugins.encryption.vault_pool import Pool
from plugins.encryption.vault_sign_in import KubernetesSignIn, SignInRefused
from plugins.encryption.vault_tokens import Tokens
from plugins.encryption.vault_wire import Wire
from sidecar import Unavailable
from tests.unit.pretended_vault import answer, pretending

GRANTED: dict[str, Any] = {"auth": {"client_token": "hvs.of-the-pod", "lease_duration": 3600, "renewable": True}}
ITSELF: dict[str, Any] = {"data": {"ttl": 3600, "renewable": True}}


async def test_the_service_account_s_token_is_read_at_each_sign_in(tmp_path: Path) -> None:
    """Kubernetes exchanges it in its file every hour."""
    file = tmp_path / "token"
    file.write_text("ey.first\n")
    replies = [answer(GRANTED), answer(ITSELF), answer(GRANTED), answer(ITSELF), answer(b"", 204)]
    async with pretending(*replies) as pretended:
        pool = Pool(Wire(pretended.url), namespace=None, timeout=2.0)
        async with Tokens(pool, KubernetesSignIn("sidecar", token_file=file, mount="clusters/one")) as tokens:
            token = await tokens.sign_in()
            assert (token.value, token.grant.seconds, token.grant.renewable) == ("hvs.of-the-pod", 3600.0, True)
            file.write_text("ey.second\n")
            await tokens.sign_in()
        await pool.close()
    logins = [each for each in pretended.asked if b"/login" in each]
    assert all(each.startswith(b"POST /v1/auth/clusters/one/login ") for each in logins)
    told = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in logins]
    assert told == [{"role": "sidecar", "jwt": "ey.first"}, {"role": "sidecar", "jwt": "ey.second"}]
    assert all(b"X-Vault-Token" not in each for each in logins)
    assert pretended.asked[-1].startswith(b"POST /v1/auth/token/revoke-self ")


async def test_a_pod_that_is_turned_away_is_told_what_to_look_at(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("ey.first")
    async with pretending(answer({"errors": ["service account name not authorized"]}, 403)) as pretended:
        pool = Pool(Wire(pretended.url), namespace=None, timeout=2.0)
        async with Tokens(pool, KubernetesSignIn("sidecar", token_file=file, mount="kubernetes")) as tokens:
            with pytest.raises(SignInRefused, match="service account name not authorized") as caught:
                await tokens.sign_in()
            assert "role sidecar at auth/kubernetes" in str(caught.value)
            assert "ey.first" not in str(caught.value)
            before = len(pretended.asked)
            with pytest.raises(Unavailable):
                await tokens.current()
            assert len(pretended.asked) == before  # not at once again
        await pool.close()


async def test_without_a_service_account_the_file_is_named(tmp_path: Path) -> None:
    async with pretending(answer(GRANTED)) as pretended:
        pool = Pool(Wire(pretended.url), namespace=None, timeout=2.0)
        async with Tokens(
            pool, KubernetesSignIn("sidecar", token_file=tmp_path / "none", mount="kubernetes")
        ) as tokens:
            with pytest.raises(SignInRefused, match="the service account's token"):
                await tokens.sign_in()
        await pool.close()
    assert pretended.connections == 0


def test_the_options_lead_there() -> None:
    options = Vault.Options.model_validate({"auth": {"kubernetes": {"role": "sidecar"}}})
    sign_in = options.auth.sign_in()
    assert isinstance(sign_in, KubernetesSignIn)
    assert str(sign_in._token_file) == "/var/run/secrets/kubernetes.io/serviceaccount/token"
