"""The examples do what the README says of them: each in a process of its own, against a real `sidecar serve`."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.device import Device, doc

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
_LISTENING = re.compile(r"listening on (http://\S+)")


@contextmanager
def sidecar_serve(folder: Path, *arguments: str) -> Iterator[tuple[str, Path]]:
    """`sidecar serve` in this folder, on any free port; its URL, and the file with its log. Ends with status 0."""
    errors = folder / "stderr.log"
    command = [sys.executable, "-m", "sidecar", "serve", "--port", "0", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with errors.open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, env=environment)
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 30.0)
        line = process.stdout.readline().decode() if ready else ""
        found = _LISTENING.match(line)
        assert found is not None, f"it said {line!r} and {errors.read_text()!r}"
        yield found[1], errors
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def two_devices(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = EXAMPLES / "two_devices.py"
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def socket_of(url: str) -> str:
    return f"{url.replace('http', 'ws', 1)}/ws"


def test_s9_s11_s12_s23_s40_two_devices_see_each_other(tmp_path: Path) -> None:
    """S9, S11, S12, S23, S40, as a new user sees them first; twice, since the second run finds what the first one left."""
    with sidecar_serve(tmp_path) as (url, _):
        first = two_devices(socket_of(url))
        assert (first.returncode, first.stderr) == (0, "")
        second = two_devices(socket_of(url))
        assert (second.returncode, second.stderr) == (0, "")
    assert "laptop  is in sync: 0 chats from before" in first.stdout
    assert "laptop  is in sync: 1 chats from before" in second.stdout
    for told in (
        "version 1 of a new chat",
        "was refused: version 3 came first",
        "keeps its own as a copy",
        "shows “Plans for the autumn”",
        "the draft is used up (version 4)",
        "knows that the store has it: delivered",
        "got one frame with one chat",
        "asked once more: nothing new",
    ):
        assert told in first.stdout
    assert first.stdout.endswith("\nAll as promised.\n")


def test_two_devices_says_plainly_that_no_sidecar_runs() -> None:
    found = two_devices("ws://127.0.0.1:9/ws")
    assert found.returncode == 1
    assert found.stderr == "No sidecar answers at ws://127.0.0.1:9/ws: start it with make run.\n"


def test_two_devices_says_plainly_what_is_wrong_with_its_address(tmp_path: Path) -> None:
    assert two_devices("no address").stderr.startswith("no address is no address of a WebSocket")
    assert two_devices("--help").returncode == 2
    with sidecar_serve(tmp_path) as (url, _):
        found = two_devices(f"{url.replace('http', 'ws', 1)}/elsewhere")
    assert found.returncode == 1
    assert "opens no WebSocket (404)" in found.stderr


async def test_the_plugin_of_a_users_own_hears_of_a_settled_draft(tmp_path: Path) -> None:
    """The YAML alone loads it, from its own folder, wherever the sidecar is started; it logs ids and versions and no text."""
    config = str(EXAMPLES / "audit" / "sidecar.yaml")
    with sidecar_serve(tmp_path, "--config", config) as (url, log):
        async with Device(url) as phone:
            secret = "the canary in the draft"
            begun = await phone.ask("draft_update", {"tempChatId": "c1", "content": doc(secret), "basedOnVersion": 0})
            chat = begun["payload"]["finalChatId"]
        until = time.monotonic() + 20
        while (
            line := f"draft of {chat} is now version 1"
        ) not in log.read_text():  # settled at once: the last one left
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
    assert line in log.read_text()
    assert secret not in log.read_text()
    assert not list((EXAMPLES / "audit").glob("sidecar-data"))


def test_the_plugin_of_a_users_own_is_listed_with_its_hook(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sidecar",
        "plugins",
        "--config",
        str(EXAMPLES / "audit" / "sidecar.yaml"),
        "--json",
    ]
    listed = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    audit = next(plugin for plugin in json.loads(listed.stdout)["plugins"] if plugin["name"] == "audit")
    assert (audit["use"], audit["hooks"], audit["grants"]) == ("audit_log:AuditLog", ["on_draft"], [])
