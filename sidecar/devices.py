"""Devices: a server-issued id and secret that a client shows when it comes back (semantics §9).

Records stand in the store for good, and in the cache for 24 h, so that a known device is known while the store is away.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import timedelta

import orjson
from pydantic import ValidationError

from sidecar.errors import Unavailable
from sidecar.frames.client import DeviceProof, Signals
from sidecar.ids import DeviceId, UserHash
from sidecar.parts import Parts
from sidecar.records import DeviceInDB

_CACHED_SECONDS = 86_400.0
_SEEN_AGAIN = timedelta(hours=1)
"""`last_seen` is written at most this often: it only tells which device was unused for longest."""

_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


@dataclass(frozen=True, slots=True)
class Recognised:
    """The device of a connection. `secret` is set when it was issued just now; it is never to be had again."""

    device: DeviceInDB
    secret: str | None = field(repr=False)

    @property
    def is_new(self) -> bool:
        return self.secret is not None


async def recognise(
    parts: Parts, user: UserHash, proof: DeviceProof | None, signals: Signals | None, user_agent: str
) -> Recognised:
    """The device that the client proves to be, else a new one. A wrong secret proves nothing and tells nothing.

    Raises `Unavailable` when a proof was shown and neither cache nor store can be asked about it, or a new device
    cannot be written down: a credential is given out only once its record stands (lesson L62).
    """
    if proof is not None:
        known = await _known(parts, user, DeviceId(proof.id))
        if known is not None and hmac.compare_digest(known.secret_hash, _hash(proof.secret)):
            return Recognised(await _seen(parts, known, signals, user_agent), None)
    return await _issue(parts, user, signals, user_agent)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _lease(user: UserHash, device: DeviceId) -> str:
    return f"device:{user}:{device}"


async def _known(parts: Parts, user: UserHash, device: DeviceId) -> DeviceInDB | None:
    held = await parts.cache.leases.held(_lease(user, device))
    cached = _read_note(held.get(device))
    if cached is not None and cached.id == device and cached.hashed_user_id == user:
        return cached
    for record in await parts.store.devices(user):
        if record.id == device:
            return record
    return None


def _read_note(note: bytes | None) -> DeviceInDB | None:
    if note is None:
        return None
    try:
        return DeviceInDB.model_validate_json(note)
    except ValidationError:
        return None  # damaged in the cache: the store knows


async def _keep(parts: Parts, record: DeviceInDB) -> None:
    note = record.model_dump_json().encode()
    await parts.cache.leases.take(_lease(record.hashed_user_id, record.id), record.id, _CACHED_SECONDS, 1, note)


async def _seen(parts: Parts, known: DeviceInDB, signals: Signals | None, user_agent: str) -> DeviceInDB:
    now = parts.now()
    record = known.model_copy(update={"last_seen": now, "fingerprint": _fingerprint(signals, user_agent)})
    if now - known.last_seen < _SEEN_AGAIN and record.fingerprint == known.fingerprint:
        await _keep(parts, known)
        return known
    try:
        await parts.store.put_device(record)
    except Unavailable:
        pass  # it is only the time that is not written down
    await _keep(parts, record)
    return record


async def _issue(parts: Parts, user: UserHash, signals: Signals | None, user_agent: str) -> Recognised:
    secret = secrets.token_urlsafe(32)
    now = parts.now()
    record = DeviceInDB(
        id=DeviceId(secrets.token_urlsafe(12)),
        hashed_user_id=user,
        secret_hash=_hash(secret),
        name=_name(user_agent),
        fingerprint=_fingerprint(signals, user_agent),
        first_seen=now,
        last_seen=now,
    )
    others = sorted(await parts.store.devices(user), key=lambda device: device.last_seen)
    await parts.store.put_device(record)
    await _keep(parts, record)
    for old in others[: max(0, len(others) + 1 - parts.settings.devices)]:
        await parts.store.drop_device(user, old.id)
        lease = await parts.cache.leases.take(_lease(user, old.id), old.id, 1.0)
        if lease is not None:
            await parts.cache.leases.leave(lease)
    return Recognised(record, secret)


def _name(user_agent: str) -> str:
    """What a person reads in the list of devices: a browser and a system, or that it is an app."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    if browser is None:
        return f"App on {system}" if system is not None else "App"
    return f"{browser} on {system}" if system is not None else browser


def _fingerprint(signals: Signals | None, user_agent: str) -> str:
    seen = signals.model_dump(exclude_none=True) if signals is not None else {}
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    return orjson.dumps({**seen, "browser": browser, "system": system}, option=orjson.OPT_SORT_KEYS).decode()
