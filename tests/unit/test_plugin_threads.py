"""Plugins on threads of their own, and the watchdog over the main loop: what misbehaves harms nobody (T44, S64)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sidecar.documents import Document
from sidecar.errors import Unavailable, WireError
from sidecar.plugin_call import CallTimeout, PluginFailed, call_here
from sidecar.plugin_thread import PluginThread, ThreadStuck
from sidecar.plugins import Plugins
from sidecar.watchdog import Watchdog
from tests.plugins.loading import AUTHOR, CHAT, CHAT_ID, TEXT, USER, instance, listed, loaded
from tests.plugins.misbehaving import SECRET

ROOT = Path(__file__).parents[2]


def misbehaving(how: str) -> Plugins:
    """A plugin that blocks, spins or clings for 20 s unless it is released, and a good one."""
    return loaded(
        listed("misbehaving:Misbehaving", "bad", options={"how": how, "seconds": 20.0}, timeout=0.25),
        listed("listening:Recorder", "good"),
    )


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - another thread makes it happen
            await asyncio.sleep(0.01)


async def good_one_works(plugins: Plugins) -> None:
    good = next(each for each in plugins.listeners if each.name == "good")
    before = len(instance(plugins, "good").told)
    await good.deliver_draft(CHAT, TEXT)
    assert len(instance(plugins, "good").told) == before + 1


async def delivered(plugins: Plugins) -> None:
    await next(each for each in plugins.listeners if each.name == "bad").deliver_draft(CHAT, TEXT)


async def test_entries_of_plugins_live_on_threads_of_their_own_and_slots_on_ours() -> None:
    async with loaded(listed("listening:Recorder", "one"), listed("listening:Recorder", "two")) as plugins:
        for name in ("one", "two"):
            await next(each for each in plugins.listeners if each.name == name).deliver_draft(CHAT, TEXT)
        await plugins.state()
        one, two = instance(plugins, "one").threads, instance(plugins, "two").threads
    assert len(one) == len(two) == 1  # entered, called, asked, left: always there
    assert one != two
    assert threading.get_ident() not in one | two
    assert instance(plugins, "one").life == ["entered", "left"]


@pytest.mark.parametrize("how", ["blocks", "spins"])
async def test_s64_t44_a_hook_that_blocks_or_spins_times_out_and_the_loop_goes_on(how: str) -> None:
    async with misbehaving(how) as plugins:
        bad = instance(plugins, "bad")
        with capture_logs():
            with pytest.raises(PluginFailed, match="timeout"):
                await delivered(plugins)
            assert bad.ended == 0  # the caller did not wait for the plugin to let go
            await good_one_works(plugins)
            await asyncio.sleep(0.3)
            # While it is still stuck, calls fail at once and count no try.
            with pytest.raises(Unavailable, match="has not answered for"):
                await delivered(plugins)
            assert bad.calls == 1
            bad.how = ""
            bad.release.set()
            await until(lambda: bad.ended)
            await asyncio.sleep(0.05)
            await delivered(plugins)  # and once it answers again, it is called again
        counts = plugins.counts()["bad", "on_draft"]
        assert (counts.calls, counts.failures, counts.timeouts) == (3, 2, 1)


async def test_a_blocked_plugin_does_not_hold_the_main_loop() -> None:
    async with misbehaving("blocks") as plugins:
        with capture_logs():
            call = asyncio.create_task(delivered(plugins))
            rounds = 0
            while not call.done():
                rounds += 1
                await asyncio.sleep(0.005)
            with pytest.raises(PluginFailed):
                await call
        assert instance(plugins, "bad").ended == 0  # the loop came round all the time while the plugin slept
        assert rounds > 3
        instance(plugins, "bad").release.set()


async def test_s64_t44_a_hook_that_hangs_is_cancelled_where_it_hangs() -> None:
    async with misbehaving("hangs") as plugins:
        bad = instance(plugins, "bad")
        with capture_logs(), pytest.raises(PluginFailed, match="timeout"):
            await delivered(plugins)
        await good_one_works(plugins)
        await until(lambda: bad.cancelled == 1)
        bad.how = ""
        await delivered(plugins)


async def test_t44_a_hook_that_clings_to_its_life_is_left_to_it() -> None:
    async with misbehaving("clings") as plugins:
        bad = instance(plugins, "bad")
        with capture_logs():
            with pytest.raises(PluginFailed, match="timeout"):
                await delivered(plugins)
            bad.how = ""
            await until(lambda: bad.cancelled >= 1)
            await delivered(plugins)  # its loop still turns, so the next call goes through
        bad.seconds = 0.0


async def test_a_guard_on_a_blocked_thread_is_refused_at_once() -> None:
    async with misbehaving("blocks") as plugins:
        with capture_logs():
            with pytest.raises(WireError):
                await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
            await asyncio.sleep(0.55)
            with pytest.raises(WireError) as caught:
                await plugins.guard_draft(AUTHOR, CHAT_ID, None, TEXT)
            assert caught.value.details == {"plugin": "bad", "reason": "the guard failed"}
            assert instance(plugins, "bad").calls == 1
            state = (await plugins.state())["bad"]
            assert isinstance(state, dict)
            assert state["ok"] is False
        instance(plugins, "bad").release.set()


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("raises", "ValueError"),
        ("exits", "SystemExit"),
        ("interrupts", "KeyboardInterrupt"),
        ("cancels", "CancelledError"),
        ("stops", "GeneratorExit"),
        ("spawns", ""),
    ],
)
async def test_s64_t44_whatever_a_hook_raises_its_thread_and_ours_live_on(how: str, kind: str) -> None:
    async with misbehaving(how) as plugins:
        with capture_logs() as logs:
            for _ in range(2):
                if how == "spawns":  # the task that it leaves behind fails, not the hook
                    await delivered(plugins)
                    continue
                with pytest.raises(PluginFailed) as caught:
                    await delivered(plugins)
                assert caught.value.kind == kind
            await good_one_works(plugins)
        assert SECRET not in str(logs)
        assert logs
        assert instance(plugins, "bad").calls == 2


async def test_t44_a_hook_that_changes_its_arguments_changes_its_own_copies() -> None:
    text = Document(b'{"type":"doc","content":[{"type":"paragraph"}]}')
    chat = CHAT.model_copy()
    async with misbehaving("mutates") as plugins:
        await plugins.guard_draft(AUTHOR, CHAT_ID, chat, text)
        await next(each for each in plugins.listeners if each.name == "bad").deliver_draft(chat, text)
        assert [told[2] for told in instance(plugins, "good").told] == [text]
    assert text.raw == b'{"type":"doc","content":[{"type":"paragraph"}]}'
    assert chat == CHAT
    assert chat.version == 3
    assert AUTHOR.user == USER


async def test_calls_do_not_pile_up_behind_a_plugin_that_never_ends_them() -> None:
    async with PluginThread("slow", most=3) as thread:
        never = asyncio.Event().wait
        calls = [asyncio.create_task(thread.call(never, None)) for _ in range(3)]
        await asyncio.sleep(0.02)
        answer = await thread.call(never, None)
        assert isinstance(answer.error, ThreadStuck)
        assert "3 of its calls have not ended" in str(answer.error)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await asyncio.sleep(0.05)

        async def seven() -> int:
            return 7

        assert (await thread.call(seven, 1.0)).value == 7


async def test_a_caller_that_is_cancelled_takes_its_call_along() -> None:
    async with PluginThread("slow") as thread:
        ended = threading.Event()

        async def hang() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        call = asyncio.create_task(thread.call(hang, 60.0))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(ended.wait, 2.0)


async def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async with PluginThread("busy") as thread:

        async def echo(number: int) -> int:
            await asyncio.sleep(0.001 * (number % 7))
            return number

        answers = await asyncio.gather(*(thread.call(partial(echo, number), 5.0) for number in range(200)))
        assert [answer.value for answer in answers] == list(range(200))


async def test_leaving_a_stuck_thread_is_bounded() -> None:
    thread = PluginThread("stuck", leave_seconds=0.2)
    release = threading.Event()

    async def block() -> None:
        release.wait(5)

    with capture_logs() as logs:
        async with thread:
            assert isinstance((await thread.call(block, 0.05)).error, CallTimeout)
        assert not release.is_set()  # left while it was still stuck
    release.set()
    assert [line["event"] for line in logs] == ["plugin thread left behind"]
    assert isinstance((await thread.call(block, 0.05)).error, ThreadStuck)


def test_a_spinning_plugin_does_not_hold_up_the_exit() -> None:
    program = """
        import asyncio
        from sidecar.plugin_thread import PluginThread

        async def spin():
            while True:
                pass

        async def main():
            async with PluginThread("spins", leave_seconds=0.1) as thread:
                print(type((await thread.call(spin, 0.1)).error).__name__)

        asyncio.run(main())
        print("left")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert (run.returncode, lines[0], lines[-1]) == (0, "CallTimeout", "left"), run.stderr


async def test_a_call_on_the_main_loop_tells_its_own_end_from_the_callers() -> None:
    async def cancels() -> None:
        raise asyncio.CancelledError

    async def own_timeout() -> None:
        raise TimeoutError

    async def hangs() -> None:
        await asyncio.Event().wait()

    assert isinstance((await call_here(cancels, 1.0)).error, asyncio.CancelledError)
    assert isinstance((await call_here(own_timeout, 1.0)).error, TimeoutError)
    assert isinstance((await call_here(hangs, 0.02)).error, CallTimeout)
    caller = asyncio.create_task(call_here(hangs, 60.0))
    await asyncio.sleep(0.01)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


# -- the watchdog ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    files = {str(ROOT / "tests" / "plugins" / "misbehaving.py"): "persistence", __file__: "this test"}
    async with Watchdog(files, patience=0.2, again=0.5, interval=0.05) as dog:
        yield dog


async def test_f39_the_watchdog_names_what_blocks_the_loop(watchdog: Watchdog) -> None:
    word = SECRET
    with capture_logs() as logs:
        await asyncio.sleep(0.1)
        time.sleep(0.45)
        assert watchdog.loop_blocked_for() > 0.2
        await asyncio.sleep(0.1)
        assert watchdog.loop_blocked_for() < 0.2
    assert len(logs) == 1
    assert logs[0]["plugin"] == "this test"
    assert "test_plugin_threads.py:" in logs[0]["at"].split(" < ")[0]
    assert "in test_f39_the_watchdog_names_what_blocks_the_loop" in logs[0]["at"]
    assert word not in str(logs)  # a local of a frame on the stack


async def test_f39_the_watchdog_repeats_itself_seldom() -> None:
    with capture_logs() as logs:
        async with Watchdog(patience=0.1, again=60.0, interval=0.03):
            for _ in range(3):
                await asyncio.sleep(0.06)
                time.sleep(0.25)
    assert len(logs) == 1
    assert logs[0]["plugin"] is None


async def test_a_loop_that_answers_is_left_alone(watchdog: Watchdog) -> None:
    with capture_logs() as logs:
        await asyncio.sleep(0.4)
    assert logs == []
