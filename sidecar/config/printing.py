"""The effective configuration as it may be shown: every value with its source, no secret."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from sidecar.config.model import Config
from sidecar.config.places import KeyPath, write_path
from sidecar.config.secrets import REDACTED, is_sensitive


def redacted(config: Config) -> dict[str, Any]:
    """Every value as it is written in YAML. `[redacted]` stands for what came through `${…}` and for what is secret by its name."""
    tree = _shown(config, config.model_dump(mode="json"), (), False)
    assert isinstance(tree, dict)  # noqa: S101 - a model's dump is a map
    return tree


def as_json(config: Config) -> dict[str, dict[str, Any]]:
    """`{"server.port": {"value": 8770, "source": "default"}}`; `line` where the value stands in a file."""
    found: dict[str, dict[str, Any]] = {}
    for path, value in _leaves(redacted(config), ()):
        place = config.place(path)
        found[write_path(path)] = {"value": value, "source": ", ".join([place.source, *place.references])}
        if place.line is not None:
            found[write_path(path)]["line"] = place.line
    return found


def as_yaml(config: Config) -> str:
    """The whole configuration as YAML, with each value's source as a comment."""
    return "\n".join(_lines(config, redacted(config), (), 0)) + "\n"


def _shown(config: Config, value: Any, path: KeyPath, sensitive: bool) -> Any:
    shown = config.place(path).shown
    if shown is not None:
        return REDACTED if sensitive else config.redact(shown)
    if isinstance(value, dict):
        return {
            key: _shown(config, child, (*path, key), sensitive or ("options" in path and is_sensitive(key)))
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [_shown(config, child, (*path, number), sensitive) for number, child in enumerate(value)]
    if sensitive and value is not None:
        return REDACTED
    return config.redact(value) if isinstance(value, str) else value


def _is_block(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if not _is_block(value):
        yield path, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    else:
        for number, child in enumerate(value):
            yield from _leaves(child, (*path, number))


def _lines(config: Config, value: Any, path: KeyPath, depth: int) -> Iterator[str]:
    indent = "  " * depth
    entries: Iterator[tuple[str | int, str, Any]]
    if isinstance(value, dict):
        entries = ((key, f"{_scalar(key)}:", child) for key, child in value.items())
    else:
        entries = ((number, "-", child) for number, child in enumerate(value))
    for part, label, child in entries:
        here = (*path, part)
        if not _is_block(child):
            yield f"{indent}{label} {_scalar(child)}  # {_source(config, here)}"
            continue
        yield f"{indent}{label}"
        yield from _lines(config, child, here, depth + 1)


def _source(config: Config, path: KeyPath) -> str:
    return str(config.place(path)).replace("\n", " ")


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 30)
    return text.removesuffix("\n").removesuffix("\n...")
