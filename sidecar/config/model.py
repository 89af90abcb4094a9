"""The whole configuration, as the core reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PrivateAttr, SecretStr

from sidecar.changes import Limits as CacheLimits
from sidecar.config.places import KeyPath, Place, nearest, read_path, write_path
from sidecar.config.secrets import Secrets
from sidecar.config.sections import (
    Chats,
    Devices,
    Drafts,
    Ids,
    Limits,
    Logging,
    Messages,
    Plugin,
    Section,
    Server,
    Slot,
    Sync,
    Titles,
)
from sidecar.config.values import FileName
from sidecar.documents import DocumentLimits
from sidecar.errors import Problem
from sidecar.ids import UserHash, hash_user
from sidecar.plugin_entry import SLOTS, PluginEntry, Surroundings

DEFAULTS: Mapping[str, Any] = {
    "data_dir": "./sidecar-data",
    "auth": {"use": "dev"},
    "encryption": {"use": "local"},
    "cache": {"use": "memory"},
    "persistence": {"use": "sqlite"},
}
"""The built-in values that do not stand in the models, since the folder or the slot makes them."""
EMBEDDED: Mapping[str, Any] = {"server": {"demo": True}}
"""What holds besides when no file is read; `config/embedded.yaml` says the same."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Where each value came from. Kept apart from the values, which the core uses without asking."""

    places: Mapping[KeyPath, Place] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=Secrets)
    file: Path | None = None
    """The YAML file; None: the embedded defaults."""
    working_folder: Path = field(default_factory=Path)
    notices: tuple[Problem, ...] = ()
    """What is no error but hardly meant: environment variables that nearly name a key."""


class Config(Section):
    """The effective configuration: complete, validated, frozen. Durations are float seconds, sizes bytes, file names absolute.

    Its repr, like its JSON, holds no secret and no option of a plugin.
    """

    data_dir: Annotated[Path, FileName()] = Field(
        description="Folder of the embedded plugins' files and of the operators' socket; made with mode 0700."
    )
    server: Server = Field(default_factory=Server, description="Where and for whom the sidecar listens.")
    auth: Slot = Field(description="Slot: who is it? Built in: dev, directus.")
    encryption: Slot = Field(description="Slot: one key per chat. Built in: local, passthrough, vault.")
    cache: Slot = Field(description="Slot: what is hot or not yet stored. Built in: memory, redis.")
    persistence: Slot = Field(description="Slot: where chats with messages are stored. Built in: directus, sqlite.")
    plugins: tuple[Plugin, ...] = Field(default=(), description="Any number more, in this order.")
    ids: Ids = Field(default_factory=Ids, description="How persons are named.")
    drafts: Drafts = Field(default_factory=Drafts, description="Unsent texts.")
    titles: Titles = Field(default_factory=Titles, description="Titles of chats.")
    messages: Messages = Field(default_factory=Messages, description="Sent texts.")
    chats: Chats = Field(default_factory=Chats, description="What stays in the cache and for how long.")
    devices: Devices = Field(default_factory=Devices, description="Known devices and second factors.")
    limits: Limits = Field(default_factory=Limits, description="What one socket, person or address may use.")
    sync: Sync = Field(default_factory=Sync, description="What a client gets after it connects.")
    logging: Logging = Field(default_factory=Logging, description="What is logged, and how; never content.")

    _origins: Origins = PrivateAttr(default_factory=Origins)

    def with_origins(self, origins: Origins) -> Config:
        """The same values, knowing where they came from."""
        known = self.model_copy()
        known._origins = origins
        return known

    # -- what the core asks ----------------------------------------------------------------------------------------

    @property
    def file(self) -> Path | None:
        """The YAML file, or None when the embedded defaults hold."""
        return self._origins.file

    @property
    def socket_path(self) -> Path:
        """The operators' socket of the running sidecar, 0600."""
        return self.data_dir / "sidecar.sock"

    @property
    def search_paths(self) -> tuple[Path, ...]:
        """Where `module:Class` is looked up: beside the YAML file, then in the working folder."""
        beside = [self._origins.file.parent] if self._origins.file else []
        return tuple(dict.fromkeys([*beside, self._origins.working_folder.resolve()]))

    @property
    def notices(self) -> tuple[Problem, ...]:
        """What is no error but hardly meant."""
        return self._origins.notices

    def surroundings(self) -> Surroundings:
        """What plugins may ask besides their own options."""
        return Surroundings(data_dir=self.data_dir, host=self.server.host)

    def user_hash(self, user: str) -> UserHash:
        """The hash of a person, named by the authenticator's id or by 64 hex digits, which are the hash itself."""
        if len(user) == 64 and all(digit in "0123456789abcdef" for digit in user.lower()):
            return UserHash(user.lower())
        return hash_user(user, self.pepper)

    @property
    def pepper(self) -> str | None:
        return self.ids.pepper.get_secret_value() if self.ids.pepper else None

    def cache_limits(self) -> CacheLimits:
        return CacheLimits(
            active=self.chats.active,
            ttl=self.chats.ttl,
            draft_ttl=self.chats.draft_ttl,
            debounce=self.drafts.debounce,
            max_debounce=self.drafts.max_debounce,
            draft_chats=self.limits.draft_chats_per_user,
            bytes=self.limits.bytes_per_user,
            events_kept=self.sync.events_kept,
        )

    def document_limits(self) -> DocumentLimits:
        """The limits of a draft."""
        return DocumentLimits(self.drafts.max_bytes, self.drafts.max_depth, self.drafts.max_nodes)

    def message_limits(self) -> DocumentLimits:
        """The limits of a message: its own size, depth and nodes as for drafts."""
        return DocumentLimits(self.messages.max_bytes, self.drafts.max_depth, self.drafts.max_nodes)

    def plugin_entries(self) -> tuple[PluginEntry, ...]:
        """The slot sections in the order auth, encryption, cache, persistence, then `plugins:` in YAML order."""
        slots = (
            self._entry(
                (slot,),
                getattr(self, slot),
                PluginEntry(slot, "", slot, name="persistence" if slot == "persistence" else ""),
            )
            for slot in SLOTS
        )
        more = (
            self._entry(
                ("plugins", number),
                plugin,
                PluginEntry(f"plugins[{number}]", "", name=plugin.name or "", on_failure=plugin.on_failure),
            )
            for number, plugin in enumerate(self.plugins)
        )
        return (*slots, *more)

    def _entry(self, path: KeyPath, section: Slot, entry: PluginEntry) -> PluginEntry:
        place = nearest(self._origins.places, path)
        return replace(
            entry,
            use=section.use,
            name=entry.name or section.use,
            options=section.options,
            timeout=section.timeout,
            grants=section.grants,
            line=place.line if place else None,
            source=place.source if place else None,
            lines={
                write_path(path_below[len(path) :]): below.line
                for path_below, below in self._origins.places.items()
                if path_below[: len(path)] == path and len(path_below) > len(path) and below.line is not None
            },
        )

    def literals(self) -> Iterator[tuple[KeyPath, str]]:
        """The texts that stand in the YAML file as they are, without a `${…}`."""
        for path, place in self._origins.places.items():
            if place.line is None or place.references:
                continue
            value: Any = self
            for part in path:
                value = getattr(value, str(part), None) if isinstance(value, BaseModel) else value[part]
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if isinstance(value, str) and value:
                yield path, value

    # -- what is printed -------------------------------------------------------------------------------------------

    def redact(self, text: str) -> str:
        """The text without any secret of this configuration."""
        return self._origins.secrets.redact(text)

    def place(self, path: KeyPath) -> Place:
        """Where the value came from; `default` if nobody gave it."""
        return self._origins.places.get(path, Place("default"))

    def locate(self, problem: Problem) -> Problem:
        """A problem that names a YAML path alone, such as the loader's `cache.options.url`, with source and exact line; redacted."""
        place = nearest(self._origins.places, read_path(problem.path))
        return Problem(
            problem.path,
            self.redact(problem.message),
            self.redact(problem.remedy),
            place.line if place else problem.line,
            place.source if place else problem.source,
        )
