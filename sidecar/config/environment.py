"""`SIDECAR_SECTION__KEY` in the environment, as a layer over the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sidecar.config.model import Config
from sidecar.config.places import KeyPath, Layer, Place, over, single, write_path
from sidecar.config.problems import close_to, every_key, is_list, model_at
from sidecar.config.values import kind_of
from sidecar.errors import Problem

PREFIX = "SIDECAR_"
_OTHER = frozenset({"DEBUG"})
"""Variables with our prefix that are no keys: `SIDECAR_DEBUG` shows tracebacks."""


def read_environment(environment: Mapping[str, str], problems: list[Problem], notices: list[Problem]) -> Layer:
    """The values that the environment sets; deeper names win over the JSON of what is above them.

    Lists and maps are JSON, everything else is text that is read as the key's kind wants it; `null` is null. A name
    without `__` that is no top-level key is left alone: Kubernetes sets such names for a service called `sidecar`.
    """
    layer = Layer({}, {})
    names = [name for name in environment if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _OTHER]
    for name in sorted(names, key=lambda each: (each.count("__"), each)):
        parts = name.removeprefix(PREFIX).lower().split("__")
        path: KeyPath = tuple(parts)
        if len(parts) == 1 and parts[0] not in Config.model_fields:
            meant = _nearly(parts[0])
            if meant and not environment[name].startswith("tcp://"):
                notices.append(
                    Problem(
                        write_path(meant),
                        f"{name} is not read",
                        f"to set this key, call it {variable(meant)}",
                        source=name,
                    )
                )
            continue
        kind = _kind(path)
        if kind is None:
            problems.append(Problem(write_path(path), "is no key that exists", _suggest(path), source=name))
            continue
        value = environment[name]
        try:
            read = _value(value, kind)
        except ValueError as error:
            problems.append(Problem(write_path(path), f"must be {kind} in JSON: {error}", _example(kind), source=name))
            continue
        layer = over(layer, single(path, read, Place(name)))
    return layer


def variable(path: KeyPath) -> str:
    """The variable that sets a key."""
    return PREFIX + "__".join(str(part) for part in path).upper()


def _kind(path: KeyPath) -> str | None:
    """`a map`, `a list`, `text`, `anything` (within a plugin's options), or None when there is no such key."""
    for length in range(1, len(path) + 1):
        above, name = model_at(path[: length - 1]), path[length - 1]
        if above is None or not isinstance(name, str) or name not in above.model_fields:
            return None
        field = above.model_fields[name]
        if name == "options" and length < len(path):
            return "anything"
        if is_list(field.annotation):
            return "a list" if length == len(path) else None
    if name == "options" or model_at(path) is not None:
        return "a map"
    return "text"


def _value(text: str, kind: str) -> Any:
    if kind == "text" or (kind == "anything" and text[:1] not in {"[", "{", '"'}):
        return None if text == "null" else text
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None
    if (kind == "a map" and not isinstance(value, dict)) or (kind == "a list" and not isinstance(value, list)):
        raise ValueError(f"it is {kind_of(value)}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _example(kind: str) -> str:
    return {"a map": 'write {"key": "value"}', "a list": 'write ["one", "two"]'}.get(
        kind, 'write JSON, or text that begins with a bracket or quote as a JSON string: "…"'
    )


def _suggest(path: KeyPath) -> str:
    if path[0] == "plugins":
        return f"give the whole list as JSON in {PREFIX}PLUGINS"
    names = {variable(each): each for each in every_key() if each[0] != "plugins" and "service_keys" not in each[:-1]}
    meant = close_to(variable(path), names)
    return f"did you mean {meant}?" if meant else "see docs/configuration.md for the keys"


def _nearly(name: str) -> KeyPath | None:
    for path in every_key():
        if len(path) > 1 and "_".join(str(part) for part in path) == name:
            return path
    return None
