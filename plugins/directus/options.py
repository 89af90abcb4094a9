"""What every plugin that talks to Directus is told of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from plugins.directus.schema import Names
from sidecar import Duration


class DirectusOptions(BaseModel, extra="forbid"):
    """The options that they share."""

    url: str = Field(
        default="http://127.0.0.1:8055",
        description="Where Directus answers: http:// or https://, with its path if it has one.",
    )
    token: SecretStr | None = Field(
        default=None, description="The static token of the service user that `sidecar bootstrap` makes."
    )
    token_file: Path | None = Field(
        default=None,
        description="Instead of `token`: a file with it, which is read again when Directus refuses the token.",
    )
    collections: Names = Field(default=Names(), description="What the collections are called.")
    timeout: Annotated[float, Duration(0.1, 60)] = Field(
        default=4.0, description="What one call may take; keep it below the section's own `timeout`."
    )
    calls: Annotated[int, Field(ge=1, le=64)] = Field(
        default=16, description="Calls of this plugin under way at the same time; more only wait within Directus."
    )
    ca: Path | None = Field(default=None, description="A file of certificates (PEM) to trust instead of the system's.")

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            named = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            named = False
        if not named or re.search(r"[\s\\]", url):
            raise ValueError("write the address of Directus, such as https://directus.example.com")
        if parts.username is not None or parts.password is not None:
            raise ValueError("write no user or password into the address; the token is an option of its own")
        if parts.query or parts.fragment:
            raise ValueError("write the address without ? and #")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_token(self) -> DirectusOptions:
        if self.token is not None and self.token_file is not None:
            raise ValueError("write token or token_file, not both")
        if self.token is not None and (why := unusable(self.token.get_secret_value())) is not None:
            raise ValueError(f"the token {why}")
        return self


def unusable(token: str) -> str | None:
    """Why this can be no service user's token, with what to do; None where it can be one."""
    if not token:
        return "is empty; write it there, or leave the option out"
    if not token.isascii() or not token.isprintable() or " " in token:
        return "has blanks, line ends or other odd characters in it; put it there without them"
    if token.startswith("eyJ") and token.count(".") == 2:  # a JWT
        return "is that of a login, which expires; put the static token of the service user there"
    return None


class Token:
    """The service user's token, as the options have it or as its file has it now."""

    def __init__(self, options: DirectusOptions) -> None:
        self._file = options.token_file
        self._token = options.token.get_secret_value() if options.token is not None else ""

    @property
    def value(self) -> str:
        """Empty where none was given."""
        if not self._token:
            self.read_again()
        return self._token

    def read_again(self) -> bool:
        """Whether the file has another one by now, which counts from here on."""
        token = self._read()
        if token is None or unusable(token) is not None or token == self._token:
            return False
        self._token = token
        return True

    def lacking(self, part: str) -> str | None:
        """Why there is no token, with what to do; None where there is one. `part`: in whose section of the YAML it has to be."""
        if self.value:
            return None
        if self._file is None:
            return (
                f"the service user has no token; write {part}.options.token or token_file, and run `sidecar bootstrap`"
            )
        file, token = f"{self._file.absolute()} ({part}.options.token_file)", self._read()
        if token is None:
            found = self._file.exists()
            why = (
                "cannot be read; see who may"
                if found
                else "is not there; bring it back, or run `sidecar bootstrap`, which makes it"
            )
            return f"{file} {why}"
        return f"{file}: what stands in it {unusable(token)}"

    def open_to_others(self) -> Path | None:
        """Its file, if others than its owner may do anything with it."""
        try:
            return self._file if self._file is not None and self._file.stat().st_mode & 0o077 else None
        except OSError:
            return None

    def _read(self) -> str | None:
        if self._file is None:
            return None
        try:
            return self._file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
