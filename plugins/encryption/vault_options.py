"""What stands below `encryption.options` for Vault."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from plugins.encryption.vault_sign_in import AppRoleSignIn, GivenToken, KubernetesSignIn, SignIn
from sidecar import Duration

Mount = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", max_length=200)]
"""A path in Vault, without slashes at its ends."""
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class _Options(BaseModel, extra="forbid", hide_input_in_errors=True):
    pass


def _exactly_one(options: BaseModel, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(options, name) is not None]
    if len(given) != 1:
        raise ValueError(f"write exactly one of {', '.join(names)}")


class TokenOptions(_Options):
    value: SecretStr | None = Field(default=None, description="The token; give it as ${VAULT_TOKEN} or ${file:…}.")
    file: Path | None = Field(
        default=None, description="A file that holds the token, such as an agent's sink; read again when it ends."
    )

    @model_validator(mode="after")
    def _one(self) -> TokenOptions:
        _exactly_one(self, ("value", "file"))
        return self


class AppRoleOptions(_Options):
    role_id: str
    secret_id: SecretStr | None = Field(
        default=None, description="Give it as ${…}; a file is better: it can be exchanged."
    )
    secret_id_file: Path | None = Field(
        default=None, description="A file that holds the secret id; read at each sign-in."
    )
    wrapped_secret_id_file: Path | None = Field(
        default=None,
        description="A file with wrapping tokens (vault write -wrap-ttl=…), one a line for each process that starts.",
    )
    mount: Mount = "approle"

    @model_validator(mode="after")
    def _at_most_one(self) -> AppRoleOptions:
        names = ("secret_id", "secret_id_file", "wrapped_secret_id_file")
        if any(getattr(self, name) is not None for name in names):  # a role may be bound to addresses alone
            _exactly_one(self, names)
        return self


class KubernetesOptions(_Options):
    role: str
    token_file: Path = _SERVICE_ACCOUNT
    mount: Mount = "kubernetes"


class AuthOptions(_Options):
    token: TokenOptions | None = None
    approle: AppRoleOptions | None = None
    kubernetes: KubernetesOptions | None = None

    @model_validator(mode="after")
    def _one(self) -> AuthOptions:
        _exactly_one(self, ("token", "approle", "kubernetes"))
        return self

    def sign_in(self) -> SignIn:
        """The way in that was chosen."""
        if self.token is not None:
            value = self.token.value
            return GivenToken(value.get_secret_value() if value is not None else None, self.token.file)
        if self.kubernetes is not None:
            chosen = self.kubernetes
            return KubernetesSignIn(chosen.role, token_file=chosen.token_file, mount=chosen.mount)
        if self.approle is None:
            raise AssertionError("one of them is there")
        role = self.approle
        return AppRoleSignIn(
            role.role_id,
            secret_id=role.secret_id.get_secret_value() if role.secret_id is not None else None,
            secret_id_file=role.secret_id_file,
            wrapped_file=role.wrapped_secret_id_file,
            mount=role.mount,
        )


class TransitOptions(_Options):
    mount: Mount = "transit"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$", description="Of the key that wraps.")] = "sidecar"


class VaultOptions(_Options):
    """`encryption.options` for `vault`."""

    url: str = Field(
        default="http://127.0.0.1:8200", description="http:// or https://, the one place that a token is sent to."
    )
    mount: Mount = Field(default="secret", description="A KV v2 engine.")
    path: Mount = Field(default="sidecar", description="The folder in it that belongs to this deployment alone.")
    mode: Literal["kv", "transit"] = Field(
        default="kv",
        description="kv: Vault keeps the keys. transit: it keeps them wrapped by a key that never leaves it.",
    )
    transit: TransitOptions = TransitOptions()
    auth: AuthOptions
    ca: Path | None = Field(
        default=None, description="Certificates (PEM) that Vault's must come from; default: the system's."
    )
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]{1,200}$")] | None = None
    timeout: Annotated[float, Duration(0.05, 30)] = Field(
        default=2.0, description="What a call may take before it is answered `unavailable`."
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        try:
            port_fits = parts.port is None or parts.port > 0
        except ValueError:
            port_fits = False
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
            raise ValueError("write https://vault.example.com:8200")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("write scheme, host, port and path alone; tokens belong into auth")
        return value.rstrip("/")
