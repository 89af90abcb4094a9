"""What is kept in Directus: collections, fields, indexes, the relation, and what the service user must be allowed. A description, no I/O.

`sidecar bootstrap` makes what is missing of it, `persistence.directus` looks at start whether all of it is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, field_validator, model_validator

Type = Literal["string", "text", "integer", "timestamp", "uuid", "alias"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_KEY = 200
"""Room for the longest primary key: hash, client chat id and message id, 166 characters."""


class Names(BaseModel, extra="forbid", frozen=True):
    """What the collections are called."""

    chats: str = "sidecar_chats"
    messages: str = "sidecar_messages"
    devices: str = "sidecar_devices"

    @field_validator("*")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if not _NAME.match(name) or name.lower().startswith("directus_"):
            raise ValueError("a collection's name is made of letters, digits and _, and does not begin with directus_")
        return name

    @model_validator(mode="after")
    def _three_names(self) -> Names:
        if len({self.chats, self.messages, self.devices}) < 3:
            raise ValueError("chats, messages and devices are three collections: give each a name of its own")
        return self


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a collection."""

    name: str
    type: Type
    note: str
    length: int | None = None
    """Of a string."""
    primary: bool = False
    unique: bool = False
    indexed: bool = False
    special: tuple[str, ...] = ()
    """Directus' own words for what it does with the field."""

    def payload(self) -> dict[str, Any]:
        """As `POST /fields/{collection}` and `POST /collections` take it. (A field without `meta` fails there with a misleading error.)"""
        meta = {
            "special": list(self.special) or None,
            "note": self.note,
            "readonly": True,
            "hidden": False,
            "interface": "list-o2m" if self.type == "alias" else "datetime" if self.type == "timestamp" else "input",
        }
        if self.type == "alias":
            return {"field": self.name, "type": "alias", "schema": None, "meta": meta}
        schema: dict[str, Any] = {"is_nullable": not self.primary}
        if self.length is not None:
            schema["max_length"] = self.length
        if self.primary:
            schema["is_primary_key"] = True
        if self.unique:
            schema["is_unique"] = True
        if self.indexed:
            schema["is_indexed"] = True
        return {"field": self.name, "type": self.type, "schema": schema, "meta": meta}


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection with its fields, the primary key first."""

    name: str
    note: str
    icon: str
    fields: tuple[Field, ...]

    def payload(self) -> dict[str, Any]:
        """As `POST /collections` takes it, aliases left out: they need the relation.

        `accountability` null: no copy of a ciphertext goes into revisions and activity, and writes cost half as much.
        """
        return {
            "collection": self.name,
            "schema": {},
            "meta": {"accountability": None, "note": self.note, "icon": self.icon, "hidden": False},
            "fields": [field.payload() for field in self.fields if field.type != "alias"],
        }


@dataclass(frozen=True, slots=True)
class Relation:
    """Many rows of `collection` belong to one of `related`."""

    collection: str
    field: str
    related: str
    one_field: str
    """The alias there."""

    def payload(self) -> dict[str, Any]:
        """As `POST /relations` takes it. Whoever deletes a chat in Directus deletes its messages."""
        return {
            "collection": self.collection,
            "field": self.field,
            "related_collection": self.related,
            "schema": {"on_delete": "CASCADE"},
            "meta": {"one_field": self.one_field, "one_deselect_action": "nullify", "sort_field": None},
        }


def _key(note: str) -> Field:
    return Field("id", "string", note, _KEY, primary=True)


_OWNER = Field("hashed_user_id", "string", "whose it is: a hash of the Directus user id", 64, indexed=True)
_CHANGED = Field(
    "changed_at", "timestamp", "Directus' own: when the row was last updated", indexed=True, special=("date-updated",)
)
_CHANGER = Field(
    "changed_by", "uuid", "Directus' own: who updated it last; the sidecar, or somebody else", special=("user-updated",)
)


def collections(names: Names) -> tuple[Collection, ...]:
    """All three. Beyond the keys no field is required: a row that was edited by hand can be seen, reported and mended."""
    chats = Collection(
        names.chats,
        "Chats of directus-sync-sidecar: titles and drafts are sealed. Written by the sidecar alone.",
        "forum",
        (
            _key("full hash of the person, then the chat id that the client gave"),
            _OWNER,
            Field("vault_key_reference", "string", "which key seals this chat", 255),
            Field("title", "text", "sealed"),
            Field("title_version", "integer", "of the title"),
            Field("title_op", "string", "the operation that made this version", 64),
            Field("draft", "text", "sealed"),
            Field("version", "integer", "of the draft"),
            Field("draft_op", "string", "the operation that made this version", 64),
            Field("draft_state", "string", "none, edited, consumed or deleted", 16),
            Field("messages_version", "integer", "rises with each change of a message"),
            Field("created_at", "timestamp", "when the chat began, as a draft"),
            Field("updated_at", "timestamp", "of the last change", indexed=True),
            Field("last_message_timestamp", "timestamp", "of the last message"),
            Field("ahead", "string", "the process whose messages this row may not tell of yet", 16),
            _CHANGED,
            _CHANGER,
            Field("messages", "alias", "the chat's messages", special=("o2m",)),
        ),
    )
    messages = Collection(
        names.messages,
        "Messages of directus-sync-sidecar: contents are sealed. Written by the sidecar alone.",
        "chat",
        (
            _key("the chat's id, then the message id"),
            Field("message_id", "string", "the message id, as devices know it", 64, unique=True),
            Field("chat_id", "string", "the chat", _KEY, indexed=True, special=("m2o",)),
            _OWNER,
            Field("client_message_id", "string", "the id that the client gave", 255),
            Field("role", "string", "user, assistant or system", 16),
            Field("sender_name", "text", "who it is from"),
            Field("content", "text", "sealed"),
            Field("sequence", "integer", "the place in the chat, from 1"),
            Field("created_at", "timestamp", "when it was accepted"),
            Field("messages_version", "integer", "that of the chat, where the message ran ahead of its row"),
            _CHANGED,
            _CHANGER,
        ),
    )
    devices = Collection(
        names.devices,
        "Devices of directus-sync-sidecar. Of a device's secret there is only a hash.",
        "devices",
        (
            _key("full hash of the person, then the device id"),
            _OWNER,
            Field("secret_hash", "string", "SHA-256 of the device's secret", 64),
            Field("name", "text", "as its owner calls it"),
            Field("fingerprint", "text", "signals that were seen last"),
            Field("first_seen", "timestamp", "when it came first"),
            Field("last_seen", "timestamp", "when it was last here"),
            Field("verified_at", "timestamp", "when its owner last gave a second factor on it"),
        ),
    )
    return chats, messages, devices


def relations(names: Names) -> tuple[Relation, ...]:
    """Messages belong to chats."""
    return (Relation(names.messages, "chat_id", names.chats, "messages"),)


ACTIONS = ("create", "read", "update", "delete")


def permissions(names: Names) -> Sequence[Mapping[str, Any]]:
    """What `persistence.directus` must be allowed, as `POST /permissions` takes it, without its policy.

    No filters and no field lists: those need a licence that is paid for. No end user needs any permission on these.
    """
    return [
        {"collection": name, "action": action, "fields": ["*"], "permissions": {}, "validation": None}
        for name in (names.chats, names.messages, names.devices)
        for action in ACTIONS
    ]
