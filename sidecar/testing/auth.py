"""The contract of the slot `auth`: who is it, and is it still?

    class TestMine(AuthenticatorContract):
        @pytest_asyncio.fixture
        async def auth(self) -> AsyncIterator[Authenticator]: ...
        good = [Known("a token of anna", "anna"), Known("a token of bert", "bert")]
        bad = ["a token that was revoked", "one that has expired"]

Tests whose attribute is not set (`end`, `break_backend`, `code`) are skipped: the source has no such thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from sidecar.errors import Unauthenticated, Unavailable
from sidecar.slots.authenticator import Authenticator, Credential, Ended, Session


@dataclass(frozen=True, slots=True)
class Known:
    """A token that is good, and whose it is."""

    token: str
    user_id: str


class AuthenticatorContract:
    """Subclass it as `Test…` with a fixture `auth`, at least two persons in `good`, and what is `bad`."""

    pytestmark = pytest.mark.asyncio

    good: Sequence[Known] = ()
    bad: Sequence[str] = ()
    """Tokens that the source knows to be bad, beside those that are none at all, which every test class tries."""
    ends = False
    """Whether `end` can end a session at the source."""
    reports = False
    """Whether `ended()` tells of sessions that `end` ended."""
    can_break = False
    """Whether `break_backend` can make the source unreachable."""

    def credential(self, token: str, **changes: object) -> Credential:
        """A request from this machine; override it where the authenticator wants another."""
        shown = Credential(token, False, "127.0.0.1", "127.0.0.1:8770", False, "contract/1")
        return replace(shown, **changes)  # type: ignore[arg-type]

    async def end(self, auth: Authenticator, known: Known) -> None:
        """Ends this session at the source: logout, suspension, password change."""
        raise NotImplementedError

    async def break_backend(self, auth: Authenticator) -> None:
        """From here on the source cannot be reached."""
        raise NotImplementedError

    async def code_of(self, auth: Authenticator, known: Known) -> str | None:
        """A good code of the second factor of this person now; None: the person has none."""
        return None

    # -- signing in ----------------------------------------------------------------------------------------------------

    async def test_a_good_token_is_the_person_that_it_belongs_to(self, auth: Authenticator) -> None:
        assert len({known.user_id for known in self.good}) >= 2, "the contract needs two persons"
        for known in self.good:
            session = await auth.sign_in(self.credential(known.token))
            assert isinstance(session, Session)
            assert session.user_id == known.user_id

    async def test_the_same_token_again_is_the_same_person(self, auth: Authenticator) -> None:
        first, again = [await auth.sign_in(self.credential(self.good[0].token)) for _ in range(2)]
        assert (first.user_id, first.session_id) == (again.user_id, again.session_id)

    async def test_many_at_once_are_not_mixed_up(self, auth: Authenticator) -> None:
        asked = [self.good[number % len(self.good)] for number in range(50)]
        sessions = await asyncio.gather(*(auth.sign_in(self.credential(known.token)) for known in asked))
        assert [session.user_id for session in sessions] == [known.user_id for known in asked]

    @pytest.mark.parametrize(
        "token",
        ["", " ", "nonsense", "null", "undefined", "\x00", "ü", "a" * 10_000, "' OR 1=1 --", "../../etc", "Bearer x"],
        ids=["empty", "blank", "nonsense", "null", "undefined", "nul", "not ASCII", "long", "SQL", "a path", "Bearer"],
    )
    async def test_what_is_no_token_is_refused(self, auth: Authenticator, token: str) -> None:
        with pytest.raises(Unauthenticated):
            await auth.sign_in(self.credential(token))

    async def test_a_bad_token_is_refused_each_time(self, auth: Authenticator) -> None:
        for token in [*self.bad, *(known.token + "x" * 40 for known in self.good)]:
            for _ in range(2):
                with pytest.raises(Unauthenticated):
                    await auth.sign_in(self.credential(token))

    async def test_a_refusal_changes_nothing_for_others(self, auth: Authenticator) -> None:
        for _ in range(5):
            with pytest.raises(Unauthenticated):
                await auth.sign_in(self.credential("nonsense"))
        assert (await auth.sign_in(self.credential(self.good[0].token))).user_id == self.good[0].user_id

    async def test_no_error_and_no_repr_repeats_the_token(self, auth: Authenticator) -> None:
        for token in [*(bad for bad in self.bad if len(bad) > 12), "nonsense-that-nobody-else-says"]:
            with pytest.raises(Unauthenticated) as caught:
                await auth.sign_in(self.credential(token))
            assert token not in f"{caught.value!r} {caught.value}"
            assert token not in repr(self.credential(token))
            assert caught.value.__cause__ is None or token not in repr(caught.value.__cause__)

    async def test_what_a_session_says_can_be_shown(self, auth: Authenticator) -> None:
        for known in self.good:
            session = await auth.sign_in(self.credential(known.token))
            assert session.user_id, "everybody without an id would be one person"
            assert session.session_id is None or session.session_id
            assert session.name is None or session.name.strip()
            assert known.token not in repr(session)

    async def test_an_end_has_a_time_zone_and_is_still_to_come(self, auth: Authenticator) -> None:
        for known in self.good:
            expires = (await auth.sign_in(self.credential(known.token))).expires_at
            if expires is not None:
                assert expires.tzinfo is not None
                assert expires > datetime.now(UTC)

    # -- looking again -------------------------------------------------------------------------------------------------

    async def test_a_session_that_lasts_passes_every_look(self, auth: Authenticator) -> None:
        session = await auth.sign_in(self.credential(self.good[0].token))
        for _ in range(3):
            await auth.recheck(session)

    async def test_a_session_that_was_ended_does_not_pass_and_the_others_do(self, auth: Authenticator) -> None:
        if not self.ends:
            pytest.skip("not promised: sessions of this source never end")
        over, lasts = [await auth.sign_in(self.credential(known.token)) for known in self.good[:2]]
        await self.end(auth, self.good[0])
        with pytest.raises(Unauthenticated):
            await auth.recheck(over)
        with pytest.raises(Unauthenticated):
            await auth.sign_in(self.credential(self.good[0].token))
        await auth.recheck(lasts)

    async def test_ended_sessions_are_told_or_nothing_is(self, auth: Authenticator) -> None:
        """`ended()` is an async iterator that can be left at any moment; it names the person and, if need be, the session."""
        told: list[Ended] = []
        one = asyncio.Event()

        async def listen() -> None:
            async for ended in auth.ended():
                assert isinstance(ended, Ended)
                told.append(ended)
                one.set()

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.05)
        if self.reports:
            session = await auth.sign_in(self.credential(self.good[0].token))
            await self.end(auth, self.good[0])
            async with asyncio.timeout(5):
                await one.wait()
            assert told[0].user_id == self.good[0].user_id
            assert told[0].session_id in (None, session.session_id)
        else:
            assert told == []
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    # -- the second factor ---------------------------------------------------------------------------------------------

    async def test_the_second_factor_is_what_the_source_says(self, auth: Authenticator) -> None:
        for known in self.good:
            session = await auth.sign_in(self.credential(known.token))
            code = await self.code_of(auth, known)
            assert session.second_factor is (code is not None)
            if code is not None:
                assert await auth.check_code(session, code)

    @pytest.mark.parametrize(
        "code", ["", "000", "12345", "1234567", "abcdef", "１２３４５６", " 123456", "12 456", "-12345"]
    )
    async def test_what_is_no_code_is_wrong_and_not_an_error(self, auth: Authenticator, code: str) -> None:
        for known in self.good:
            session = await auth.sign_in(self.credential(known.token))
            assert not await auth.check_code(session, code)

    async def test_a_code_of_one_person_is_not_anothers(self, auth: Authenticator) -> None:
        with_code = [(known, code) for known in self.good if (code := await self.code_of(auth, known)) is not None]
        if not with_code:
            pytest.skip("not promised: nobody here has a second factor")
        for known, code in with_code:
            for other in self.good:
                if other.user_id != known.user_id and await self.code_of(auth, other) != code:
                    session = await auth.sign_in(self.credential(other.token))
                    assert not await auth.check_code(session, code)

    # -- trouble -------------------------------------------------------------------------------------------------------

    async def test_without_its_source_it_is_unavailable_and_nobody_is_refused_or_let_in(
        self, auth: Authenticator
    ) -> None:
        if not self.can_break:
            pytest.skip("not promised: it has no source that could be away")
        session = await auth.sign_in(self.credential(self.good[0].token))
        await self.break_backend(auth)
        with pytest.raises(Unavailable):
            await auth.sign_in(self.credential(self.good[1].token))
        with pytest.raises(Unavailable):
            await auth.recheck(session)
