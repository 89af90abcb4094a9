"""The authenticator that ships keeps to the contract of its slot (S65), and what is its own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from plugins.auth.dev import Dev, totp
from sidecar import Authenticator, Credential, Session, StartRefused, Surroundings, Unauthenticated, Unavailable
from sidecar.slots.authenticator import Ended
from sidecar.testing.auth import AuthenticatorContract, Known
from tests.plugins.sessions import Sessions

SECRET = "JBSWY3DPEHPK3PXP"


def surroundings(folder: Path, host: str = "127.0.0.1") -> Surroundings:
    return Surroundings(data_dir=folder, host=host)


class TestDev(AuthenticatorContract):
    good = (Known("dev:anna", "anna"), Known("dev:bob", "bob"), Known("dev:a-1", "a-1"))
    bad = ("dev:", "dev:Anna", "dev:anna ", "dev:anna\n", "DEV:anna", "dev:" + "a" * 33, "dev:änna", "dev:a_b")

    @pytest_asyncio.fixture
    async def auth(self, tmp_path: Path) -> AsyncIterator[Authenticator]:
        options = Dev.Options.model_validate({"users": {"bob": {"totp_secret": SECRET}}})
        async with Dev(options, surroundings(tmp_path)) as plugin:
            yield await plugin.provide_auth()

    async def code_of(self, auth: Authenticator, known: Known) -> str | None:
        if known.user_id != "bob":
            return None
        return totp(b"Hello!\xde\xad\xbe\xef", time.time())  # what SECRET is in Base32

    @pytest.mark.parametrize(
        "changes",
        [
            {"forwarded": True},
            {"host": "sidecar.example.com"},
            {"host": "127.0.0.1.evil.example:8770"},
            {"host": "192.168.1.7:8770"},
            {"peer": "192.168.1.7"},
            {"peer": ""},
        ],
    )
    async def test_it_serves_this_machine_alone(self, auth: Authenticator, changes: dict[str, Any]) -> None:
        with pytest.raises(Unauthenticated):
            await auth.sign_in(self.credential("dev:anna", **changes))

    @pytest.mark.parametrize("host", ["localhost:8770", "LOCALHOST", "localhost.", "[::1]:8770", "127.0.0.2:1"])
    async def test_this_machine_has_many_names(self, auth: Authenticator, host: str) -> None:
        assert (await auth.sign_in(self.credential("dev:anna", host=host, peer="::1"))).user_id == "anna"

    async def test_a_code_of_the_step_before_is_good_and_older_ones_are_not(self, auth: Authenticator) -> None:
        session = await auth.sign_in(self.credential("dev:bob"))
        now = time.time()
        key = b"Hello!\xde\xad\xbe\xef"
        if now % 30 > 28:
            now -= 3  # not on the edge of two steps
        assert await auth.check_code(session, totp(key, now - 30)) or time.time() // 30 != now // 30
        good = {totp(key, time.time() + drift * 30) for drift in (-1, 0, 1)}
        old = totp(key, now - 300)
        assert old in good or not await auth.check_code(session, old)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "sidecar.example.com", ""])
async def test_dev_refuses_to_start_on_an_address_that_others_reach(tmp_path: Path, host: str) -> None:
    with pytest.raises(StartRefused, match=r"server\.host"):
        async with Dev(Dev.Options(), surroundings(tmp_path, host)):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
async def test_dev_starts_on_loopback(tmp_path: Path, host: str) -> None:
    async with Dev(Dev.Options(), surroundings(tmp_path, host)) as plugin:
        assert "anybody" in plugin.state()


@pytest.mark.parametrize(("secret", "why"), [("not base32!", "Base32"), ("JBSWY3DP", "80 bits")])
def test_a_totp_secret_that_is_none_is_told_so_and_not_repeated(secret: str, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Dev.Options.model_validate({"users": {"bob": {"totp_secret": secret}}})
    assert why in str(caught.value)
    options = Dev.Options.model_validate({"users": {"bob": {"totp_secret": SECRET}}})
    assert SECRET not in repr(options)


@pytest.mark.parametrize(
    ("seconds", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_totp_gives_the_codes_of_rfc_6238(seconds: int, code: str) -> None:
    assert totp(b"12345678901234567890", seconds) == code


class TestSessions(AuthenticatorContract):
    """A source whose sessions end and that can be away: the parts of the contract that `dev` has no use for."""

    good = (Known("anna/1", "anna"), Known("bert/1", "bert"))
    bad = ("anna/over",)
    ends = True
    reports = True
    can_break = True

    @pytest_asyncio.fixture
    async def auth(self) -> AsyncIterator[Authenticator]:
        auth = _Strict()
        auth.over.add("anna/over")
        yield auth

    async def end(self, auth: Authenticator, known: Known) -> None:
        assert isinstance(auth, Sessions)
        auth.over |= {known.token, _Strict.name_of(known.token)}
        await auth.reports.put(Ended(known.user_id, _Strict.name_of(known.token)))

    async def break_backend(self, auth: Authenticator) -> None:
        assert isinstance(auth, Sessions)
        auth.error = Unavailable("auth", "away")


class _Strict(Sessions):
    async def sign_in(self, credential: Credential) -> Session:
        if self.error is None and (credential.token.count("/") != 1 or len(credential.token) > 20):
            raise Unauthenticated("that is no token")
        session = await super().sign_in(credential)
        return replace(session, session_id=self.name_of(credential.token))

    @staticmethod
    def name_of(token: str) -> str:
        """What a session is called, which is not its token."""
        return hashlib.sha256(token.encode()).hexdigest()
