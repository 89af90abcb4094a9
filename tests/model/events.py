"""Events, and pages that were asked for: what comes to a client beside answers and syncs."""

from __future__ import annotations

from typing import Any

from tests.model.documents import token_of
from tests.model.held import Held
from tests.model.mirror import Mirror
from tests.model.reference import Broken
from tests.model.syncing import Sync


class Events:
    """What one client does with them."""

    def __init__(self, mirror: Mirror, sync: Sync) -> None:
        self.tab = mirror.tab
        self.mirror = mirror
        self.sync = sync

    def take(self, type_: str, payload: dict[str, Any]) -> None:
        """A frame that answers nothing."""
        tab, mirror = self.tab, self.mirror
        if type_ == "resync_required":
            self.sync.request(with_cursor=False)
            return
        if not tab.synced:
            return
        tab.advance(payload["cursor"])
        match type_:
            case "chat_added" | "chat_restored":
                mirror.response(payload["chat"], "none")
                chat = tab.chats.get(payload["chat"]["id"])
                if chat is not None and chat.incomplete:
                    tab.fetch(chat)
            case "chat_stored":
                chat = tab.chats.get(payload["chatId"])
                if chat is not None:
                    chat.draft.stored |= payload["version"] >= chat.draft.version
                    chat.title.stored |= payload["titleVersion"] >= chat.title.version
            case "chat_deleted":
                mirror.told_deleted(payload["chatId"])
            case "message_new":
                chat = mirror.heard(payload["message"]["chat_id"])
                if chat is not None:
                    self._count(chat, payload["messagesVersion"], type_)
                    mirror.message(chat, payload["message"])
            case _:
                chat = mirror.heard(payload["chatId"])
                if chat is not None:
                    self._of_chat(chat, type_, payload)

    def _of_chat(self, chat: Held, type_: str, payload: dict[str, Any]) -> None:
        take = self.mirror.take
        match type_:
            case "draft_updated":
                text, state = token_of(payload["content"]), payload["reason"]
                stored = payload["durability"] == "stored"
                take(chat, "draft", text, payload["version"], payload["op"], state, stored)
            case "title_updated":
                stored = payload["durability"] == "stored"
                take(chat, "title", payload["title"], payload["titleVersion"], payload["op"], "edited", stored)
            case "message_update":
                self._count(chat, payload["messagesVersion"], type_)
                self.mirror.status(chat, payload["messageId"], payload["status"])
            case _:
                raise Broken(f"an event that nobody expects: {type_}")

    @staticmethod
    def _count(chat: Held, version: int, what: str) -> None:
        if version <= chat.counted:
            raise Broken(f"{what} of {chat.id} says messages_version {version} after {chat.counted}")
        chat.counted = version
        chat.known = max(chat.known, version)

    # -- answers to questions ------------------------------------------------------------------------------------------

    def page(self, type_: str, re: str, payload: dict[str, Any], chat_id: str) -> None:
        """A page that was asked for: of this chat's messages, of this chat alone, or (empty) of the list of chats."""
        tab = self.tab
        chat = tab.chats.get(chat_id)
        if chat is not None and chat.page == re:
            chat.page = None
        if type_ == "error":
            if payload["code"] != "not_found":  # it was lost or deleted: a restore or an event follows
                tab.expect_unavailable(payload, "a page")
            if chat is not None:
                tab.rest(None, lambda: self._ask_once_more(chat))
            return
        if not tab.synced:
            return
        if type_ == "chats_page":
            for response in payload["chats"]:
                if response["id"] not in tab.dead:
                    self.mirror.response(response, "none")
                    if tab.chats[response["id"]].incomplete:
                        tab.fetch(tab.chats[response["id"]])
        elif type_ == "messages_page" and chat is not None:
            for message in payload["messages"]:
                self.mirror.message(chat, message)
            chat.incomplete = payload["hasMore"] and bool(payload["messages"])
            if chat.incomplete:
                tab.fetch(chat, payload["messages"][0]["id"])

    def _ask_once_more(self, chat: Held) -> None:
        tab = self.tab
        if chat.id in tab.chats and tab.synced:
            if chat.stub:
                tab.ask_for(chat)
            if chat.incomplete:
                tab.fetch(chat)
