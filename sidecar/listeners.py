"""A listener: a plugin with a position in the outbox, told of each settled change (semantics §5)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sidecar.changes import EntryKind
from sidecar.documents import Document
from sidecar.ids import UserHash
from sidecar.loaded_plugin import LoadedPlugin
from sidecar.records import ChatInDB, Deleted, MessageInDB

_HOOKS_OF: Mapping[EntryKind, tuple[str, ...]] = MappingProxyType(
    {
        "draft": ("on_draft",),
        "title": ("on_title",),
        "first_message": ("on_first_message", "on_message"),  # the first that the plugin has
        "message": ("on_message",),
        "deleted": ("on_chat_deleted",),
        "erased": ("on_user_erased",),
    }
)


class Listener:
    """Tells one plugin. A kind that it does not handle is passed over in silence.

    Every `deliver_…` returns when the plugin is done, and raises `Unavailable` (pause it, count no try), `Unstorable` (park at
    once), or `PluginFailed` (a try; a timeout too). `plaintext` may be None for a plugin that does not name it.
    """

    def __init__(self, plugin: LoadedPlugin) -> None:
        self._plugin = plugin
        self.name = plugin.name
        """Its position in the outbox."""

    @staticmethod
    def suits(plugin: LoadedPlugin) -> bool:
        """Whether this plugin is told anything."""
        return any(hook in plugin.implementations for hooks in _HOOKS_OF.values() for hook in hooks)

    @property
    def wants_plaintext(self) -> bool:
        """Whether any of its hooks names `plaintext`."""
        return any(self.needs_plaintext(kind) for kind in _HOOKS_OF)

    def handles(self, kind: EntryKind) -> bool:
        """Whether the plugin has a hook for this kind of entry."""
        return self._hook(kind) is not None

    def needs_plaintext(self, kind: EntryKind) -> bool:
        """Whether its hook for this kind names `plaintext`; otherwise nothing need be opened for it."""
        hook = self._hook(kind)
        return hook is not None and "plaintext" in self._plugin.implementations[hook].arguments

    async def deliver_draft(self, chat: ChatInDB, plaintext: Document | None) -> None:
        await self._deliver("draft", {"chat": chat, "plaintext": plaintext})

    async def deliver_first_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document | None) -> None:
        """By `on_message` to a plugin without `on_first_message`."""
        await self._deliver("first_message", {"chat": chat, "message": message, "plaintext": plaintext})

    async def deliver_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document | None) -> None:
        await self._deliver("message", {"chat": chat, "message": message, "plaintext": plaintext})

    async def deliver_title(self, chat: ChatInDB, plaintext: str | None) -> None:
        await self._deliver("title", {"chat": chat, "plaintext": plaintext})

    async def deliver_deleted(self, chat: Deleted) -> None:
        await self._deliver("deleted", {"chat": chat})

    async def deliver_erased(self, user: UserHash) -> None:
        await self._deliver("erased", {"user": user})

    def _hook(self, kind: EntryKind) -> str | None:
        return next((hook for hook in _HOOKS_OF[kind] if hook in self._plugin.implementations), None)

    async def _deliver(self, kind: EntryKind, values: Mapping[str, object]) -> None:
        if (hook := self._hook(kind)) is not None:
            await self._plugin.call(hook, values)
