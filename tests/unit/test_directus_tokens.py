"""What a Directus token may say of itself: kinds, times, and the traps of JWTs (T6). No server: those of a real one are in tests/directus."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from plugins.auth.directus_tokens import Kind, digest, mint, read_token
from sidecar import Unauthenticated

SECRET = "a secret of thirty-two characters"
NOW = 1_800_000_000.0
ANNA = "8c1b2f7e-6f6f-4f5c-9a43-0f5b6a9f6f11"
GOOD: dict[str, Any] = {
    "id": ANNA,
    "role": None,
    "app_access": True,
    "admin_access": False,
    "iat": int(NOW) - 60,
    "exp": int(NOW) + 840,
    "iss": "directus",
}


def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    return jwt.PyJWS().encode(
        json.dumps(claims).encode(), secret, algorithm=algorithm
    )  # claims that PyJWT itself would not write


def raw(header: Any, claims: Any, signature: str = "c2ln") -> str:
    parts = (json.dumps(header), json.dumps(claims))
    return ".".join([*(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts), signature])


@pytest.mark.parametrize("secret", [SECRET, None])
def test_an_access_token_is_its_persons_until_it_expires(secret: str | None) -> None:
    token = read_token(signed(), NOW, secret=secret)
    assert (token.kind, token.user_id, token.expires) == (Kind.ACCESS, ANNA, NOW + 840)
    expires = token.expires_at(ahead=100.0)
    assert expires is not None
    assert expires.timestamp() == NOW + 940, "on a clock that is 100 s ahead"
    assert token.text not in repr(token)


def test_tokens_of_one_session_have_one_name_which_is_not_the_session() -> None:
    first, fresh = (read_token(signed(session="s" * 64, exp=int(NOW) + exp), NOW) for exp in (800, 80_000))
    assert first.kind is Kind.SESSION
    assert first.session_id == fresh.session_id == digest("s" * 64)
    assert "ssss" not in f"{first!r} {first.session_id}"
    assert read_token(signed(session="t"), NOW).session_id != first.session_id


@pytest.mark.parametrize(
    "text", ["static-token", "one.with.dots", "a.b", "x" * 8192, "aGk.aGk.aGk", "!~+/=", "..", "é".encode().hex()]
)
def test_any_printable_text_may_be_a_static_token(text: str) -> None:
    token = read_token(text, NOW, secret=SECRET)
    assert (token.kind, token.user_id, token.expires, token.expires_at()) == (Kind.STATIC, None, None, None)
    with pytest.raises(Unauthenticated, match="cookie"):
        read_token(text, NOW, secret=SECRET, from_cookie=True)


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "a\nb", "\x00", "ü", "x" * 8193, "Bearer x", "x\r\nX-Admin: 1", "\x7f"]
)
def test_what_no_header_may_carry_is_no_token(text: str) -> None:
    with pytest.raises(Unauthenticated, match="no Directus token"):
        read_token(text, NOW)


def test_a_cookie_holds_a_session_token_and_no_other() -> None:
    assert read_token(signed(session="s"), NOW, from_cookie=True).kind is Kind.SESSION
    with pytest.raises(Unauthenticated, match="cookie"):
        read_token(signed(), NOW, from_cookie=True)


@pytest.mark.parametrize("secret", [SECRET, None], ids=["checked here", "asked of Directus"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (raw({"alg": "none", "typ": "JWT"}, GOOD, ""), "otherwise"),
        (raw({"alg": "None", "typ": "JWT"}, GOOD, ""), "otherwise"),
        (raw({"alg": "RS256", "typ": "JWT"}, GOOD), "otherwise"),
        (raw({"typ": "JWT"}, GOOD), "otherwise"),
        (raw({"alg": ["HS256"]}, GOOD), "otherwise"),
        (signed(algorithm="HS512", secret=SECRET * 2), "otherwise"),
        (signed(algorithm="HS384", secret=SECRET * 2), "otherwise"),
        (signed(iss="directus.evil.example"), "issued by Directus"),
        (signed(iss=...), "issued by Directus"),
        (signed(iss=["directus"]), "issued by Directus"),
        (signed(share="b3f0", id=...), "share token"),
        (signed(share="b3f0"), "share token"),
        (signed(id=...), "no person"),
        (signed(id=None), "no person"),
        (signed(id=""), "no person"),
        (signed(id=7), "no person"),
        (signed(id=["a"]), "no person"),
        (signed(id="../users/1"), "no person"),
        (signed(id="a?fields=*"), "no person"),
        (signed(session=7), "no Directus token"),
        (signed(session=""), "no Directus token"),
        (signed(exp=int(NOW)), "expired"),
        (signed(exp=int(NOW) - 3600), "expired"),
        (signed(exp=-1), "expired"),
        (signed(exp=...), "from when to when"),
        (signed(iat=...), "from when to when"),
        (raw({"alg": "HS256"}, {**GOOD, "exp": str(int(NOW) + 60)}), "from when|signature"),
        (raw({"alg": "HS256"}, {**GOOD, "exp": True}), "from when|signature"),
        (raw({"alg": "HS256"}, {**GOOD, "exp": 10**400}), "from when|signature"),
        (raw({"alg": "HS256"}, {**GOOD, "exp": float("inf")}), "from when|signature|no Directus token"),
        (signed(exp=int(NOW) + 400 * 86_400), "lasts longer"),
        (signed(exp=10**15), "lasts longer"),
        (signed(exp=int(NOW) + 401 * 86_400, session="s"), "lasts longer"),
        (signed(iat=int(NOW) - 40 * 86_400), "lasts longer"),
        (signed(iat=int(NOW) + 3600), "future"),
        (signed(enforce_tfa=True), "second factor"),
        (raw({"alg": "HS256"}, [1, 2]), "no Directus token|signature"),
        (raw({"alg": "HS256", "crit": ["exp"]}, GOOD), "no Directus token|signature"),
    ],
)  # fmt: skip
def test_t6_what_directus_would_never_have_issued_is_refused(text: str, why: str, secret: str | None) -> None:
    with pytest.raises(Unauthenticated, match=why) as caught:
        read_token(text, NOW, secret=secret)
    assert text not in str(caught.value)
    assert caught.value.__cause__ is None


def test_t6_with_the_secret_a_signature_of_another_is_refused_here() -> None:
    forged = signed(secret="another secret of thirty-two chars")
    with pytest.raises(Unauthenticated, match="signature"):
        read_token(forged, NOW, secret=SECRET)
    assert read_token(forged, NOW).user_id == ANNA, "without it, Directus is asked"
    head, body, signature = signed().split(".")
    other = base64.urlsafe_b64encode(json.dumps({**GOOD, "id": "someone-else"}).encode()).decode().rstrip("=")
    for text in (f"{head}.{other}.{signature}", f"{head}.{body}.", f"{head}.{body}.{signature[:-2]}AA"):
        with pytest.raises(Unauthenticated):
            read_token(text, NOW, secret=SECRET)


def test_a_minted_token_is_one_that_directus_might_have_made() -> None:
    token = read_token(mint(ANNA, SECRET, NOW), NOW, secret=SECRET)
    assert (token.kind, token.user_id) == (Kind.ACCESS, ANNA)
    assert token.expires == NOW + 60
