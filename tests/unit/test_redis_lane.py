"""One connection to Redis and the calls that share it: order, refusals, deadlines, whose answer is whose (F3, F4, F6, F11)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import MovedError, RedisError, ResponseError

from plugins.cache import redis_lane
from plugins.cache.redis_calls import NIL, Redirected
from plugins.cache.redis_lane import Lane
from plugins.cache.redis_refusals import refusal
from plugins.cache.redis_wire import Wire
from sidecar import Unavailable
from tests.services.fake_wire import SCRIPT, Server, ask, call, lane, parsed, refused, server
from tests.services.redis_proxy import ERRORS

__all__ = ["lane", "server"]


async def test_calls_of_one_moment_are_one_pipeline_in_their_order(server: Server, lane: Lane) -> None:
    texts = [b"%d" % number for number in range(300)]
    assert await ask(lane, *texts) == texts
    assert server.said() == texts
    assert server.pipelines == 2, "so many fit one pipeline"
    assert (lane.health.calls, lane.health.batches, lane.health.largest, lane.health.connects) == (300, 2, 256, 1)
    assert server.commands[0] == [b"EVALSHA", SCRIPT.sha, b"1", b"key", b"0"]


async def test_calls_that_come_during_a_pipeline_leave_with_the_next(server: Server, lane: Lane) -> None:
    server.hold.clear()
    first = asyncio.ensure_future(lane(call(b"first")))
    await asyncio.sleep(0.01)
    assert lane.busy
    later = [asyncio.ensure_future(lane(call(b"%d" % number))) for number in range(3)]
    await asyncio.sleep(0.01)
    assert (server.pipelines, lane.waiting) == (1, 4)
    server.hold.set()
    assert await asyncio.gather(first, *later) == [b"first", b"0", b"1", b"2"]
    assert (server.pipelines, lane.waiting, lane.busy) == (2, 0, False)


async def test_a_cancelled_call_never_gets_anothers_answer_nor_another_its(server: Server, lane: Lane) -> None:
    """Whether it had left or was still waiting."""
    server.hold.clear()
    left = [asyncio.ensure_future(lane(call(text))) for text in (b"a", b"b", b"c")]
    await asyncio.sleep(0.01)
    waits = [asyncio.ensure_future(lane(call(text))) for text in (b"d", b"e", b"f")]
    await asyncio.sleep(0.01)
    left[1].cancel()
    waits[0].cancel()
    await asyncio.sleep(0.01)
    server.hold.set()
    answers = await asyncio.gather(*left, *waits, return_exceptions=True)
    assert [answer for answer in answers if not isinstance(answer, asyncio.CancelledError)] == [b"a", b"c", b"e", b"f"]
    assert server.said() == [b"a", b"b", b"c", b"e", b"f"], "who had not left does not leave any more"
    assert await ask(lane, b"g") == [b"g"]


async def test_the_loops_end_leaves_no_answer_for_the_next(server: Server, lane: Lane) -> None:
    """The task that waits for the answers is cancelled: the connection goes with them."""
    server.hold.clear()
    asking = asyncio.ensure_future(lane(call(b"a")))
    await asyncio.sleep(0.01)
    [task] = [each for each in asyncio.all_tasks() if "_send_on" in repr(each.get_coro())]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    server.hold.set()
    assert await ask(lane, b"b") == [b"b"]
    assert [connection.lost for connection in server.connections] == [True, False]


async def test_nil_is_an_answer(server: Server, lane: Lane) -> None:
    server.special[b"x"] = None
    assert await ask(lane, b"x", b"y") == [NIL, b"y"]


async def test_a_script_that_the_server_does_not_know_comes_along(server: Server, lane: Lane) -> None:
    """F11: after a failover, SCRIPT FLUSH or a restart, in the same round; nobody notices."""
    server.known = False
    assert await ask(lane, b"a", b"b") == [b"a", b"b"]
    assert [command[:2] for command in server.commands] == [
        [b"EVALSHA", SCRIPT.sha],
        [b"EVALSHA", SCRIPT.sha],
        [b"EVAL", SCRIPT.text],
        [b"EVAL", SCRIPT.text],
    ]
    assert len(server.connections) == 1


async def test_each_refusal_is_its_own_calls(server: Server, lane: Lane) -> None:
    server.special[b"full"] = parsed(ERRORS["OOM"])
    server.special[b"moved"] = moved = MovedError("1 127.0.0.1:7000")
    answers = await ask(lane, b"first", b"full", b"moved", b"last")
    first, full, elsewhere, last = answers
    assert [first, last] == [b"first", b"last"]
    assert "maxmemory" in refused(full)
    assert isinstance(elsewhere, Redirected)
    assert elsewhere.error is moved
    assert (len(server.connections), lane.health.trouble) == (1, "")


def _says(text: str) -> Unavailable:
    error = parsed(text)
    assert isinstance(error, ResponseError)
    return refusal(error)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ERRORS["OOM"], "maxmemory"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: ab, on @user_script:1.", "maxmemory"),
        ("ERR Error running script: @user_script: 3: -OOM command not allowed", "maxmemory"),
        (ERRORS["MISCONF"], "cannot save"),
        (ERRORS["BUSY"], "busy with a script"),
        (ERRORS["CLUSTERDOWN"], "does not cover every slot"),
        (ERRORS["MASTERDOWN"], "lost its primary"),
        (ERRORS["NOREPLICAS"], "too few replicas"),
        ("UNKILLABLE Sorry the script already executed write commands against the dataset.", "busy with a script"),
        ("NOPERM User sidecar has no permissions to run the 'eval' command", "docs/redis.md"),
        ("NOPERM this user has no permissions to access one of the keys: person script: ab", "docs/redis.md"),
    ],
)
def test_f11_what_redis_says_is_told_in_words_for_an_operator(answer: str, says: str) -> None:
    told = _says(answer)
    assert says in told.reason
    assert told.retry_after


def test_f11_what_nobody_expected_tells_nothing_of_what_was_sent() -> None:
    told = _says("ERR user_script:3: the person wrote: secret")
    assert told.reason == "Redis refused a call (ResponseError)"


async def test_f11_loading_and_a_replica_are_waited_out(server: Server, lane: Lane) -> None:
    """F11: a server that loads its data is not asked twice; one that became a replica is asked for anew."""
    server.once[b"a"] = parsed(ERRORS["LOADING"])
    assert [refused(answer) for answer in await ask(lane, b"a", b"b")] == ["Redis is loading its data"] * 2
    assert await ask(lane, b"a") == [b"a"]
    assert len(server.connections) == 2
    server.once[b"a"] = parsed(ERRORS["READONLY"])
    answers = await ask(lane, b"a", b"b")
    assert "replica" in refused(answers[0])
    assert answers[1] == b"b"
    assert await ask(lane, b"a") == [b"a"]
    assert len(server.connections) == 3


async def test_f6_a_connection_that_broke_is_asked_once_more_for_what_was_not_answered(
    server: Server, lane: Lane
) -> None:
    """F6: what was answered before is kept, and not asked for again."""
    await ask(lane, b"warm")
    server.commands.clear()
    server.once[b"c"] = Broken("reset")
    assert await ask(lane, b"a", b"b", b"c", b"d") == [b"a", b"b", b"c", b"d"]
    assert server.said() == [b"a", b"b", b"c", b"d", b"c", b"d"]
    server.special[b"c"] = Broken("reset again")
    answers = await ask(lane, b"a", b"c", b"d")
    assert answers[0] == b"a"
    assert [refused(answer) for answer in answers[1:]] == ["reset again"] * 2
    assert lane.health.trouble == "reset again"


async def test_a_new_connection_that_breaks_is_not_tried_a_second_time(server: Server, lane: Lane) -> None:
    server.special[b"a"] = Broken("reset")
    assert [refused(answer) for answer in await ask(lane, b"a", b"b")] == ["reset"] * 2
    assert server.said() == [b"a", b"b"]


async def test_f3_a_server_that_does_not_answer_is_not_asked_twice(server: Server) -> None:
    """F3: the call is refused after its time, the connection is given up, and what comes late is nobody's."""
    lane = Lane(server.connect, 0.05)
    await ask(lane, b"warm")
    server.hold.clear()
    assert [refused(each) for each in await ask(lane, b"a", b"b")] == ["Redis did not answer in time"] * 2
    server.hold.set()
    assert await ask(lane, b"c") == [b"c"]
    assert server.said() == [b"warm", b"a", b"b", b"c"]
    assert [connection.lost for connection in server.connections] == [True, False]


async def test_f3_a_call_whose_time_is_over_before_it_could_leave_does_not_leave(server: Server, lane: Lane) -> None:
    server.hold.clear()
    first = asyncio.ensure_future(lane(call(b"first")))
    await asyncio.sleep(0.01)
    late = asyncio.ensure_future(lane(call(b"late", seconds=0.02)))
    patient = asyncio.ensure_future(lane(call(b"patient")))
    await asyncio.sleep(0.05)
    server.hold.set()
    assert [await first, await patient] == [b"first", b"patient"]
    with pytest.raises(Unavailable, match="did not answer in time"):
        await late
    assert server.said() == [b"first", b"patient"]


async def test_f4_the_queue_is_bounded(server: Server, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """F4: one more is refused at once, and those that wait are served."""
    monkeypatch.setattr(redis_lane, "_WAITING", 5)
    server.hold.clear()
    waiting = [asyncio.ensure_future(lane(call(b"%d" % number))) for number in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many calls"):
        await lane(call(b"one more"))
    server.hold.set()
    assert await asyncio.gather(*waiting) == [b"0", b"1", b"2", b"3", b"4"]
    assert await ask(lane, b"now") == [b"now"]


async def test_f5_a_server_that_cannot_be_reached_is_left_alone_for_a_while(server: Server, lane: Lane) -> None:
    """F5: calls are refused at once meanwhile, with the time after which to come again; pauses grow up to a second."""
    server.refusing = ConnectionRefusedError(111, "Connection refused")
    pauses: list[float] = []
    for attempt in range(1, 8):
        [answer] = await ask(lane, b"a")
        assert "refused" in refused(answer)
        assert lane.health.connects == attempt
        pauses.append(answer.retry_after)
        [at_once] = await ask(lane, b"b")
        assert refused(at_once) == refused(answer)
        assert lane.health.connects == attempt, "not tried again"
        assert 0 < at_once.retry_after <= answer.retry_after
        lane._not_before = 0.0
    assert pauses[0] <= 0.1
    assert 0.5 <= pauses[-1] <= 1.0
    server.refusing = None
    assert await ask(lane, b"a") == [b"a"]
    assert lane.health.trouble == ""
    assert lane._pauses == 0


@pytest.mark.parametrize(
    "error",
    [parsed("WRONGPASS invalid username-password pair"), RedisError("no route"), TimeoutError()],
)
async def test_whatever_a_connection_begins_with_is_told(server: Server, lane: Lane, error: Exception) -> None:
    server.refusing = error
    [answer] = await ask(lane, b"a")
    assert refused(answer) in (
        "Redis refuses this user or password; see cache.options.url",
        "no route",
        "Redis did not answer in time",
    )


async def test_after_an_ask_each_call_has_its_own_answer(server: Server, lane: Lane) -> None:
    """ASKING goes before the call, and its answer is nobody's."""
    server.special[b"ASKING"] = b"OK"
    answers = await asyncio.gather(*(lane(call(text, asking=text == b"b")) for text in (b"a", b"b", b"c")))
    assert answers == [b"a", b"b", b"c"]
    assert [command[0] for command in server.commands] == [b"EVALSHA", b"ASKING", b"EVALSHA", b"EVALSHA"]


async def test_an_asking_that_is_refused_does_not_shift_the_answers(server: Server, lane: Lane) -> None:
    """The answer to the call behind it comes all the same, and must not become the next one's."""
    await ask(lane, b"warm")
    server.special[b"ASKING"] = parsed("NOPERM User sidecar has no permissions to run the 'asking' command")
    calls = [call(text, asking=text == b"b") for text in (b"a", b"b", b"c")]
    first, *others = await asyncio.gather(*(lane(each) for each in calls), return_exceptions=True)
    assert first == b"a"
    assert all("docs/redis.md" in refused(other) for other in others)
    assert await ask(lane, b"d") == [b"d"]


async def _close(lane: Lane, server: Server) -> None:
    closing = asyncio.ensure_future(lane.close())
    await asyncio.sleep(0)
    server.hold.set()
    await closing


@pytest.mark.parametrize("when", ["idle", "under way"])
async def test_a_lane_that_was_closed_asks_nobody_and_keeps_no_connection(
    server: Server, lane: Lane, when: str
) -> None:
    await ask(lane, b"warm")
    if when == "under way":
        server.hold.clear()
    asking = [asyncio.ensure_future(lane(call(text))) for text in (b"a", b"b")] if when == "under way" else []
    await asyncio.sleep(0.01)
    await _close(lane, server)
    for answer in await asyncio.gather(*asking, return_exceptions=True):
        refused(answer)
    with pytest.raises(Unavailable, match="closed"):
        await lane(call(b"late"))
    assert all(connection.lost for connection in server.connections)
    assert len(server.connections) == 1


async def test_a_lane_that_is_closed_while_it_connects_keeps_no_connection(server: Server) -> None:
    go_on = asyncio.Event()

    async def slowly() -> Wire:
        await go_on.wait()
        return await server.connect()

    connect: Callable[[], Awaitable[Wire]] = slowly
    lane = Lane(connect, 1.0)
    asking = asyncio.ensure_future(lane(call(b"a")))
    await asyncio.sleep(0.01)
    await lane.close()
    go_on.set()
    with pytest.raises(Unavailable, match="closed"):
        await asking
    assert all(connection.lost for connection in server.connections)
