"""`${NAME}` and `${file:…}` within the strings of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidecar.config.places import KeyPath, Layer, Place, nearest, write_path
from sidecar.config.secrets import REDACTED
from sidecar.errors import Problem

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<body>[^{}]*)(?P<end>\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST = 64 * 1024
"""Bytes of a secret's file; more is a mistaken name."""


class _Missing(Exception):
    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class References:
    """Puts in what references name. `found` collects what came that way, `problems` what could not be found.

    `$${` stands for a plain `${`. What was put in is not looked through again. A single line break at the end of a file
    is not part of its secret. Something empty counts as missing: an empty pepper or password protects nothing.
    """

    def __init__(self, environment: Mapping[str, str], working_folder: Path) -> None:
        self._environment = environment
        self._working_folder = working_folder
        self.found: list[str] = []
        self.problems: list[Problem] = []

    def resolve(self, layer: Layer) -> Layer:
        """The layer with every reference replaced; a value whose reference is missing is left out, with a problem."""
        places = dict(layer.places)

        def walk(value: Any, path: KeyPath) -> Any:
            if isinstance(value, dict):
                return {key: walk(child, (*path, key)) for key, child in value.items()}
            if isinstance(value, list):
                return [walk(child, (*path, number)) for number, child in enumerate(value)]
            if isinstance(value, str) and "${" in value:
                place = nearest(layer.places, path) or Place("configuration")
                try:
                    text, places[path] = self._fill(value, place)
                except _Missing as missing:
                    self.problems.append(
                        Problem(write_path(path), missing.message, missing.remedy, place.line, place.source)
                    )
                    places[path] = replace(place, shown=REDACTED)
                    return MISSING
                return text
            return value

        return Layer(walk(layer.tree, ()), places)

    def _fill(self, value: str, place: Place) -> tuple[str, Place]:
        text, shown, end = "", "", 0
        references: list[str] = []
        for match in _REFERENCE.finditer(value):
            plain = value[end : match.start()]
            end = match.end()
            text, shown = text + plain, shown + plain
            if match["body"] is None:
                text, shown = text + "${", shown + "${"
                continue
            secret = self._look_up(match["body"], bool(match["end"]), place)
            self.found.append(secret)
            references.append(match[0])
            text, shown = text + secret, shown + REDACTED
        text, shown = text + value[end:], shown + value[end:]
        if not references:
            return text, place
        return text, replace(place, shown=shown, references=tuple(references))

    def _look_up(self, body: str, ended: bool, place: Place) -> str:
        if not ended:
            raise _Missing("a ${ without its }", "close it, or write $${ for a plain ${")
        if body.startswith("file:"):
            return self._read(body.removeprefix("file:").strip(), place)
        if not _NAME.fullmatch(body):
            raise _Missing(
                "${…} holds neither a variable's name nor file:",
                "write ${NAME} or ${file:/path}, or $${ for a plain ${",
            )
        value = self._environment.get(body)
        if value is None:
            raise _Missing(f"the environment variable {body} is not set", f"set {body}, or write the value another way")
        if not value:
            raise _Missing(f"the environment variable {body} is empty", f"set {body} to the secret, or remove this key")
        return value

    def _read(self, name: str, place: Place) -> str:
        if not name:
            raise _Missing("${file:} names no file", "write ${file:/run/secrets/token}")
        path = (place.folder or self._working_folder) / Path(name).expanduser()
        try:
            with path.open("rb") as file:
                raw = file.read(_MOST + 1)
            text = raw.decode()
        except UnicodeDecodeError:
            raise _Missing(
                f"the file {name} is not UTF-8 text", "put the secret there as text, such as base64"
            ) from None
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it cannot be opened"
            where = "" if Path(name).is_absolute() else f" (looked up in {path.parent})"
            raise _Missing(
                f"the file {name} cannot be read: {reason.lower()}{where}",
                "make it, or mend its name or its permissions",
            ) from None
        if len(raw) > _MOST:
            raise _Missing(f"the file {name} is larger than 64 KiB", "name a file that holds the secret alone")
        text = text.removesuffix("\n").removesuffix("\r")
        if not text.strip():
            raise _Missing(f"the file {name} is empty", "write the secret into it")
        return text


MISSING = object()
"""Stands where a reference could not be resolved; such a node is left out before validation."""
