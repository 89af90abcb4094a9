"""The plugins as the core sees them: four slots, guards to ask, listeners to tell, lists to gather."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, cast

from sidecar.documents import Document
from sidecar.errors import ConfigError, Refused, SidecarError, StartRefused, Unavailable, WireError
from sidecar.hooks import HOOKS
from sidecar.ids import ChatId, UserHash
from sidecar.listeners import Listener
from sidecar.loaded_plugin import CallCount, LoadedPlugin, ask_all
from sidecar.records import Author, ChatInDB, Page
from sidecar.slots.authenticator import Authenticator
from sidecar.slots.cache import Cache
from sidecar.slots.cipher import Cipher
from sidecar.slots.store import Store
from sidecar.sync_pages import SyncAnswer

S = TypeVar("S")

_REASON = 200  # characters of a guard's reason that reach the client


@dataclass(frozen=True, slots=True)
class PluginDescription:
    """For `sidecar plugins`."""

    name: str
    use: str
    slot: str | None
    hooks: tuple[str, ...]
    """In the order of `sidecar.hooks.Hooks`."""
    grants: tuple[str, ...]
    timeout: float
    on_failure: str


class Plugins:
    """An async context manager: enters the plugins in order and leaves them in reverse. Made by `plugins_loading.load`.

    Before it is entered nothing was opened, no thread runs, and the slots are not there (`AssertionError`).
    """

    def __init__(self, plugins: Sequence[LoadedPlugin]) -> None:
        """`plugins`: the four slots' first, then those of `plugins:`, in the order of the YAML."""
        self._plugins = tuple(plugins)
        self._guards = {
            hook: tuple(plugin for plugin in self._plugins if hook in plugin.implementations)
            for hook in ("before_draft", "before_message")
        }
        self._listing = tuple(plugin for plugin in self._plugins if "on_sync" in plugin.implementations)
        self._stack = AsyncExitStack()
        self._slots: dict[str, object] = {}
        self.guards_drafts = bool(self._guards["before_draft"])
        """Whether `guard_draft` would ask anybody."""
        self.guards_messages = bool(self._guards["before_message"])
        self.listeners = tuple(Listener(plugin) for plugin in self._plugins if Listener.suits(plugin))
        """Everyone with a position in the outbox, in the order of the YAML."""

    async def __aenter__(self) -> Plugins:
        """Raises `StartRefused`, `Unavailable` or `ConfigError`; what was entered until then is left again."""
        async with AsyncExitStack() as stack:
            for plugin in self._plugins:
                await plugin.enter()
                stack.push_async_callback(plugin.leave)
                if plugin.entry.slot is not None:
                    self._slots[plugin.entry.slot] = await plugin.provide(f"provide_{plugin.entry.slot}")
            for slot, kind in (
                ("auth", Authenticator),
                ("encryption", Cipher),
                ("cache", Cache),
                ("persistence", Store),
            ):
                if not isinstance(self._slots.get(slot), kind):
                    given = type(self._slots.get(slot)).__name__
                    raise StartRefused(slot, f"provide_{slot} must return a sidecar.{kind.__name__}, not {given}")
            self._refuse_plaintext_end_to_end()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def cache_alone(self) -> AsyncIterator[Cache]:
        """The cache's plugin entered and no other: for what is done before the others can start. Errors as entering them all."""
        [plugin] = [plugin for plugin in self._plugins if plugin.entry.slot == "cache"]
        await plugin.enter()
        try:
            cache = await plugin.provide("provide_cache")
            if not isinstance(cache, Cache):
                raise StartRefused("cache", f"provide_cache must return a sidecar.Cache, not {type(cache).__name__}")
            yield cache
        finally:
            await plugin.leave()

    def _refuse_plaintext_end_to_end(self) -> None:
        # A guard that silently saw nothing would be worse than none.
        if self.cipher.end_to_end:
            problems = [
                plugin.entry.problem(
                    f"the plugin {plugin.name} is granted plaintext, and the cipher of `encryption:` seals in the client",
                    "take this plugin out, or use another cipher",
                    "grants",
                )
                for plugin in self._plugins
                if plugin.entry.grants
            ]
            if problems:
                raise ConfigError(problems)

    # -- slots ---------------------------------------------------------------------------------------------------------

    def _slot(self, name: str, kind: type[S]) -> S:
        slot = self._slots.get(name)
        if not isinstance(slot, kind):
            raise AssertionError(f"the slot {name} is there once the plugins were entered")
        return slot

    @property
    def auth(self) -> Authenticator:
        return self._slot("auth", Authenticator)  # type: ignore[type-abstract]

    @property
    def cipher(self) -> Cipher:
        return self._slot("encryption", Cipher)  # type: ignore[type-abstract]

    @property
    def cache(self) -> Cache:
        return self._slot("cache", Cache)

    @property
    def store(self) -> Store:
        return self._slot("persistence", Store)  # type: ignore[type-abstract]

    # -- guards --------------------------------------------------------------------------------------------------------

    async def guard_draft(self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document) -> None:
        """Asks every guard, in the order of the YAML. Raises `WireError` (`refused`; `details`: `plugin`, `reason`)."""
        await self._guard("before_draft", author, chat_id, chat, plaintext)

    async def guard_message(self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document) -> None:
        """As `guard_draft`."""
        await self._guard("before_message", author, chat_id, chat, plaintext)

    async def _guard(
        self, hook: str, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document
    ) -> None:
        values = {"author": author, "chat_id": chat_id, "chat": chat, "plaintext": plaintext}
        for plugin in self._guards[hook]:
            try:
                if (answer := await plugin.call(hook, values)) is not None:
                    # False, or a changed document: its author thinks that this says something, so it does not pass.
                    raise plugin.misanswered(hook, f"it returned {type(answer).__name__}, not None")
            except Refused as refusal:
                raise _refused(plugin.name, refusal.reason) from None
            except SidecarError:  # logged and counted by the call
                if plugin.entry.on_failure == "refuse":
                    raise _refused(plugin.name, "the guard failed") from None

    # -- lists ---------------------------------------------------------------------------------------------------------

    async def sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> SyncAnswer:
        """Asks every plugin with `on_sync` at once; a slot's answers under the name of the slot.

        Raises `Unavailable` when the one in the persistence slot did not answer.
        """
        values = {"user": user, "before": before, "limit": limit}
        answers = await ask_all(
            {plugin.entry.slot or plugin.name: _page(plugin, user, values) for plugin in self._listing}
        )
        pages: dict[str, Page[ChatInDB]] = {}
        failed = []
        for name, answer in answers.items():
            if not isinstance(answer, SidecarError):
                pages[name] = cast("Page[ChatInDB]", answer)
            elif name != "persistence":
                failed.append(name)
            else:
                raise (
                    answer if isinstance(answer, Unavailable) else Unavailable("persistence", "it could not list chats")
                )
        return SyncAnswer(pages, tuple(failed))

    # -- for operators -------------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> tuple[LoadedPlugin, ...]:
        """In the order in which they are entered."""
        return self._plugins

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they are entered."""
        return tuple(plugin.name for plugin in self._plugins)

    @property
    def files(self) -> Mapping[str, str]:
        """Which plugin a file belongs to, for the watchdog."""
        return {plugin.file: plugin.name for plugin in self._plugins if plugin.file is not None}

    def takes_notices(self, slot: str) -> bool:
        """Whether the plugin of this slot has a `notice`."""
        return any(plugin.entry.slot == slot and plugin.takes_notices for plugin in self._plugins)

    async def notice(self, slot: str, headers: Mapping[str, str], body: bytes) -> Sequence[object]:
        """What the slot's plugin makes of a notice. Raises `Unauthenticated`, `Refused`, `Unavailable`."""
        return await self._taking(slot).notice(headers, body)

    async def notice_id(self, slot: str, headers: Mapping[str, str], body: bytes) -> str | None:
        """What it says makes the notice this one and no other; None where it does not say. Raises `Unavailable`."""
        return await self._taking(slot).notice_id(headers, body)

    def _taking(self, slot: str) -> LoadedPlugin:
        return next(each for each in self._plugins if each.entry.slot == slot and each.takes_notices)

    async def state(self) -> Mapping[str, object]:
        """For `/readyz`: what each plugin says of itself, a slot's under the name of the slot. At most a second."""
        return await ask_all({plugin.entry.slot or plugin.name: plugin.state() for plugin in self._plugins})

    def describe(self) -> tuple[PluginDescription, ...]:
        """What is loaded; works before entering too."""
        return tuple(
            PluginDescription(
                plugin.name,
                plugin.entry.use,
                plugin.entry.slot,
                tuple(hook for hook in HOOKS if hook in plugin.implementations),
                plugin.entry.grants,
                plugin.entry.timeout,
                plugin.entry.on_failure,
            )
            for plugin in self._plugins
        )

    def counts(self) -> Mapping[tuple[str, str], CallCount]:
        """By plugin and hook, for metrics; as many as there are hooks of plugins, whatever happens."""
        return {(plugin.name, hook): count for plugin in self._plugins for hook, count in plugin.counts.items()}


async def _page(plugin: LoadedPlugin, user: UserHash, values: Mapping[str, object]) -> Page[ChatInDB]:
    page = await plugin.call("on_sync", values)
    if not isinstance(page, Page):
        raise plugin.misanswered("on_sync", f"it returned {type(page).__name__}, not Page")
    if not isinstance(page.items, list | tuple):  # a sequence of its own making would run its code here
        raise plugin.misanswered("on_sync", f"the items of its page are {type(page.items).__name__}, not list or tuple")
    items = tuple(page.items)
    if not all(isinstance(chat, ChatInDB) for chat in items):
        raise plugin.misanswered("on_sync", "its page holds something else than ChatInDB")
    if any(chat.hashed_user_id != user for chat in items):
        raise plugin.misanswered("on_sync", "its page holds a chat of another person")
    return Page(items, bool(page.more), int(page.total))


def _refused(plugin: str, reason: object) -> WireError:
    # Lone surrogates would not go through UTF-8.
    text = reason.encode(errors="replace").decode()[:_REASON] if isinstance(reason, str) else "refused"
    return WireError("refused", f"the plugin {plugin} refused this change", details={"plugin": plugin, "reason": text})
