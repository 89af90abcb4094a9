"""The sections of the YAML. Every key has its default, its limits and a sentence on what it is for.

Durations are float seconds and sizes are bytes once they are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from sidecar.config.network import Cidr, Host, Network, Origin
from sidecar.config.values import Choice, Duration, FileName, Name, Secret, Size, Switch, Whole

KIB, MIB = 1024, 1024 * 1024
_USE = r"[A-Za-z_][A-Za-z0-9_.-]*(?::[A-Za-z_][A-Za-z0-9_]*)?"
Use = Annotated[str, Name(_USE, "an entry point's name such as redis, or module:Class")]
PositionName = Annotated[str, Name(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}", "1 to 64 of A-Z a-z 0-9 _ . : -")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceKey(Section):
    """A backend that may use the /v1 routes."""

    name: Annotated[str, Name(r"[A-Za-z0-9_.-]{1,64}", "1 to 64 of A-Z a-z 0-9 _ . -")] = Field(
        description="The backend's name, for logs."
    )
    key: Annotated[SecretStr, Secret(16)] = Field(
        description="Its bearer token, at least 16 characters; give it as ${NAME} or ${file:…}."
    )


class Server(Section):
    host: Annotated[str, Host()] = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 or :: behind a proxy or in a container."
    )
    port: Annotated[int, Whole(0, 65_535)] = Field(default=8770, description="Port to listen on; 0 takes any free one.")
    workers: Annotated[int, Whole(1, 64)] = Field(
        default=1,
        description="Processes on one port, one per core at most; more than 1 needs a shared cache such as redis.",
    )
    hosts: tuple[Annotated[str, Host()], ...] = Field(
        default=(), description="Names that a Host header may carry, without port; empty: the address it listens on."
    )
    origins: tuple[Annotated[str, Origin()], ...] = Field(
        default=(),
        description="Exact origins that browsers may come from, such as https://app.example.com; empty: the same host only.",
    )
    trusted_proxies: tuple[Annotated[Network, Cidr()], ...] = Field(
        default=(), description="CIDRs of proxies whose X-Forwarded-For counts; empty: none."
    )
    cookie: Annotated[str, Name(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", "a cookie's name (RFC 6265)")] | None = Field(
        default=None,
        description="Name of a session cookie to sign in with, such as directus_session_token; null: tokens in the first frame only.",
    )
    auth_timeout: Annotated[float, Duration(0.1, 300)] = Field(
        default=10.0, description="Within this the first frame must have signed in; longer for very slow networks."
    )
    ping_interval: Annotated[float, Duration(1, 600)] = Field(
        default=25.0,
        description="A silent socket is pinged this often; shorter where a proxy cuts idle connections sooner.",
    )
    drain: Annotated[float, Duration(0, 600)] = Field(
        default=15.0, description="Over this the sockets are closed on SIGTERM; below the grace time of what stops it."
    )
    metrics_port: Annotated[int, Whole(0, 65_535)] | None = Field(
        default=None, description="Port of /metrics; null: the same port, for loopback callers only."
    )
    service_keys: tuple[ServiceKey, ...] = Field(
        default=(),
        description='Backends that may use /v1, as [{name: assistant, key: "${ASSISTANT_KEY}"}]; empty: none.',
    )
    demo: Annotated[bool, Switch()] = Field(
        default=False, description="Serves /demo and /client.js; true in the embedded defaults, for trying it out only."
    )


class Slot(Section):
    """One of the four slots: exactly one plugin."""

    use: Use = Field(description="A built-in's short name, an entry point's name, or module:Class.")
    options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="The plugin's own settings, checked by the plugin."
    )
    timeout: Annotated[float, Duration(0.01, 600)] = Field(default=5.0, description="What one call of a hook may take.")
    grants: tuple[Annotated[Literal["plaintext"], Choice(("plaintext",))], ...] = Field(
        default=(), description="[plaintext] hands the plugin opened values."
    )


class Plugin(Slot):
    """One entry of `plugins:`."""

    name: PositionName | None = Field(default=None, description="Its position in the outbox; null: what `use` says.")
    on_failure: Annotated[Literal["refuse", "pass"], Choice(("refuse", "pass"))] = Field(
        default="refuse", description="What a failing before_… hook does to the change: refuse it or let it pass."
    )


class Ids(Section):
    pepper: Annotated[SecretStr, Secret(16)] | None = Field(
        default=None,
        description="Secret within the hash of user ids, from 16 characters; set it before the first use: another one makes everybody a new person.",
    )


class Drafts(Section):
    debounce: Annotated[float, Duration(0, 600)] = Field(
        default=2.0, description="A draft goes to the store this long after its last edit; longer spares the store."
    )
    max_debounce: Annotated[float, Duration(0, 3600)] = Field(
        default=10.0, description="And at most this long after its first edit that the store lacks; not below debounce."
    )
    max_bytes: Annotated[int, Size(KIB, 16 * MIB)] = Field(
        default=128 * KIB, description="Largest draft, as compact JSON."
    )
    max_depth: Annotated[int, Whole(2, 190)] = Field(
        default=64, description="Deepest nesting of a document, in objects and lists."
    )
    max_nodes: Annotated[int, Whole(1, 1_000_000)] = Field(
        default=20_000, description="Most nodes (objects) of a document."
    )
    conflicts: Annotated[Literal["copy", "discard"], Choice(("copy", "discard"))] = Field(
        default="copy",
        description="What clients do with a text that lost a conflict: copy keeps it for the person, discard drops it.",
    )


class Titles(Section):
    max_length: Annotated[int, Whole(1, 10_000)] = Field(default=500, description="Longest title, in characters.")


class Messages(Section):
    max_bytes: Annotated[int, Size(KIB, 16 * MIB)] = Field(
        default=128 * KIB, description="Largest message, as compact JSON."
    )


class Chats(Section):
    active: Annotated[int, Whole(1, 1000)] = Field(
        default=3,
        description="Chats of a person that the cache keeps with their messages; more where people switch between many.",
    )
    ttl: Annotated[float, Duration(1, 30 * 86_400)] = Field(
        default=1800.0,
        description="Life of a clean chat in the cache after its last use; longer costs memory, spares the store.",
    )
    draft_ttl: Annotated[float, Duration(1, 30 * 86_400)] = Field(
        default=1800.0,
        description="Life of a chat without a message after its last use while no device of its owner is connected.",
    )
    key_ttl: Annotated[float, Duration(1, 300)] = Field(
        default=300.0,
        description="How long a chat's key may stay in memory; at most 300s, shorter to feel a revoked key sooner.",
    )
    keys_cached: Annotated[int, Whole(1, 10_000_000)] = Field(default=50_000, description="Keys in memory at most.")


class Devices(Section):
    policy: Annotated[Literal["strict", "balanced", "off"], Choice(("strict", "balanced", "off"))] = Field(
        default="balanced",
        description="When a device must show its second factor again: strict at any difference, balanced at a weighty one, off never.",
    )
    unenrolled: Annotated[Literal["allow", "deny"], Choice(("allow", "deny"))] = Field(
        default="allow",
        description="A new device of a person without a second factor: allow (the other devices are told) or deny.",
    )
    max_per_user: Annotated[int, Whole(1, 1000)] = Field(
        default=10, description="Devices kept per person; the oldest unused one goes first."
    )
    country_database: Annotated[Path, FileName()] | None = Field(
        default=None, description="File of a GeoIP country database (mmdb); null: countries are not looked at."
    )


class Limits(Section):
    max_frame: Annotated[int, Size(4 * KIB, 64 * MIB)] = Field(
        default=256 * KIB, description="Largest frame from a client; above drafts.max_bytes and messages.max_bytes."
    )
    frames_per_second: Annotated[int, Whole(1, 100_000)] = Field(
        default=50, description="Frames that one socket may send in the long run."
    )
    burst: Annotated[int, Whole(1, 1_000_000)] = Field(
        default=200, description="Frames that one socket may send at once."
    )
    connections_per_user: Annotated[int, Whole(1, 100_000)] = Field(
        default=20, description="Sockets of one person, over all processes."
    )
    connections_per_address: Annotated[int, Whole(1, 1_000_000)] = Field(
        default=200, description="Sockets of one address (IPv6: one /64); more where many people share one."
    )
    draft_chats_per_user: Annotated[int, Whole(1, 100_000)] = Field(
        default=200, description="Chats without a message that a person may have."
    )
    bytes_per_user: Annotated[int, Size(64 * KIB, 16 * 1024 * MIB)] = Field(
        default=32 * MIB, description="What a person may have in the cache that cannot be evicted."
    )
    send_queue: Annotated[int, Size(64 * KIB, 1024 * MIB)] = Field(
        default=MIB,
        description="What may wait for a slow reader before its socket is closed; not below sync.max_frame.",
    )


class Sync(Section):
    recent: Annotated[int, Whole(1, 1000)] = Field(
        default=20, description="Most recent chats, which come first and with messages."
    )
    total: Annotated[int, Whole(1, 10_000)] = Field(
        default=1000, description="Chats of a full sync; older ones come on demand."
    )
    max_frame: Annotated[int, Size(64 * KIB, 64 * MIB)] = Field(
        default=MIB, description="Largest frame of a sync; messages are cut to fit."
    )
    events_kept: Annotated[int, Whole(100, 10_000_000)] = Field(
        default=10_000, description="Changes in a person's log; a device that missed more gets a full sync."
    )


class Logging(Section):
    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        Choice(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    ] = Field(default="INFO", description="What is logged at least.")
    format: Annotated[Literal["auto", "json", "console"], Choice(("auto", "json", "console"))] = Field(
        default="auto", description="json, console (colours), or auto: colours on a terminal, JSON elsewhere."
    )
