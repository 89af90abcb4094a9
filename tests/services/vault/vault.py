"""A Vault that answers, and what tests ask of it with its root token."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hvac
from hvac.exceptions import InvalidPath, InvalidRequest

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AppRole:
    """A way to sign in, with a secret id that was made for it."""

    mount: str
    name: str
    role_id: str
    secret_id: str


class Vault:
    """What a test asks of a Vault: `await vault.approle(POLICY)`. `mount` is a KV v2 engine of the test's own, empty.

    All but `client` is done by the root token in a thread. Engines, policies and roles that are made here go with
    `clean()`, which gives the next test a new engine under the same name.
    """

    def __init__(self, mount: str = "secret") -> None:
        self.mount = mount
        self.root_token = ""
        self._undo: list[tuple[str, str]] = []
        self._client: hvac.Client | None = None

    @property
    def url(self) -> str:
        """For hvac and for the sidecar's `encryption.vault`."""
        raise NotImplementedError

    # -- clients -------------------------------------------------------------------------------------------------------

    @contextmanager
    def client(self, token: str | None = None, **options: Any) -> Iterator[hvac.Client]:
        """hvac's own, synchronous client; without a token root's."""
        client = hvac.Client(self.url, token or self.root_token, **options)
        try:
            yield client
        finally:
            client.adapter.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.adapter.close()
            self._client = None

    async def _ask(self, ask: Callable[[hvac.Client], Any]) -> Any:
        """In a thread: a Vault that hangs holds up no other part of the test."""
        if self._client is None:
            self._client = hvac.Client(self.url, self.root_token)
        return await asyncio.to_thread(ask, self._client)

    # -- any path ------------------------------------------------------------------------------------------------------

    async def read(self, path: str) -> Told | None:
        """GET; None where nothing is."""
        told: Told | None = await self._ask(lambda client: client.read(path))
        return told

    async def write(self, path: str, **data: Any) -> Told:
        """PUT; what is answered without content is {}."""
        answer = await self._ask(lambda client: client.write_data(path, data=data))
        return answer if isinstance(answer, dict) else {}

    async def names(self, path: str) -> list[str]:
        """LIST; nothing where nothing is. A folder's name ends with `/`."""
        told = await self._ask(lambda client: client.list(path))
        return list(told["data"]["keys"]) if told else []

    async def remove(self, path: str) -> None:
        """DELETE; nothing to do where nothing is."""
        try:
            await self._ask(lambda client: client.delete(path))
        except InvalidPath:
            pass

    async def entries(self, path: str = "") -> list[str]:
        """The paths of all KV entries below `path` that have metadata, destroyed ones too."""
        found: list[str] = []
        for name in await self.names(f"{self.mount}/metadata/{path}"):
            found += await self.entries(path + name) if name.endswith("/") else [path + name]
        return found

    # -- engines -------------------------------------------------------------------------------------------------------

    async def mount_kv(self, name: str | None = None, *, version: int = 2) -> str:
        """Another KV engine; its name."""
        name = name or _a_name("kv")
        await self._mount(name, type="kv", options={"version": str(version)})
        await self._until_upgraded(name)
        return name

    async def mount_transit(self, name: str | None = None) -> str:
        """A transit engine; its name."""
        name = name or _a_name("transit")
        await self._mount(name, type="transit")
        return name

    async def _mount(self, name: str, **what: Any) -> None:
        await self.write(f"sys/mounts/{name}", **what)
        self._undo.append((f"sys/mounts/{name}", name))

    async def _until_upgraded(self, mount: str) -> None:
        """A new KV v2 engine refuses everything for a moment, while it "upgrades" what is not there."""
        async with asyncio.timeout(20):
            while True:
                try:
                    await self.read(f"{mount}/config")
                    return
                except InvalidRequest as error:
                    if "pgrading" not in str(error):
                        raise
                await asyncio.sleep(0.01)

    # -- who may do what -----------------------------------------------------------------------------------------------

    async def policy(self, rules: str | Mapping[str, list[str]], name: str | None = None) -> str:
        """Makes or changes a policy, from HCL or from capabilities by path; its name. It holds for tokens that are there too."""
        name = name or _a_name("policy")
        if not isinstance(rules, str):
            rules = json.dumps({"path": {path: {"capabilities": capabilities} for path, capabilities in rules.items()}})
        path = f"sys/policies/acl/{name}"
        await self.write(path, policy=rules)
        if (path, name) not in self._undo:
            self._undo.append((path, name))
        return name

    async def token(self, *policies: str, **options: Any) -> str:
        """A token with these policies, by name; `options` as auth/token/create has them: ttl, renewable, num_uses, period."""
        made = await self.write(
            "auth/token/create", policies=list(policies), no_parent=True, **{"no_default_policy": False, **options}
        )
        return str(made["auth"]["client_token"])

    async def approle(self, *policies: str, mount: str | None = None, **options: Any) -> AppRole:
        """A role with these policies, by name; `options` as auth/approle/role has them: token_ttl, secret_id_num_uses."""
        if mount is None:
            mount = _a_name("approle")
            await self.write(f"sys/auth/{mount}", type="approle")
            self._undo.append((f"sys/auth/{mount}", mount))
        name = _a_name("role")
        await self.write(f"auth/{mount}/role/{name}", token_policies=list(policies), **options)
        told = await self.read(f"auth/{mount}/role/{name}/role-id")
        assert told is not None
        return AppRole(mount, name, str(told["data"]["role_id"]), await self.secret_id(mount, name))

    async def secret_id(self, mount: str, role: str, *, wrap_ttl: str | None = None, **options: Any) -> str:
        """One more secret id of a role; with `wrap_ttl` the token that it is wrapped in."""
        path = f"auth/{mount}/role/{role}/secret-id"
        made = await self._ask(lambda client: client.write_data(path, data=options, wrap_ttl=wrap_ttl))
        return str(made["wrap_info"]["token"] if wrap_ttl else made["data"]["secret_id"])

    async def revoke(self, token: str) -> None:
        """From now on this token is refused, and all that came of it."""
        await self.write("auth/token/revoke", token=token)

    # -- the next test -------------------------------------------------------------------------------------------------

    async def clean(self) -> None:
        """Undoes what was made here, the engine `mount` and all it held too, and mounts a new one."""
        await self.undo()
        await self.mount_kv(self.mount)

    async def undo(self) -> None:
        """Undoes what was made here, the last first."""
        while self._undo:
            await self.remove(self._undo.pop()[0])


def _a_name(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(4)}"
