"""The bench makes every row that the issue asks for. With numbers so small the figures mean nothing and are not judged."""

from __future__ import annotations

import json
import os
from math import isnan
from pathlib import Path

import pytest

from bench.drafts import Drafts, example
from bench.editing import BenchFailed, Chat
from bench.figures import percentile, ratios, spread
from bench.link import Link, LinkClosed
from bench.pair import Pair, signed_in
from bench.plan import FULL, QUICK, TINY
from bench.report import run
from bench.table import Row, markdown
from sidecar.server.running import Server
from tests.conftest import Serve


async def test_a_tiny_run_makes_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    path, rows = await run(TINY, tmp_path / "results")
    assert cores is None or os.sched_getaffinity(0) == cores  # the tests after this one have the whole machine
    told = [(row.part, row.what) for row in rows]
    for who in ("1 person", "2 people"):
        assert ("a", f"{who}: drafts per second") in told
        for share in ("p50", "p99"):
            assert ("a", f"{who}: {share} until the second device has it, ms") in told
        assert ("a", f"{who}: share of its core, server / load generator") in told
    assert ("b", "memory per idle socket at 60 sockets, each its own user, KiB") in told
    for what in ("first frame (the last open chat), ms", "largest frame, KiB", "total, ms", "frames"):
        assert ("c", f"first sync of 3 chats of 2 messages: {what}") in told
    for count in TINY.chats:
        for where in ("edits of the 3 most recent chats", "edits spread over all chats"):
            assert ("d", f"{count} chats, {where}: server CPU per draft, µs") in told
    assert {row.part for row in rows if row.met is not None} == {"a", "b", "c", "d"}
    text = path.read_text(encoding="utf-8")
    assert all(row.what in text for row in rows)
    assert capsys.readouterr().out.startswith(text)


def test_the_plans_ask_for_what_the_issue_names() -> None:
    for plan in (FULL, QUICK):
        assert plan.people == (1, 32, 128)
        assert plan.sockets == 2000
        assert (plan.sync_chats, plan.sync_messages) == (1000, 20)
        assert plan.chats == (10, 1000, 10_000)
        assert plan.pinned
    goals = FULL.goals
    assert (goals.ratio, goals.idle_bytes, goals.first_frame) == (0.5, 20 * 1024, 0.05)
    assert (goals.largest_frame, goals.flat) == (1024 * 1024, 1.2)


async def test_a_pair_measures_until_the_second_device_has_the_draft(serve: Serve) -> None:
    async with serve(limits={"frames_per_second": 100_000, "burst": 1_000_000}) as server:
        pair = await Pair.open(server.url, "bench", Drafts())
        chats = [Chat("one"), Chat("two")]
        for chat in chats:
            await pair.begin(chat)
        await pair.edit(chats, 0.1, lanes=2)
        await pair.close()
    assert len(pair.latencies) == sum(chat.version - 1 for chat in chats) > 1
    assert min(pair.latencies) > 0


async def test_a_conflict_ends_the_measurement_instead_of_counting(server: Server) -> None:
    pair = await Pair.open(server.url, "bench", Drafts())
    chat = Chat("one")
    await pair.begin(chat)
    chat.version = 7
    with pytest.raises(BenchFailed, match="the first device got draft_conflict missing"):
        await pair.edit([chat], 0.1)
    await pair.close()


async def test_a_link_that_is_refused_says_why(server: Server) -> None:
    with pytest.raises(BenchFailed, match=r"^NO could not sign in: error unauthenticated"):
        await signed_in(server.url, "NO")


async def test_a_link_that_is_not_upgraded_says_so(serve: Serve) -> None:
    async with serve(limits={"connections_per_address": 1}) as server:
        link = await signed_in(server.url, "bench")
        with pytest.raises(LinkClosed, match=r"^no upgrade: HTTP/1\.1 429 "):
            await Link.open(server.url)
        await link.close()


def test_each_edit_is_another_document_of_the_same_kind() -> None:
    drafts = Drafts()
    one, other = drafts.content(1), drafts.content(2)
    assert one != other
    assert len(one) == len(other)
    assert 1900 < len(one) < 2300
    assert example("draft_2kb")["content"][1:] == json.loads(one)["content"][1:]


def test_figures() -> None:
    assert f"{spread([3.0, 1.0, 2.0]):.0f}" == "2 (1–3)"
    assert f"{spread([2.0]):.1f}" == "2.0"
    assert ratios([1.0, 4.0], [2.0, 4.0]).least == 0.5
    assert isnan(ratios([1.0], [0.0]).middle)
    values = [float(each) for each in range(1, 101)]
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0


def test_the_table_says_what_was_missed() -> None:
    table = markdown(
        [
            Row("a", "one", "1", "2", "0.50", "≥ 0.5", True),
            Row("b", "other", "30", goal="≤ 20 KiB", met=False),
            Row("c", "without a goal", "5"),
        ]
    ).splitlines()
    assert len({len(line) for line in table}) == 1
    assert table[2].endswith("| met    |")
    assert table[3].endswith("| MISSED |")
    assert table[4].endswith("|        |")
