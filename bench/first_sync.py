"""(c) The first sync of a person with many chats, right after a start: nothing is in the cache, no key in memory.

The client says which chat was open last, as one that starts does, so that the first frame has that chat with its messages.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from bench.cores import Cores
from bench.editing import BenchFailed
from bench.figures import spread
from bench.link import Link
from bench.pair import signed_in
from bench.plan import KIB, MIB, Plan
from bench.seeding import client_chat_id, seed
from bench.served import ours
from bench.table import Row

PERSON = "reader"


@dataclass(slots=True)
class Syncs:
    """The figures of several syncs, a value for each."""

    first: list[float] = field(default_factory=list)
    """Seconds from the question until the first frame was there, which has a chat with its messages."""
    total: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    """Bytes."""
    whole: list[float] = field(default_factory=list)
    """Bytes of all frames."""


async def sync(url: str, chats: int, syncs: Syncs) -> None:
    """One sync of that person, whole, with its times."""
    await sync_over(await signed_in(url, PERSON), chats, syncs)


async def sync_over(link: Link, chats: int, syncs: Syncs) -> None:
    """As `sync`, of whoever has signed in on this link, which is closed in the end."""
    arrived: list[tuple[float, bytes]] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_frame(frame: bytes) -> None:
        arrived.append((time.perf_counter(), frame))
        if not done.done() and (frame.startswith(b'{"type":"error"') or b'"complete":true' in frame):
            done.set_result(None)

    link.on_frame = on_frame
    began = time.perf_counter()
    link.send(
        b'{"type":"sync_request","id":"sync","payload":{"lastOpenChatId":"%b"}}' % client_chat_id(0).encode(),
    )
    async with asyncio.timeout(60.0):
        await done
    await link.close()
    ids: set[str] = set()
    for _, frame in arrived:
        read = orjson.loads(frame)
        if read["type"] != "initial_sync_data" or read["payload"].get("failed"):
            raise BenchFailed(f"the sync was answered with {read['type']} {read['payload'].get('code', '')}")
        ids.update(chat["id"] for chat in read["payload"]["chats"])
        if frame is arrived[0][1] and not any(chat.get("messages") for chat in read["payload"]["chats"]):
            raise BenchFailed("the first frame of the sync is without messages: its time would mean nothing")
    if len(ids) != chats:
        raise BenchFailed(f"the sync brought {len(ids)} chats instead of {chats}")
    syncs.first.append(arrived[0][0] - began)
    syncs.total.append(arrived[-1][0] - began)
    syncs.frames.append(len(arrived))
    syncs.largest.append(max(len(frame) for _, frame in arrived))
    syncs.whole.append(sum(len(frame) for _, frame in arrived))


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (c)."""
    home = folder / "c"
    await seed(home / "data", PERSON, plan.sync_chats, plan.sync_messages, drafts=True)
    syncs = Syncs()
    for _ in range(plan.syncs):
        with ours(home, cores.server) as served:  # a start for each: the cache is cold
            await sync(served.url, plan.sync_chats, syncs)
    who = f"first sync of {plan.sync_chats} chats of {plan.sync_messages} messages"
    goals = plan.goals
    first, largest = spread(syncs.first), spread(syncs.largest)
    return [
        Row(
            "c",
            f"{who}: first frame (the last open chat), ms",
            f"{spread([each * 1e3 for each in syncs.first]):.1f}",
            goal=f"< {goals.first_frame * 1e3:.0f} ms",
            met=first.middle < goals.first_frame,
        ),
        Row(
            "c",
            f"{who}: largest frame, KiB",
            f"{spread([each / KIB for each in syncs.largest]):.0f}",
            goal=f"≤ {goals.largest_frame // KIB} KiB",
            met=largest.most <= goals.largest_frame,
        ),
        Row("c", f"{who}: total, ms", f"{spread([each * 1e3 for each in syncs.total]):.0f}"),
        Row("c", f"{who}: frames", f"{spread(syncs.frames):.0f}"),
        Row("c", f"{who}: all frames together, MiB", f"{spread([each / MIB for each in syncs.whole]):.2f}"),
    ]
