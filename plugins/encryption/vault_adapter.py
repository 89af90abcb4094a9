"""What hvac speaks through: its API on our connections, with the deadline of one exchange."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from hvac.adapters import Adapter
from hvac.utils import raise_for_error

from plugins.encryption.vault_wire import Exchange, Wire


class WireAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """For one exchange, in one thread: `KvV2(adapter).read_secret_version(…)`.

    Answers are JSON objects, {} where Vault answers without content. What Vault refuses is one of `hvac.exceptions`; where
    no answer came it is `NoAnswer` or `NotVault`.
    """

    def __init__(self, wire: Wire, exchange: Exchange, token: str | None, namespace: str | None) -> None:
        # Not hvac's own: it would open a session of requests, and look for tokens in the environment and the home folder.
        self.base_uri = wire.url
        self.token = token
        self.namespace = namespace
        self._wire = wire
        self._exchange = exchange

    def get_login_token(self, response: Any) -> str:
        return str(response["auth"]["client_token"])

    def request(
        self, method: str, url: str, headers: dict[str, str] | None = None, raise_exception: bool = True, **given: Any
    ) -> dict[str, Any]:
        """`given`: `json` and `params`, as hvac's API passes them."""
        sent = {"X-Vault-Request": "true", **(headers or {})}
        if self.token:
            sent["X-Vault-Token"] = self.token
        if self.namespace:
            sent["X-Vault-Namespace"] = self.namespace
        path = f"/{url.lstrip('/')}"
        if params := {name: value for name, value in (given.get("params") or {}).items() if value is not None}:
            path += f"?{urlencode(params)}"
        answer = self._wire.ask(method.upper(), path, sent, given.get("json"), self._exchange)
        content = dict(answer.content or {})
        if answer.status >= 400 and raise_exception:
            errors = content.get("errors")
            said = [str(each) for each in errors] if isinstance(errors, list) else None
            raise_for_error(method, path, answer.status, "", errors=said, json=content)
        return content
