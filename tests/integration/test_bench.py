"""The bench makes every row that the issue asks for. With numbers so small the figures mean nothing and are not judged."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from math import isnan
from pathlib import Path

import pytest

from bench.drafts import Drafts, example
from bench.editing import BenchFailed, Chat
from bench.figures import percentile, ratios, spread
from bench.hocuspocus import installing, yjs
from bench.link import Link, LinkClosed
from bench.missing import Missing
from bench.pair import Pair, signed_in
from bench.peers import NAMES
from bench.plan import FULL, QUICK, TINY
from bench.report import run
from bench.table import Row, markdown
from bench.with_redis import PROVIDERS
from sidecar.server.running import Server
from tests.conftest import Serve


async def test_a_tiny_run_makes_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    path, rows = await run(TINY, tmp_path / "results", "abcd")
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
        assert plan.shared_chats == (100, 1000, 10_000)
        assert plan.steady_rate == 1000
        assert plan.reconnects[0] == 5000
        assert (plan.directus_sync_chats, plan.directus_reconnects) == (500, 5000)
        assert plan.pinned
    goals = FULL.goals
    assert (goals.ratio, goals.idle_bytes, goals.first_frame) == (0.5, 20 * 1024, 0.05)
    assert (goals.largest_frame, goals.flat) == (1024 * 1024, 1.2)
    assert (goals.over_hocuspocus, goals.over_hocuspocus_from, goals.over_bare_redis) == (2.0, 32, 0.7)
    assert (goals.steady, goals.across, goals.back) == (0.010, 0.020, 30.0)
    assert (goals.over_raw_vault, goals.over_raw_vault_at, goals.over_local) == (0.7, 32, 0.95)
    assert (goals.over_raw_directus, goals.directus_calls) == (0.8, 50)


def _told(rows: Sequence[Row]) -> list[str]:
    return [row.what for row in rows]


def _skip_where_missing(rows: Sequence[Row]) -> None:
    """Only what the machine lacks may be left out, and it says so by name."""
    for row in rows:
        if row.ours.startswith("skipped: "):
            pytest.skip(f"{row.what} {row.ours}")


async def test_the_peers_are_measured_side_by_side(tmp_path: Path) -> None:
    _, rows = await run(TINY, tmp_path / "results", "e")
    _skip_where_missing(rows)
    told = _told(rows)
    for who in ("1 person", "2 people"):
        for beside in ("Hocuspocus", "the bare loop with Redis"):
            assert f"{who}: drafts per second, the sidecar in 1 process beside {beside}" in told
        assert f"{who}: drafts per second, the sidecar in 2 processes beside the sidecar in 1 process" in told
        for name in NAMES.values():
            assert f"{who}: {name}: p50 / p99, ms" in told
            assert f"{who}: {name}: CPU" in told
        assert f"{who}: {PROVIDERS}: drafts per second (p50 / p99 ms, load generator)" in told


async def test_a_fixed_rate_is_kept_whatever_the_answers_do(tmp_path: Path) -> None:
    _, rows = await run(TINY, tmp_path / "results", "f")
    _skip_where_missing(rows)
    at = f"{TINY.steady_rate:.0f} drafts a second of {TINY.steady_people} people, the sidecar in"
    assert f"{at} 1 process: p99 until the second device has it, ms" in _told(rows)
    assert f"{at} 2 processes: p99 from device to device across processes, ms" in _told(rows)


async def test_idle_sockets_and_many_chats_with_redis(tmp_path: Path) -> None:
    _, rows = await run(TINY, tmp_path / "results", "gi")
    _skip_where_missing(rows)
    assert "memory per idle socket with Redis at 60 sockets, each its own user, KiB" in _told(rows)
    for count in TINY.shared_chats:
        for where in ("edits of the 3 most recent chats", "edits spread over all chats"):
            assert f"{count} chats with Redis, {where}: server + Redis CPU per draft, µs" in _told(rows)


async def test_all_sockets_of_a_killed_server_come_back(tmp_path: Path) -> None:
    _, rows = await run(TINY, tmp_path / "results", "h")
    _skip_where_missing(rows)
    found = {row.what: row for row in rows}
    assert found["20 sockets come back after a kill: errors"].ours == "0"
    assert found["20 sockets come back after a kill: the last is signed in and in sync after, s"].met is not None


@pytest.mark.usefixtures("_vault_program")
async def test_keys_in_vault_are_measured_beside_the_bare_vault_and_local_keys(tmp_path: Path) -> None:
    _, rows = await run(TINY, tmp_path / "results", "j")
    told = _told(rows)
    for who in ("1 person", "2 people"):
        assert (
            f"{who}: chats begun per second, a key for each, beside entries made in the same Vault by a bare loop"
            in told
        )
        assert f"{who}: CPU per chat begun, sidecar + Vault, beside Vault's per entry, µs" in told
    assert "2 people: drafts per second with the key in memory, beside encryption.local" in told
    for what in (
        "first frame, ms, beside encryption.local",
        "total, ms, beside encryption.local",
        "share of the total that is Vault",
    ):
        assert f"cold sync of 3 chats of 2 messages: {what}" in told


@pytest.mark.usefixtures("_directus_installed")
async def test_a_directus_is_measured_beside_what_it_takes_at_most(tmp_path: Path) -> None:
    _, rows = await run(TINY, tmp_path / "results", "k")
    found = {row.what: row for row in rows}
    for what in ("first messages", "messages"):
        at = f"4 under way: {what}"
        judged = found[f"{at} per second that reach Directus, beside rows created in the same Directus by a bare loop"]
        assert judged.met is not None
        assert float(judged.ours) > 0
        assert f"{at}: p50 / p99 until delivered, ms" in found
        assert f"{at}: Directus' CPU for each, µs" in found
        assert f"{at} with changes: notices: p50 / p99 until delivered, ms" in found
    synced = "cold sync of 3 chats of 2 messages from Directus"
    assert {f"{synced}: first frame, ms", f"{synced}: total, ms"} <= set(found)
    assert 0 < int(found[f"{synced}: calls of Directus"].ours) < 50
    for how in ("Directus is asked about each token", "with its SECRET"):
        at = f"20 come back, {how}"
        assert found[f"{at}: Directus calls per second (most in one)"].met is not None
        told = found[f"{at}: the last is signed in after, s; told to come later; errors"].ours
        assert told.endswith("; 0; 0"), told


async def test_what_the_machine_lacks_is_left_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SIDECAR_TEST_REDIS", "SIDECAR_TEST_VAULT", "SIDECAR_TEST_DIRECTUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SIDECAR_TEST_CACHE", str(tmp_path))
    _, rows = await run(TINY, tmp_path / "results", "efghijk")
    assert all(row.ours.lower().startswith("skipped: no ") for row in rows)
    assert {name: row.ours for row in rows if row.part == "e" for name in [row.what]} == {
        name: "skipped: no node on PATH; install Node 20 or newer"
        if name == "Hocuspocus"
        else "skipped: no redis-server on PATH; apt-get install redis-server"
        for name in NAMES.values()
    }
    assert {row.part for row in rows} == set("efghijk")


def test_hocuspocus_is_installed_from_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho v18.20.0\n")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    for each in (node, npm):
        each.chmod(0o755)
    with pytest.raises(Missing, match=r"^Node v18\.20\.0 is too old"):
        installing.find()
    node.write_text("#!/bin/sh\necho v22.1.0\n")
    monkeypatch.setenv("SIDECAR_TEST_CACHE", str(tmp_path / "cache"))
    with pytest.raises(Missing, match=r"^npm could not install Hocuspocus: no network$"):
        installing.find()
    assert list((tmp_path / "cache").iterdir()) == []


def test_updates_are_written_as_yjs_writes_them() -> None:
    """What `document.getMap("drafts").set("text", "hé0")`, and twice again, makes with client id 7."""
    made = [yjs.set_text(7, clock, f"hé{clock}".encode()).hex() for clock in range(3)]
    assert made == [
        "01010700280106647261667473047465787401770468c3a93000",
        "01010701a8070001770468c3a9310107010001",
        "01010702a8070101770468c3a9320107010101",
    ]
    assert yjs.number(300) == b"\xac\x02"


async def test_a_pace_counts_the_time_that_an_edit_had_to_wait(serve: Serve) -> None:
    async with serve(limits={"frames_per_second": 100_000, "burst": 1_000_000}) as server:
        pair = await Pair.open(server.url, "bench", Drafts())
        chat = Chat("one")
        await pair.begin(chat)
        first = time.perf_counter() - 0.3  # as if nothing had been answered for so long
        await pair.keep_pace(chat, first, 0.1, first + 0.45)
        await pair.close()
    assert chat.version == 6
    assert min(pair.latencies[:2]) > 0.1


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
