"""What no key can tell alone: values that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.config.model import Config
from sidecar.config.places import KeyPath
from sidecar.config.values import write_duration, write_size

Finding = tuple[KeyPath, str, str, *tuple[KeyPath, ...]]
"""Path, what is wrong, what to write instead, and the other keys that it comes from: one of them may be the one that was set."""

_ENVELOPE = 4 * 1024
"""Room in a frame for what stands around the text."""
_MEMORY = frozenset({"memory", "cache.memory", "plugins.cache.memory:Memory"})


def contradictions(config: Config) -> Iterator[Finding]:
    """Everything that contradicts, each under the key that is best changed."""
    yield from _times_and_sizes(config)
    yield from _server(config)
    yield from _names(config)


def _times_and_sizes(config: Config) -> Iterator[Finding]:
    drafts, messages, limits, sync = config.drafts, config.messages, config.limits, config.sync
    if drafts.max_debounce < drafts.debounce:
        yield (
            ("drafts", "max_debounce"),
            "is shorter than drafts.debounce",
            f"write {write_duration(drafts.debounce)} or longer, or shorten drafts.debounce",
            ("drafts", "debounce"),
        )
    texts: tuple[KeyPath, KeyPath] = (("drafts", "max_bytes"), ("messages", "max_bytes"))
    largest = max(drafts.max_bytes, messages.max_bytes)
    if limits.max_frame < largest + _ENVELOPE:
        yield (
            ("limits", "max_frame"),
            "is too small for a frame with the largest draft or message",
            f"write {write_size(largest + _ENVELOPE)} or more, or lower drafts.max_bytes and messages.max_bytes",
            *texts,
        )
    needed = drafts.max_bytes + messages.max_bytes + 4 * config.titles.max_length + _ENVELOPE
    if sync.max_frame < needed:
        yield (
            ("sync", "max_frame"),
            "is too small for a chat with the largest draft and one largest message",
            f"write {write_size(needed)} or more, or lower drafts.max_bytes and messages.max_bytes",
            *texts,
            ("titles", "max_length"),
        )
    if limits.send_queue < sync.max_frame:
        yield (
            ("limits", "send_queue"),
            "is smaller than sync.max_frame, so that a sync could never be sent",
            f"write {write_size(sync.max_frame)} or more",
            ("sync", "max_frame"),
        )
    if limits.bytes_per_user < 2 * largest:
        yield (
            ("limits", "bytes_per_user"),
            "is too small for one person with a largest draft and message",
            f"write {write_size(2 * largest)} or more",
            *texts,
        )
    if sync.recent > sync.total:
        yield (
            ("sync", "recent"),
            "is more than sync.total",
            f"write at most {sync.total}, or raise sync.total",
            ("sync", "total"),
        )


def _server(config: Config) -> Iterator[Finding]:
    server = config.server
    if server.workers > 1 and config.cache.use in _MEMORY:
        yield (
            ("server", "workers"),
            "several processes need a cache that they share, and cache.use is memory",
            "write workers: 1, or use a shared cache such as redis",
            ("cache", "use"),
        )
    if server.metrics_port is not None and server.metrics_port == server.port != 0:
        yield (
            ("server", "metrics_port"),
            "is the port that server.port has already",
            "write another port, or null to serve /metrics on the same port",
            ("server", "port"),
        )
    for what in ("name", "key"):
        seen: dict[str, int] = {}
        for number, key in enumerate(server.service_keys):
            value = key.name if what == "name" else key.key.get_secret_value()
            if value in seen:
                yield (
                    ("server", "service_keys", number, what),
                    f"is the same as that of server.service_keys[{seen[value]}]",
                    f"give each backend a {what} of its own",
                )
            seen.setdefault(value, number)


def _names(config: Config) -> Iterator[Finding]:
    taken: dict[str, str] = {}
    for entry in config.plugin_entries():
        if entry.known_as in taken:
            number = int(entry.path.removeprefix("plugins[").removesuffix("]"))
            named = config.plugins[number].name is not None
            yield (
                ("plugins", number, "name") if named else ("plugins", number),
                f"`{entry.known_as}` is already the name of {taken[entry.known_as]}",
                "give it a name of its own with `name:`",
            )
        taken.setdefault(entry.known_as, entry.path)
