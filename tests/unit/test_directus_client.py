"""The way to Directus: what its answers mean, when it is left alone, what notices are taken. Without a Directus."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from plugins.directus.circuit import Circuit
from plugins.directus.notices import WINDOW_SECONDS, Notices
from plugins.directus.options import DirectusOptions, Token
from plugins.directus.refusals import DirectusFailed, DirectusRefused, away, refusal_of, wait_of
from plugins.directus.schema import Names, collections, permissions, relations
from sidecar import Refused, Unauthenticated


def _body(code: object, **more: object) -> dict[str, object]:
    return {"errors": [{"message": "the text of a person", "extensions": {"code": code, **more}}]}


def test_a_refusal_tells_its_kind_and_names_and_no_text_of_anybody() -> None:
    refusal = refusal_of(400, _body("RECORD_NOT_UNIQUE", collection="sidecar_chats", field="id", value="secret"))
    assert (refusal.status, refusal.code, refusal.collection, refusal.field) == (
        400,
        "RECORD_NOT_UNIQUE",
        "sidecar_chats",
        "id",
    )
    assert "secret" not in str(refusal)
    assert "person" not in str(refusal)
    assert isinstance(refusal_of(500, _body("INTERNAL_SERVER_ERROR")), DirectusFailed)
    assert not isinstance(refusal, DirectusFailed)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"errors": []},
        {"errors": ["x"]},
        {"errors": [{"extensions": 5}]},
        _body(None),
        _body("a b c"),
        _body("x" * 99),
    ],
)
def test_an_answer_of_another_shape_is_a_refusal_by_its_status(body: object) -> None:
    refusal = refusal_of(413, body)
    assert (refusal.code, str(refusal)) == ("HTTP_413", "Directus answered 413 HTTP_413")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (503, "SERVICE_UNAVAILABLE", True),
        (429, "REQUESTS_EXCEEDED", True),
        (502, None, True),
        (504, None, True),
        (403, "LICENSE_LOCKED", True),
        (403, "FORBIDDEN", False),
        (400, "INVALID_PAYLOAD", False),
        (500, "INTERNAL_SERVER_ERROR", False),
    ],
)
def test_what_says_that_directus_is_away(status: int, code: str | None, expected: bool) -> None:
    assert away(refusal_of(status, _body(code))) is expected


def test_f27_the_reset_of_a_rate_limit_counts_and_not_its_retry_after_of_0() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=7)
    body = _body("REQUESTS_EXCEEDED", reset=soon.isoformat().replace("+00:00", "Z"))
    wait = wait_of({"Retry-After": "0"}, body)
    assert wait is not None
    assert 5 < wait <= 7
    assert wait_of({"Retry-After": "3"}, None) == 3
    assert wait_of({}, _body("REQUESTS_EXCEEDED", reset="nonsense")) is None
    assert wait_of({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None) is None
    assert wait_of({"Retry-After": "99999999"}, None) == 60, "nobody is believed for longer"


def test_credentials_are_told_from_what_is_forbidden() -> None:
    assert DirectusRefused(401, "INVALID_CREDENTIALS").credentials
    assert DirectusRefused(403, "INVALID_TOKEN").credentials
    assert not DirectusRefused(403, "FORBIDDEN").credentials


class _Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("plugins.directus.circuit.time.monotonic", lambda: self.now)


def test_f27_three_failures_open_the_circuit_one_try_at_a_time_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, circuit = _Clock(monkeypatch), Circuit()
    for _ in range(3):
        assert circuit.admit() == 0
        circuit.failed("away", None)
    assert 0 < circuit.admit() <= 0.25
    rests = []
    for _ in range(12):
        clock.now += circuit.admit() + 0.001
        assert circuit.admit() == 0, "after its rest one is let through"
        assert circuit.admit() > 0, "and only one"
        circuit.failed("still away", None)
        rests.append(circuit.admit())
    assert max(rests) <= 10
    assert rests[-1] > rests[0]
    clock.now += rests[-1] + 0.001
    assert circuit.admit() == 0
    circuit.succeeded()
    assert (circuit.admit(), circuit.reason, circuit.open) == (0, None, False)


def test_whoever_gives_up_the_try_leaves_it_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, circuit = _Clock(monkeypatch), Circuit()
    for _ in range(3):
        circuit.failed("away", None)
    clock.now += 1
    assert circuit.admit() == 0
    circuit.abandoned()
    assert circuit.admit() == 0


def test_what_directus_asks_for_is_kept_to_after_a_single_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, circuit = _Clock(monkeypatch), Circuit()
    circuit.failed("too many", 5.0)
    assert circuit.admit() == 5.0
    clock.now += 5.0
    assert circuit.admit() == 0


@pytest.mark.parametrize(
    "options",
    [
        {"token": "a", "token_file": "b"},
        {"token": "with blank"},
        {"token": "line\n"},
        {"collections": {"chats": "directus_users"}},
        {"collections": {"chats": "a b"}},
        {"collections": {"chats": "same", "messages": "same"}},
        {"collections": {"chat": "x"}},
        {"calls": 0},
        {"timeout": "0s"},
        {"unknown": 1},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DirectusOptions.model_validate(options)


def test_f32_a_token_file_is_read_when_asked_and_what_is_no_token_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = Token(DirectusOptions.model_validate({"token_file": str(file)}))
    assert token.value == ""
    file.write_text("first\n")
    assert token.value == "first"
    assert not token.read_again(), "the same one"
    file.write_text("two words")
    assert not token.read_again()
    file.write_text("second")
    assert token.read_again()
    assert token.value == "second"
    file.unlink()
    assert not token.read_again()
    assert token.value == "second"


def _signed(body: bytes, secret: str = "s", at: float | None = None) -> dict[str, str]:
    sent = f"{time.time() if at is None else at:.3f}"
    signature = hmac.new(secret.encode(), sent.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"X-Sidecar-Time": sent, "X-Sidecar-Signature": signature}


def test_t42_notices() -> None:
    notices = Notices(SecretStr("s"))
    body = json.dumps({"event": "items.delete", "collection": "c", "keys": ["k"]}).encode()
    assert notices.read(_signed(body), body) == ("c", ["k"], True)
    assert notices.read({name.lower(): value for name, value in _signed(body).items()}, body)[1] == ["k"]
    single = json.dumps({"event": "c.items.update", "collection": "c", "key": "k"}).encode()
    assert notices.read(_signed(single), single) == ("c", ["k"], False)
    for age in (WINDOW_SECONDS + 5, -WINDOW_SECONDS - 5):
        with pytest.raises(Unauthenticated):
            notices.read(_signed(body, at=time.time() - age), body)
    for headers in ({}, _signed(body, "t"), _signed(body + b" "), {**_signed(body), "X-Sidecar-Time": "nan"}):
        with pytest.raises(Unauthenticated):
            notices.read(headers, body)
    nan = b"x"
    sent = "nan"
    signature = hmac.new(b"s", sent.encode() + b"." + nan, hashlib.sha256).hexdigest()
    with pytest.raises(Unauthenticated, match="old"):
        notices.read({"X-Sidecar-Time": sent, "X-Sidecar-Signature": signature}, nan)
    for wrong in (
        b"",
        b"[]",
        b'{"event": "items.read", "collection": "c", "key": "k"}',
        b'{"event": "items.delete", "key": 5}',
    ):
        with pytest.raises(Refused):
            notices.read(_signed(wrong), wrong)
    for unset in (None, SecretStr("")):
        with pytest.raises(Unauthenticated, match="notice_secret"):
            Notices(unset).read(_signed(body, ""), body)
    assert notices.taken == 3


def test_the_description_names_every_field_once_and_asks_for_no_rule() -> None:
    names = Names()
    for collection in collections(names):
        fields = [field.name for field in collection.fields]
        assert len(fields) == len(set(fields))
        assert collection.fields[0].primary
        assert collection.payload()["meta"]["accountability"] is None
        assert all("meta" in field for field in collection.payload()["fields"])
        assert not any(field["type"] == "alias" for field in collection.payload()["fields"])
    [relation] = relations(names)
    assert relation.payload()["schema"] == {"on_delete": "CASCADE"}
    assert len(permissions(names)) == 12
    assert all(not each["permissions"] and each["fields"] == ["*"] for each in permissions(names))
