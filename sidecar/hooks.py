"""The hooks: every place where a plugin is asked or told something, and the only file that knows pluggy."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pluggy

from sidecar.documents import Document
from sidecar.ids import ChatId, UserHash
from sidecar.records import Author, ChatInDB, Deleted, MessageInDB, Page
from sidecar.slots.authenticator import Authenticator
from sidecar.slots.cache import Cache
from sidecar.slots.cipher import Cipher
from sidecar.slots.store import Store

hookspec = pluggy.HookspecMarker("sidecar")
hookimpl = pluggy.HookimplMarker("sidecar")


class Hooks:
    """An implementation names only the arguments it wants. Naming `plaintext` needs `grants: [plaintext]`."""

    @hookspec
    async def provide_auth(self) -> Authenticator: ...
    @hookspec
    async def provide_encryption(self) -> Cipher: ...
    @hookspec
    async def provide_cache(self) -> Cache: ...
    @hookspec
    async def provide_persistence(self) -> Store: ...
    @hookspec
    async def before_draft(
        self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document
    ) -> None: ...
    @hookspec
    async def before_message(
        self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document
    ) -> None: ...
    @hookspec
    async def on_draft(self, chat: ChatInDB, plaintext: Document | None) -> None: ...
    @hookspec
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document) -> None: ...
    @hookspec
    async def on_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document) -> None: ...
    @hookspec
    async def on_title(self, chat: ChatInDB, plaintext: str | None) -> None: ...
    @hookspec
    async def on_chat_deleted(self, chat: Deleted) -> None: ...
    @hookspec
    async def on_user_erased(self, user: UserHash) -> None: ...
    @hookspec
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]: ...


PHASES = ("provide_", "before_", "on_")
"""How the name of a hook begins. A plugin's method of such a name is taken for a hook that somebody forgot to mark."""

HOOKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(inspect.signature(function).parameters)[1:]
        for name, function in vars(Hooks).items()
        if name.startswith(PHASES)
    }
)
"""Every hook with its arguments, in the order of `Hooks`."""


def mark_of(function: object) -> Mapping[str, Any] | None:
    """What `@hookimpl` was told of this function; None where it does not stand above it."""
    mark = getattr(function, "sidecar_impl", None)
    return mark if isinstance(mark, dict) else None


@dataclass(frozen=True, slots=True)
class Implementation:
    """A plugin's method for one hook."""

    plugin: str
    method: Callable[..., Awaitable[object]]
    arguments: tuple[str, ...]
    """Those that the plugin named, in its own order; the method is called with them by position."""


class _PluginManager(pluggy.PluginManager):
    # pluggy tries every attribute of a plugin; older versions evaluate properties on the way.
    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        return super().parse_hookimpl_opts(plugin, name) if name in HOOKS else None


class Implementations:
    """The hooks of all plugins, each in the order of the YAML.

    The core never broadcasts through pluggy: that is last-in-first-out, unnamed, and one raise ends it.
    """

    def __init__(self, plugins: Sequence[tuple[str, object]]) -> None:
        """`plugins`: name and instance, in the order of the YAML; names are unique and the loader's rules were kept."""
        manager = _PluginManager("sidecar")
        manager.add_hookspecs(Hooks)
        for name, plugin in plugins:
            manager.register(plugin, name)
        manager.check_pending()
        self._of = {
            hook: tuple(
                Implementation(each.plugin_name, each.function, tuple(each.argnames))
                for each in getattr(manager.hook, hook).get_hookimpls()
            )
            for hook in HOOKS
        }

    def of_hook(self, hook: str) -> tuple[Implementation, ...]:
        """Who implements this hook, in the order of the YAML."""
        return self._of[hook]

    def of_plugin(self, name: str) -> Mapping[str, Implementation]:
        """What this plugin implements, by hook, in the order of `Hooks`."""
        return {
            hook: implementation
            for hook, implementations in self._of.items()
            for implementation in implementations
            if implementation.plugin == name
        }
