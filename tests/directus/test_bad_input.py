"""Bad input (issue 6) by the command line: `serve`, `bootstrap` and `doctor` name the option that is to be mended, and nothing else happens."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from sidecar import StartRefused
from sidecar.cli import app
from sidecar.config.reading import read
from sidecar.errors import ConfigError
from sidecar.server.running import serving
from tests.services.answering import answering
from tests.services.directus.server import ADMIN_TOKEN, DirectusServer

_SERVICE = "the-service-users-token-in-this-test"
_ADMIN = "the-administrators-token-in-this-test"
_UNSET = (
    "DIRECTUS_ADMIN_TOKEN_FILE",
    "DIRECTUS_ADMIN_EMAIL",
    "DIRECTUS_ADMIN_PASSWORD",
    "DIRECTUS_ADMIN_PASSWORD_FILE",
)


async def sidecar(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Carries the command out, as the command line does; status and all that it said. `serve` is one that has to be refused."""
    file, told = folder / "sidecar.yaml", {"DIRECTUS_ADMIN_TOKEN": _ADMIN, **environment}
    if arguments == ("serve",):
        try:
            async with serving(read(file, environment={})):
                return 0, ""
        except ConfigError as error:
            status, text = 2, str(error)
        except StartRefused as error:
            status, text = 3, str(error)
    else:
        # In a thread: the commands have an event loop of their own.
        runner = CliRunner(env={**dict.fromkeys(_UNSET), **told})
        outcome = await asyncio.to_thread(runner.invoke, app, [*arguments, "--config", str(file)])
        assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
        status, text = outcome.exit_code, outcome.output.replace("\n  ", "; ")
    for secret in (_SERVICE, told["DIRECTUS_ADMIN_TOKEN"], ADMIN_TOKEN):
        assert secret.strip() == "" or secret not in text, "no token is printed or logged"
    return status, text


def written(folder: Path, url: str, **options: Any) -> Path:
    """A configuration with both plugins of Directus at this address; its folder."""
    told = {"url": url, **(options or {"token": _SERVICE})}
    sections = {name: {"use": "directus", "options": told} for name in ("auth", "persistence")}
    path = folder / "sidecar.yaml"
    path.write_text(json.dumps({"server": {"port": 0}, **sections}))
    path.chmod(0o600)
    return folder


async def all_three(folder: Path, **environment: str) -> tuple[tuple[int, str], ...]:
    """`serve`, `bootstrap`, `bootstrap --dry-run`, `doctor`."""
    commands = (("serve",), ("bootstrap",), ("bootstrap", "--dry-run"), ("doctor", "--alone"))
    return tuple([await sidecar(folder, *command, **environment) for command in commands])


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _says(body: str | bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Answer:
    content = body.encode() if isinstance(body, str) else body

    async def answer(_: web.Request) -> web.StreamResponse:
        told = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return web.Response(status=status, body=content, headers=told)

    return answer


_PAGE = "<html>Welcome to nginx!</html>"
_NO_ROUTE = '{"errors":[{"message":"Route /x does not exist.","extensions":{"code":"ROUTE_NOT_FOUND","path":"/x"}}]}'

NO_DIRECTUS: Mapping[str, tuple[Answer, str]] = {
    "a page": (_says(_PAGE, kind="text/html"), "is no Directus (200 text/html)"),
    "a page that is not there": (_says(_PAGE, 404, "text/html"), "is no Directus (404 text/html)"),
    "a proxy that wants a password": (_says(_PAGE, 401, "text/html"), "is no Directus (401)"),
    "a proxy that forbids": (_says(_PAGE, 403, "text/html"), "is no Directus (403)"),
    "another API": (_says('{"status":"ok"}'), "is no Directus"),
    "another API's refusal": (_says('{"error":"no such thing"}', 404), "is no Directus (404)"),
    "a list": (_says("[1,2,3]"), "is no Directus"),
    "a number": (_says("7"), "is no Directus"),
    "nothing": (_says(""), "is no Directus"),
    "data of another kind": (_says('{"data":"hello"}'), "is no Directus"),
    "brackets without end": (_says(b"[" * 100_000 + b"]" * 100_000), "is no Directus"),
    "UTF-16": (_says('{"data":{"id":"x"}}'.encode("utf-16")), "is no Directus"),
    "a bomb": (_says(gzip.compress(b" " * 2**27), Content_Encoding="gzip"), "larger than 64 MiB"),
    "Directus below another path": (_says(_NO_ROUTE, 404), "does not serve its API at"),
}


@pytest.mark.parametrize("what", list(NO_DIRECTUS))
async def test_what_is_no_directus_is_named_with_the_option_that_leads_there(what: str, tmp_path: Path) -> None:
    answer, says = NO_DIRECTUS[what]
    asked: list[str] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        return await answer(request)

    async with answering(noted) as url:
        serve, bootstrap, dry_run, doctor = await all_three(written(tmp_path, url))
    assert [status for status, _ in (serve, bootstrap, dry_run, doctor)] == [3, 1, 1, 1]
    for _, text in (serve, bootstrap, dry_run, doctor):
        assert says in text
        assert "auth.options.url" in text
        assert url in text
    for _, text in (bootstrap, dry_run, doctor):
        assert "persistence.options.url" in text, "each section has an address of its own"
    assert set(asked) == {"GET"}, "nothing is written to it"


@pytest.mark.parametrize("status", [301, 307])
async def test_t40_a_redirect_is_told_and_no_token_follows(status: int, tmp_path: Path) -> None:
    caught: list[str] = []

    async def catch(request: web.Request) -> web.StreamResponse:
        caught.append(request.path)
        return web.json_response({"data": {}})

    async with answering(catch) as elsewhere:

        async def lead(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": f"{elsewhere}{request.path_qs}"})

        async with answering(lead) as url:
            results = await all_three(written(tmp_path, url))
    assert [status for status, _ in results] == [3, 1, 1, 1]
    assert all("write the address that it leads to into auth.options.url" in text for _, text in results)
    assert caught == []


async def _cut(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "5000"})
    await answer.prepare(request)
    await answer.write(b'{"data":{"ver')
    assert request.transport is not None
    request.transport.abort()
    return answer


AWAY: Mapping[str, tuple[Answer, str]] = {
    "fails": (_says(_PAGE, 500, "text/html"), "Directus fails (500 HTTP_500); look at its log"),
    "a proxy without its Directus": (_says(_PAGE, 502, "text/html"), "502"),
    "cut off": (_cut, "broke"),
    "no gzip": (_says("no gzip at all", Content_Encoding="gzip"), "broke"),
}


@pytest.mark.parametrize("what", list(AWAY))
async def test_a_directus_that_fails_is_waited_for_and_nobodys_token_is_blamed(what: str, tmp_path: Path) -> None:
    """F25: `serve` comes up; the others say what they saw."""
    answer, says = AWAY[what]
    async with answering(answer) as url:
        folder = written(tmp_path, url)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SIDECAR_", "DIRECTUS_"))}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidecar", "serve", "--config", str(folder / "sidecar.yaml")),
            cwd=folder,
            env=kept,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert (await process.stdout.readline()).startswith(b"listening on ")
            process.terminate()
            _, log = await process.communicate()
        assert process.returncode == 0
        waits = [json.loads(line) for line in log.splitlines() if b"directus_waited_for" in line]
        assert {line["logger"] for line in waits} == {"plugins.auth.directus", "plugins.persistence.directus"}
        assert all(says.partition(";")[0] in line["reason"] for line in waits), "the log says why"
        for command in (("bootstrap",), ("doctor", "--alone")):
            status, text = await sidecar(folder, *command)
            assert status == 1
            assert says.partition(";")[0] in text
            assert "token" not in text.replace("options.token", "").replace(f"{folder}", "").partition("warning")[0]


async def test_addresses_of_a_real_directus_that_are_not_quite_right(
    directus_server: DirectusServer, tmp_path: Path
) -> None:
    for url, says in (
        (f"{directus_server.url}/admin", "is no Directus (200 text/html); look at auth.options.url"),
        (f"{directus_server.url}/items", "does not serve its API at"),
        (f"{directus_server.url}/server", "look at the path in auth.options.url"),
    ):
        results = await all_three(written(tmp_path, url, token=ADMIN_TOKEN), DIRECTUS_ADMIN_TOKEN=ADMIN_TOKEN)
        assert [status for status, _ in results] == [3, 1, 1, 1], url
        assert all(says in text and url in text for _, text in results), [text for _, text in results]
    secure = directus_server.url.replace("http://", "https://")
    for command in (("bootstrap",), ("doctor", "--alone")):
        status, text = await sidecar(written(tmp_path, secure), *command)
        assert (status, "look at auth.options.url: is it http://?" in text) == (1, True)
    for url in (f"{directus_server.url}/", f"{directus_server.url}//"):
        status, text = await sidecar(written(tmp_path, url), "serve")
        assert (status, "refuses the service user's token (401" in text) == (3, True), "an end in / is no other address"


# -- tokens and their files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not there; bring it back, or run `sidecar bootstrap`"),
        ("", "what stands in it is empty"),
        ("\n \n", "what stands in it is empty"),
        ("two lines\nof text\n", "has blanks, line ends or other odd characters"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJpZCI6IngifQ.c2lnbmF0dXJl\n", "is that of a login, which expires"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("a-token-that-nobody-has\n", "refuses the service user's token (401 INVALID_CREDENTIALS)"),
    ],
)
async def test_a_token_file_that_is_not_as_it_should_be_is_named(
    directus_server: DirectusServer, content: str | bytes | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "the-token"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    folder = written(tmp_path, directus_server.url, token_file=str(file))
    for command, expected in ((("serve",), 3), (("doctor", "--alone"), 1)):
        status, text = await sidecar(folder, *command)
        assert status == expected, text
        assert says in text
        assert "options.token" in text
        if "401" not in says:
            assert str(file) in text
    assert (file.read_bytes() if file.exists() else None) == (content.encode() if isinstance(content, str) else content)


async def test_a_token_file_that_others_may_read_is_a_finding(directus_server: DirectusServer, tmp_path: Path) -> None:
    """One that ends with a line, as every editor leaves it, is as good as another."""
    file = tmp_path / "the-token"
    file.write_text(f"{ADMIN_TOKEN}\n")
    folder = written(tmp_path, directus_server.url, token_file=str(file))
    for mode, found in ((0o644, True), (0o660, True), (0o600, False), (0o400, False)):
        file.chmod(mode)
        _, text = await sidecar(folder, "doctor", "--alone", DIRECTUS_ADMIN_TOKEN=ADMIN_TOKEN)
        assert (f"chmod 600 {file}" in text) is found, oct(mode)
        assert "refuses the service user's token" not in text


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"DIRECTUS_ADMIN_TOKEN": "a token\nof two lines"}, "DIRECTUS_ADMIN_TOKEN has line ends"),
        ({"DIRECTUS_ADMIN_TOKEN": "  \n"}, "an administrator is needed"),
        ({"DIRECTUS_ADMIN_TOKEN_FILE": "/dev/null"}, "DIRECTUS_ADMIN_TOKEN_FILE names /dev/null, which is empty"),
        ({"DIRECTUS_ADMIN_TOKEN_FILE": "/nowhere"}, "DIRECTUS_ADMIN_TOKEN_FILE names /nowhere, which cannot be read"),
        (
            {"DIRECTUS_ADMIN_TOKEN": "wrong-token-of-an-admin"},
            "Directus refuses the administrator (401 INVALID_CREDENTIALS)",
        ),
    ],
)
async def test_an_administrator_that_is_none_is_named(
    directus_server: DirectusServer, environment: dict[str, str], says: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, directus_server.url)
    for command in (("bootstrap",), ("bootstrap", "--dry-run")):
        status, text = await sidecar(folder, *command, **environment)
        assert status == 1
        assert f"sidecar: auth: {says}" in text
        assert f"sidecar: persistence: {says}" in text


@pytest.mark.parametrize(
    ("options", "path", "says"),
    [
        ({"tokn": "x"}, "options.tokn", "did you mean"),
        ({"token": "x", "token_file": "y"}, "options", "write token or token_file, not both"),
        ({"token": ""}, "options", "the token is empty"),
        ({"url": "http://user:pass@directus.example.com"}, "options.url", "no user or password"),
        ({"url": "directus.example.com"}, "options.url", "write the address of Directus"),
        ({"collections": {"chats": "directus_chats"}}, "options.collections.chats", "does not begin with directus_"),
        ({"collections": {"chats": "our_rows", "messages": "our_rows"}}, "options.collections", "a name of its own"),
        ({"timeout": "4"}, "options.timeout", "is not a duration"),
    ],
)
async def test_options_that_are_wrong_are_named_before_anything_is_asked(
    options: dict[str, Any], path: str, says: str, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response()

    async with answering(noted) as url:
        folder = written(tmp_path, **{"url": url, **options})
        for command in (("serve",), ("bootstrap",), ("bootstrap", "--dry-run"), ("doctor", "--alone"), ("check",)):
            status, text = await sidecar(folder, *command)
            assert status == 2, text
            assert f"auth.{path}" in text
            assert says in text
    assert asked == []
