"""The operators' socket of a running sidecar, and the command line through it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sidecar.errors import StartRefused, Unavailable
from sidecar.ids import hash_user
from sidecar.server.running import Server
from sidecar.unix_sockets import reachable
from tests.conftest import Serve, configure
from tests.device import Device, doc, new_id

ALICE, BOB = hash_user("alice"), hash_user("bob")
Line = dict[str, Any]


async def operate(server: Server, command: str, body: bytes | None = None, **arguments: Any) -> list[Line]:
    with reachable(server.context.config.socket_path) as name:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(name)) as session,
            session.post(
                f"http://sidecar/operate/{command}", data=json.dumps(arguments) if body is None else body
            ) as response,
        ):
            assert response.status == 200
            text = await response.text()
    return [json.loads(line) for line in text.splitlines()]


async def result(server: Server, command: str, **arguments: Any) -> Line:
    last = (await operate(server, command, **arguments))[-1]
    assert "result" in last, last
    found: Line = last["result"]
    return found


async def command_line(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """`sidecar …` in a process of its own, with the configuration of `folder`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", *arguments, "--config", str(folder / "sidecar.yaml")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


# -- the socket --------------------------------------------------------------------------------------------------------


async def test_the_socket_is_for_its_user_alone_and_goes_with_the_server(serve: Serve) -> None:
    async with serve() as server:
        path = server.context.config.socket_path
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert [each.name for each in path.parent.glob("sidecar.sock*")] == ["sidecar.sock"]
    assert not path.exists()


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "data" / "sidecar.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale, reachable(path) as name:
        stale.bind(name)
        stale.listen()
        # Another sidecar that keeps its journal elsewhere, so that only the socket tells.
        with pytest.raises(StartRefused, match="another sidecar serves"):
            async with serve(cache={"use": "memory", "options": {"journal": False}}):
                pass
    assert path.is_socket()  # closed, and its file left behind as by kill -9
    async with serve() as server:
        assert "result" in (await operate(server, "plugins-positions"))[-1]


async def test_what_is_no_socket_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "data" / "sidecar.sock"
    path.parent.mkdir(mode=0o700)
    path.write_text("mine")
    with pytest.raises(StartRefused, match="no socket"):
        async with serve():
            pass
    assert path.read_text() == "mine"


async def test_a_folder_too_deep_for_a_socket_s_name_serves_too(tmp_path: Path) -> None:
    from sidecar.server.running import serving

    folder = tmp_path / ("deep" * 20) / ("er" * 30)
    folder.mkdir(parents=True)
    async with serving(configure(folder)) as server:
        assert len(os.fsencode(server.context.config.socket_path)) > 108
        assert "result" in (await operate(server, "plugins-positions"))[-1]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff"])
async def test_arguments_that_are_no_object_are_an_error_line(server: Server, body: bytes) -> None:
    [line] = await operate(server, "users-erase", body)
    assert "JSON object" in line["error"]["message"]


async def test_an_unknown_command_is_an_error_line_that_names_it(server: Server) -> None:
    [line] = await operate(server, "keys-melt")
    assert "keys-melt" in line["error"]["message"]


@pytest.mark.caches("memory", "redis")
async def test_one_command_that_changes_something_at_a_time(server: Server) -> None:
    async with Device(server.url) as device:
        await device.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
        await server.context.parts.cache.chats.drop(ALICE, None)
        pruning = asyncio.create_task(operate(server, "keys-prune", grace=0.5))
        await asyncio.sleep(0.15)
        [busy] = await operate(server, "keys-rotate")
        assert "busy with keys-prune" in busy["error"]["message"]
        assert "result" in (await operate(server, "users-devices", user=ALICE))[-1]  # looking is always possible
        assert "result" in (await pruning)[-1]
    assert "result" in (await operate(server, "keys-rotate"))[-1]


@pytest.mark.caches("memory", "redis")
async def test_whoever_breaks_off_leaves_the_server_free_and_an_erasure_finished(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as server:
        async with Device(server.url) as device:
            for number in range(3):
                await device.ask("draft_update", {"tempChatId": f"c{number}", "content": doc("x"), "basedOnVersion": 0})
        cipher = server.context.parts.cipher
        whole = cipher.destroy

        async def slowly(key: Any) -> None:
            await asyncio.sleep(0.1)
            await whole(key)

        monkeypatch.setattr(cipher, "destroy", slowly)
        asking = asyncio.create_task(operate(server, "users-erase", user=ALICE))
        await asyncio.sleep(0.15)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for _ in range(100):
            lines = await operate(server, "keys-rotate")
            if "result" in lines[-1]:
                break
            await asyncio.sleep(0.05)
        assert lines[-1]["result"]["count"] == 0  # no key of alice is left to rotate
        assert await server.context.parts.store.devices(ALICE) == []


# -- what the devices see ----------------------------------------------------------------------------------------------


async def test_s63_f23_rotating_under_two_devices_that_write_disturbs_neither(server: Server) -> None:
    async with Device(server.url) as one, Device(server.url) as two:
        await one.sync()
        await two.sync()
        sent = {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("old")}
        await one.ask("message_send", sent)
        version, rotations = 0, 0
        while version < 60 or rotations < 5:
            frame = {"chatId": "c1", "content": doc(f"edit {version}"), "basedOnVersion": version}
            writing = asyncio.create_task(one.ask("draft_update", frame))
            if version % 10 == 0:
                rotations += (await result(server, "keys-rotate"))["count"]
                assert (await result(server, "keys-reseal"))["undecryptable"] == 0
            said = await writing
            assert said["type"] == "draft_updated", said
            version = said["payload"]["version"]
            told = await two.event("draft_updated", lambda payload, at=version: payload["version"] == at)  # type: ignore[misc]
            assert told["content"] == frame["content"]
        page = await two.ask("messages_request", {"chatId": "c1", "limit": 5})
        assert [message["content"] for message in page["payload"]["messages"]] == [doc("old")]
        chats = [chat for frame in await two.sync() for chat in frame["chats"]]
        assert not any(chat["undecryptable"] for chat in chats)


@pytest.mark.caches("memory", "redis")
async def test_s68_a_chat_whose_key_an_operator_destroys_is_deleted_on_every_device(server: Server) -> None:
    async with Device(server.url) as one, Device(server.url) as two:
        await one.sync()
        await two.sync()
        sent = {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("old")}
        chat = (await one.ask("message_send", sent))["payload"]["chatId"]
        await one.event("message_update")
        said = await result(server, "keys-destroy", chat=chat)
        assert (said["count"], said["waiting"]) == (1, 0)
        for device in (one, two):
            gone = await device.event("chat_deleted")
            assert (gone["chatId"], gone["deletedAt"]) == (chat, said["deleted_at"])
        edit = {"chatId": chat, "content": doc("late"), "basedOnVersion": 0}
        late = await two.ask("draft_update", edit)
        assert (late["type"], late["payload"]["reason"]) == ("draft_conflict", "chat_deleted")
        assert await server.context.parts.store.known(ALICE, [chat]) == {}


@pytest.mark.caches("memory", "redis")
async def test_disconnecting_closes_every_socket_of_the_person_and_no_other(server: Server) -> None:
    async with Device(server.url) as one, Device(server.url) as two, Device(server.url, "bob") as bob:
        assert await result(server, "users-disconnect", user=ALICE) == {"count": 2, "left": 0}
        assert [await one.closed(), await two.closed()] == [4401, 4401]
        assert (await bob.ask("ping", {}))["type"] == "pong"
    async with Device(server.url) as again:
        assert again.ready["device"]


@pytest.mark.caches("memory", "redis")
async def test_t47_erasing_a_person_closes_the_sockets_and_leaves_no_byte_after_the_next_start(
    serve: Serve, tmp_path: Path
) -> None:
    texts: dict[str, bytes] = {}
    async with (
        serve() as server,
        Device(server.url) as alice,
        Device(server.url) as second,
        Device(server.url, "bob") as bob,
    ):
        for device in (alice, bob):
            sent = {"tempChatId": "c1", "clientMessageId": new_id(), "content": doc("a message")}
            await device.ask("message_send", sent)
            await device.event("message_update")
            await device.ask("draft_update", {"chatId": "c1", "content": doc("a draft"), "basedOnVersion": 0})
            await device.ask("draft_update", {"tempChatId": "c2", "content": doc("alone"), "basedOnVersion": 0})
            page = await server.context.parts.store.messages(device.user, device.full("c1"), None, 1)  # type: ignore[arg-type]
            texts[device.user] = page.items[0].content
        said = await result(server, "users-erase", user=ALICE)
        assert (said["done"], said["chats"], said["devices"], said["sockets"]) == (True, 2, 2, 2)
        assert said["sockets_left"] == 0
        assert [await alice.closed(), await second.closed()] == [4401, 4401]
        assert (await bob.ask("ping", {}))["type"] == "pong"
        device_id = alice.ready["device"]["id"]
        held = await server.context.parts.cache.leases.held(f"device:{ALICE}:{device_id}")
        assert held == {}
    async with serve() as server:
        content = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
        for needle in (ALICE.encode(), f"{ALICE[:8]}_c1".encode(), texts[ALICE], device_id.encode()):
            assert needle not in content
        assert texts[BOB] in content
        async with Device(server.url, "bob") as bob:
            chats: dict[str, Line] = {}
            for frame in await bob.sync():
                for chat in frame["chats"]:
                    chats.setdefault(chat["id"], {}).update(chat)
            assert chats[bob.full("c1")]["draft"] == doc("a draft")
            assert chats[bob.full("c2")]["draft"] == doc("alone")


@pytest.mark.caches("memory", "redis")
async def test_dead_letters_of_a_running_sidecar_are_replayed_and_the_device_hears_delivered(
    serve: Serve, tmp_path: Path
) -> None:
    sign = tmp_path / "data" / "refuse"
    async with serve(persistence={"use": "tests.plugins.stubborn_store:Stubborn"}) as server:
        sign.touch()
        async with Device(server.url) as device:
            await device.sync()
            sent = {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("a message")}
            await device.ask("message_send", sent)
            await device.event("message_update", lambda payload: payload["status"] == "error")
            rows = [line["row"] for line in await operate(server, "dead-letters-list") if "row" in line]
            assert [(row["plugin"], row["chat"]) for row in rows] == [("persistence", device.full("c1"))]
            sign.unlink()
            said = await result(server, "dead-letters-replay", all=True)
            assert said == {"count": 1, "waiting": 0, "parked": 0}
            await device.event("message_update", lambda payload: payload["status"] == "delivered")


async def test_a_part_that_is_away_is_an_error_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> Any:
        raise Unavailable("cache", "gone")

    monkeypatch.setattr(server.context.parts.cache.outbox, "positions", away)
    [line] = await operate(server, "plugins-positions")
    assert "cache is unavailable" in line["error"]["message"]


# -- the command line --------------------------------------------------------------------------------------------------


async def test_the_command_line_asks_the_running_sidecar(serve: Serve, tmp_path: Path) -> None:
    async with serve() as server:
        async with Device(server.url) as device:
            await device.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
            device_id = device.ready["device"]["id"]
        shown, rotated = await asyncio.gather(
            command_line(tmp_path, "users", "devices", "--user", "alice", "--json"),
            command_line(tmp_path, "keys", "rotate", "--user", "alice"),
        )
        assert shown[0] == 0, shown
        assert [row["id"] for row in json.loads(shown[1])] == [device_id]
        assert rotated[:2] == (0, "1 keys have a new version\n"), rotated
        async with Device(server.url) as device:
            chats = [chat for frame in await device.sync() for chat in frame["chats"]]
            assert [chat["draft"] for chat in chats] == [doc("x")]


@pytest.mark.caches("memory", "redis")
async def test_the_command_line_opens_the_parts_where_nothing_serves(serve: Serve, tmp_path: Path) -> None:
    async with serve() as server, Device(server.url) as device:
        await device.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
        chat = device.full("c1")
    code, out, err = await command_line(tmp_path, "keys", "destroy", "--chat", chat, "--yes", "--json")
    assert code == 0, err
    assert json.loads(out)["chat"] == chat
    async with serve() as server, Device(server.url) as device:
        told = await device.sync(chats=[{"id": chat, "version": 1, "titleVersion": 0, "messagesVersion": 0}])
        assert [gone["id"] for frame in told for gone in frame["deleted"]] == [chat]


async def test_a_served_process_answers_its_operators(tmp_path: Path) -> None:
    """As it is run: its own process, its own event loop (uvloop), its own socket, gone after SIGTERM."""
    configure(tmp_path)
    config = yaml.safe_load((tmp_path / "sidecar.yaml").read_text())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "serve", "--config", str(tmp_path / "sidecar.yaml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        assert "listening on http" in line
        async with Device(line.split()[-1]) as device:
            code, out, err = await command_line(tmp_path, "users", "disconnect", "--user", "alice", "--json")
            assert code == 0, err
            assert json.loads(out) == {"count": 1, "left": 0}
            assert await device.closed() == 4401
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            _, err_ = await process.communicate()
    assert process.returncode == 0, err_
    assert not (Path(config["data_dir"]) / "sidecar.sock").exists()
