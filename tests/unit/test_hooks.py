"""Each hook: who is asked or told, with what, in which order, and what its failure does."""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sidecar.changes import EntryKind
from sidecar.documents import Document
from sidecar.errors import ConfigError, StartRefused, Unavailable, Unstorable, WireError
from sidecar.hooks import HOOKS, Hooks, Implementations
from sidecar.listeners import Listener
from sidecar.plugin_call import PluginFailed
from sidecar.plugins import Plugins
from sidecar.records import Deleted, Page
from sidecar.slots.authenticator import Authenticator
from sidecar.slots.cache import Cache
from sidecar.slots.cipher import Cipher
from sidecar.slots.store import Store
from tests.plugins.loading import AUTHOR, CHAT, CHAT_ID, MESSAGE, NOW, TEXT, USER, instance, listed, loaded
from tests.plugins.misbehaving import SECRET

GONE = Deleted(USER, CHAT_ID, NOW)


def listener(plugins: Plugins, name: str) -> Listener:
    return next(each for each in plugins.listeners if each.name == name)


# -- slots -------------------------------------------------------------------------------------------------------------


async def test_hook_provide_auth() -> None:
    async with loaded() as plugins:
        assert isinstance(plugins.auth, Authenticator)


async def test_hook_provide_encryption() -> None:
    async with loaded() as plugins:
        assert isinstance(plugins.cipher, Cipher)


async def test_hook_provide_cache() -> None:
    async with loaded() as plugins:
        assert isinstance(plugins.cache, Cache)


async def test_hook_provide_persistence() -> None:
    plugins = loaded()
    with pytest.raises(AssertionError, match="once the plugins were entered"):
        _ = plugins.store
    async with plugins:
        assert isinstance(plugins.store, Store)


async def test_a_slot_must_be_of_its_kind() -> None:
    with pytest.raises(StartRefused, match=r"persistence: provide_persistence must return a sidecar\.Store, not str"):
        async with loaded(persistence="NotAStore"):
            pass


# -- guards ------------------------------------------------------------------------------------------------------------


async def test_hook_before_draft_asks_in_yaml_order_until_one_refuses(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    guards = [
        listed("listening:Recorder", name, options={"journal": journal, "word": name})
        for name in ("one", "two", "three")
    ]
    plugins = loaded(*guards)
    assert plugins.guards_drafts
    async with plugins:
        journal.write_text("")
        await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
        assert journal.read_text().split("\n")[:-1] == ["one asked", "two asked", "three asked"]
        journal.write_text("")
        with pytest.raises(WireError) as caught:
            await plugins.guard_draft(AUTHOR, CHAT_ID, None, Document(b'"forbidden"'))
        assert journal.read_text() == "one asked\n"
        assert caught.value.code == "refused"
        assert caught.value.details == {"plugin": "one", "reason": "one forbids it"}
        assert plugins.counts()["one", "before_draft"].refusals == 1
        assert plugins.counts()["one", "before_draft"].failures == 0


async def test_hook_before_message_gets_what_it_names() -> None:
    async with loaded(listed("listening:Recorder", "guard")) as plugins:
        assert plugins.guards_messages
        await plugins.guard_message(AUTHOR, CHAT_ID, CHAT, TEXT)
        assert instance(plugins, "guard").told == [("before_message", CHAT, TEXT)]


async def test_without_a_guard_nobody_is_asked() -> None:
    async with loaded(listed("listening:Titles", grants=())) as plugins:
        assert not plugins.guards_drafts
        assert not plugins.guards_messages
        await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
        await plugins.guard_message(AUTHOR, CHAT_ID, None, TEXT)


async def test_a_reason_is_cut_and_can_be_sent() -> None:
    async with loaded(listed("misbehaving:Misbehaving", "bad", options={"how": "refuses"})) as plugins:
        with pytest.raises(WireError) as caught:
            await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
        assert caught.value.details is not None
        reason = caught.value.details["reason"]
        assert len(reason) == 200
        reason.encode()


@pytest.mark.parametrize(
    "how", ["raises", "exits", "interrupts", "cancels", "stops", "hangs", "blocks", "returns", "pauses"]
)
async def test_t44_a_failing_guard_refuses_or_passes_as_the_yaml_says(how: str) -> None:
    """T44, S64: nothing that it does gets out, neither its text nor its kind of end."""
    options = {"how": how, "seconds": 0.6}
    refusing = listed("misbehaving:Misbehaving", "refusing", options=options, timeout=0.3)
    passing = replace(refusing, name="passing", on_failure="pass")
    with capture_logs() as logs:
        async with loaded(refusing) as plugins:
            with pytest.raises(WireError) as caught:
                await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
        async with loaded(passing, listed("listening:Recorder", "next")) as plugins:
            await plugins.guard_message(AUTHOR, CHAT_ID, None, TEXT)
            assert instance(plugins, "next").told == [("before_message", None, TEXT)]  # what comes after is still asked
            count = plugins.counts()["passing", "before_message"]
    assert caught.value.details == {"plugin": "refusing", "reason": "the guard failed"}
    assert caught.value.__cause__ is None
    assert (count.calls, count.failures) == (1, 1)
    assert count.timeouts == (1 if how in ("hangs", "blocks") else 0)
    assert SECRET not in str(logs) + str(caught.value)
    lines = [line for line in logs if line["event"] == "plugin failed"]
    assert [(line["plugin"], line["hook"]) for line in lines] == [
        ("refusing", "before_draft"),
        ("passing", "before_message"),
    ]
    if how == "raises":
        assert lines[0]["error"] == "ValueError"
        assert re.match(r".*misbehaving\.py:\d+ in _raises < ", lines[0]["at"])


async def test_the_same_failure_is_not_logged_again_and_again() -> None:
    with capture_logs() as logs:
        async with loaded(
            listed("misbehaving:Misbehaving", "bad", options={"how": "raises"}, on_failure="pass")
        ) as plugins:
            for _ in range(50):
                await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
            assert plugins.counts()["bad", "before_draft"].failures == 50
    assert len([line for line in logs if line["event"] == "plugin failed"]) == 1


# -- listeners ---------------------------------------------------------------------------------------------------------


async def test_hook_on_draft_names_its_arguments_in_any_order() -> None:
    async with loaded(listed("listening:Recorder", "search")) as plugins:
        await listener(plugins, "search").deliver_draft(CHAT, TEXT)
        await listener(plugins, "search").deliver_draft(CHAT, None)
        await listener(plugins, "persistence").deliver_draft(CHAT, None)
        assert instance(plugins, "search").told == [("on_draft", CHAT, TEXT), ("on_draft", CHAT, None)]
        assert instance(plugins, "persistence").told == [("on_draft", CHAT)]


async def test_hook_on_first_message_falls_back_to_on_message() -> None:
    async with loaded(listed("listening:Recorder", "search")) as plugins:
        for name in ("search", "persistence"):
            assert listener(plugins, name).handles("first_message")
            await listener(plugins, name).deliver_first_message(CHAT, MESSAGE, TEXT)
        assert instance(plugins, "search").told == [("on_message", MESSAGE, TEXT)]
        assert instance(plugins, "persistence").told == [("on_first_message", (CHAT, MESSAGE))]
        assert listener(plugins, "search").needs_plaintext("first_message")


async def test_hook_on_message() -> None:
    async with loaded() as plugins:
        await listener(plugins, "persistence").deliver_message(CHAT, MESSAGE, None)
        assert instance(plugins, "persistence").told == [("on_message", (CHAT, MESSAGE))]


async def test_hook_on_title() -> None:
    async with loaded(
        listed("listening:Recorder", "search"), listed("listening:Titles", "titles", grants=())
    ) as plugins:
        await listener(plugins, "search").deliver_title(CHAT, "Ünïcode")
        await listener(plugins, "titles").deliver_title(CHAT, None)
        assert instance(plugins, "search").told == [("on_title", CHAT, "Ünïcode")]
        assert instance(plugins, "titles").told == [CHAT]


async def test_hook_on_chat_deleted() -> None:
    async with loaded(listed("listening:Recorder", "search")) as plugins:
        await listener(plugins, "search").deliver_deleted(GONE)
        assert instance(plugins, "search").told == [("on_chat_deleted", GONE)]


async def test_hook_on_user_erased() -> None:
    async with loaded(listed("listening:Recorder", "search")) as plugins:
        await listener(plugins, "search").deliver_erased(USER)
        assert instance(plugins, "search").told == [("on_user_erased", USER)]


async def test_listeners_are_those_with_something_to_hear() -> None:
    plugins = loaded(listed("listening:Recorder", "search"), listed("listening:Titles", "titles", grants=()))
    assert [each.name for each in plugins.listeners] == [
        "persistence",
        "search",
        "titles",
    ]  # the cache has on_sync alone
    assert [each.wants_plaintext for each in plugins.listeners] == [False, True, False]
    kinds: tuple[EntryKind, ...] = ("draft", "title", "first_message", "message", "deleted", "erased")
    assert [[each.handles(kind) for kind in kinds] for each in plugins.listeners] == [
        [True] * 6,
        [True] * 6,
        [False, True, False, False, False, False],
    ]


async def test_a_kind_without_a_hook_is_passed_over() -> None:
    async with loaded(listed("listening:Titles", "titles", grants=())) as plugins:
        titles = listener(plugins, "titles")
        await titles.deliver_draft(CHAT, None)
        await titles.deliver_first_message(CHAT, MESSAGE, None)
        await titles.deliver_deleted(GONE)
        await titles.deliver_erased(USER)
        assert instance(plugins, "titles").told == []


async def test_what_a_listener_raises_says_what_to_do_with_the_entry() -> None:
    """Semantics §5: pause, park, or a try; S64."""
    cases = [("pauses", Unavailable), ("parks", Unstorable), ("raises", PluginFailed), ("exits", PluginFailed)]
    with capture_logs():
        for how, kind in cases:
            async with loaded(listed("misbehaving:Misbehaving", "bad", options={"how": how})) as plugins:
                with pytest.raises(kind) as caught:
                    await listener(plugins, "bad").deliver_message(CHAT, MESSAGE, TEXT)
                assert SECRET not in str(caught.value)
                if isinstance(caught.value, Unavailable):
                    assert caught.value.retry_after == 3.0


async def test_persistence_raises_as_any_listener_does() -> None:
    async with loaded(timeout=0.1) as plugins:
        store = instance(plugins, "persistence")
        with capture_logs() as logs:
            for error, kind in ((Unavailable("persistence"), Unavailable), (OSError(28, SECRET), PluginFailed)):
                store.error = error
                with pytest.raises(kind):
                    await listener(plugins, "persistence").deliver_title(CHAT, None)
            store.error = asyncio.CancelledError()
            with pytest.raises(PluginFailed, match="CancelledError"):
                await listener(plugins, "persistence").deliver_title(CHAT, None)
        assert SECRET not in str(logs)
        assert "OSError (No space left on device)" in str(logs)


# -- lists -------------------------------------------------------------------------------------------------------------


async def test_hook_on_sync_asks_everybody_and_names_who_failed() -> None:
    bad = listed("misbehaving:Misbehaving", "bad", options={"how": "hangs"}, timeout=0.1)
    async with loaded(listed("listening:Recorder", "search"), bad) as plugins:
        instance(plugins, "persistence").page = Page([CHAT], True, 7)
        with capture_logs():
            answer = await plugins.sync(USER, (NOW, CHAT_ID), 20)
        assert dict(answer.pages) == {
            "persistence": Page((CHAT,), True, 7),
            "cache": Page((), False, 0),
            "search": Page((), False, 0),
        }
        assert answer.failed == ("bad",)
        assert instance(plugins, "persistence").told == [("on_sync", (USER, (NOW, CHAT_ID), 20))]
        assert instance(plugins, "search").told == [("on_sync", USER, 20)]


@pytest.mark.parametrize("error", [Unavailable("persistence", "locked"), RuntimeError(SECRET)])
async def test_without_the_persistence_slot_a_list_fails(error: Exception) -> None:
    async with loaded() as plugins:
        instance(plugins, "persistence").error = error
        with capture_logs(), pytest.raises(Unavailable) as caught:
            await plugins.sync(USER, None, 20)
        assert caught.value.part == "persistence"
        assert SECRET not in str(caught.value)


async def test_a_failing_cache_is_named() -> None:
    async with loaded() as plugins:
        instance(plugins, plugins.names[2]).page = Unavailable("cache")
        with capture_logs():
            assert (await plugins.sync(USER, None, 20)).failed == ("cache",)


@pytest.mark.parametrize(
    "page",
    [
        None,
        [CHAT],
        Page("chats", False, 1),
        Page(["chat"], False, 1),
        Page([CHAT.model_copy(update={"hashed_user_id": "f" * 64})], False, 1),
    ],
)
async def test_a_page_that_is_none_is_a_failure(page: object) -> None:
    """A chat of another person must never get into a list."""
    async with loaded() as plugins:
        instance(plugins, "persistence").page = page
        with capture_logs(), pytest.raises(Unavailable):
            await plugins.sync(USER, None, 20)
        assert plugins.counts()["persistence", "on_sync"].failures == 1


async def test_a_page_of_another_persons_chats_from_a_listener_is_dropped() -> None:
    async with loaded(listed("misbehaving:Misbehaving", "bad", options={"how": "foreign"})) as plugins:
        with capture_logs():
            assert (await plugins.sync(USER, None, 20)).failed == ("bad",)


# -- life --------------------------------------------------------------------------------------------------------------


async def test_plugins_are_entered_in_order_and_left_in_reverse(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first, second = (
        listed("listening:Recorder", name, options={"journal": journal, "word": name}) for name in ("first", "second")
    )
    async with loaded(first, second):
        pass
    assert journal.read_text().split("\n")[:-1] == ["first entered", "second entered", "second left", "first left"]


async def test_a_start_that_fails_leaves_what_was_entered(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    good = listed("listening:Recorder", "good", options={"journal": journal, "word": "good"})
    with pytest.raises(StartRefused) as caught:
        async with loaded(good, listed("listening:BadStart", "bad", grants=())):
            pytest.fail("entered")
    assert journal.read_text().split("\n")[:-1] == ["good entered", "good left"]
    assert "hunter2" not in str(caught.value)
    assert re.match(
        r"plugin bad: entering it failed: RuntimeError at .*listening\.py:\d+ in __aenter__", str(caught.value)
    )


async def test_a_plugin_may_refuse_to_start_in_its_own_words() -> None:
    with pytest.raises(StartRefused, match="search: the index has another schema; run search migrate"):
        async with loaded(listed("listening:RefusesStart", "search", grants=())):
            pytest.fail("entered")


async def test_a_plugin_that_cannot_leave_holds_up_nobody(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    good = listed("listening:Recorder", "good", options={"journal": journal, "word": "good"})
    with capture_logs() as logs:
        async with loaded(good, listed("listening:BadEnd", "bad", grants=())):
            pass
    assert journal.read_text().endswith("good left\n")
    assert [(line["plugin"], line["hook"]) for line in logs] == [("bad", "__aexit__")]


async def test_plaintext_is_not_granted_with_an_end_to_end_cipher() -> None:
    """Semantics §8: a guard that silently saw nothing would be worse than none."""
    with pytest.raises(ConfigError) as caught:
        async with loaded(listed("listening:Recorder", "search"), encryption="EndToEnd"):
            pytest.fail("entered")
    assert [problem.path for problem in caught.value.problems] == ["plugins[0].grants"]
    async with loaded(listed("listening:Titles", "titles", grants=()), encryption="EndToEnd") as plugins:
        assert plugins.cipher.end_to_end


async def test_the_state_of_each_part() -> None:
    async with loaded(listed("listening:Recorder", "search")) as plugins:
        assert await plugins.state() == {
            "auth": "everybody is somebody",
            "encryption": "ok",
            "cache": "ok",
            "persistence": "ok",
            "search": {"told": 0},
        }


async def test_a_context_variable_of_the_caller_reaches_the_plugin() -> None:
    async with loaded(listed("listening:Recorder", "guard")) as plugins:
        sys.modules["listening"].WHO.set("connection 7")  # the module as the loader knows it, by its folder
        await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
        assert instance(plugins, "guard").told[-1][-1] == "connection 7"


def test_what_is_loaded_can_be_described_before_it_is_opened() -> None:
    described = loaded(listed("listening:Titles", "titles", grants=(), timeout=2.0)).describe()
    assert [(each.name, each.slot) for each in described] == [
        ("sample_slots:Auth", "auth"),
        ("sample_slots:Encryption", "encryption"),
        ("sample_slots:Caching", "cache"),
        ("persistence", "persistence"),
        ("titles", None),
    ]
    assert described[2].hooks == ("provide_cache", "on_sync")
    assert described[4].hooks == ("on_title",)
    assert (described[4].use, described[4].grants, described[4].timeout) == ("listening:Titles", (), 2.0)


# -- the specification -------------------------------------------------------------------------------------------------


def test_the_table_of_hooks_is_that_of_the_class() -> None:
    assert list(HOOKS) == [name for name in vars(Hooks) if not name.startswith("_")]
    assert HOOKS["before_draft"] == ("author", "chat_id", "chat", "plaintext")


def test_implementations_come_in_the_order_given() -> None:
    """pluggy itself would call the last one first."""
    from tests.plugins.listening import Titles

    plugins = [(name, Titles()) for name in ("b", "a", "c")]
    order = [each.plugin for each in Implementations(plugins).of_hook("on_title")]
    assert order == ["b", "a", "c"]


def test_only_hooks_py_knows_pluggy() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "sidecar").rglob("*.py"), *(root / "plugins").rglob("*.py")]
    assert [file.name for file in files if re.search(r"^\s*(import|from) pluggy", file.read_text(), re.MULTILINE)] == [
        "hooks.py"
    ]
