"""Where a value of the configuration came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KeyPath = tuple[str | int, ...]
"""`("plugins", 0, "options", "url")`; written `plugins[0].options.url`."""


def write_path(path: Sequence[str | int]) -> str:
    """A path as errors name it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def read_path(text: str) -> KeyPath:
    """The inverse of `write_path`."""
    parts: list[str | int] = []
    for part in text.replace("[", ".[").split("."):
        if part.startswith("[") and part.endswith("]") and part[1:-1].isdigit():
            parts.append(int(part[1:-1]))
        elif part:
            parts.append(part)
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Place:
    source: str
    """The file as it was named, an environment variable, a flag, `default` or `embedded default`."""
    line: int | None = None
    folder: Path | None = None
    """Relative file names that were given here are taken from this folder; None: the working folder."""
    shown: str | None = field(default=None, repr=False)
    """What may be printed in place of the value, where a `${…}` went into it."""
    references: tuple[str, ...] = ()
    """The `${…}` that went into it, as they were written."""

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return ", ".join([where, *self.references])


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of values: a tree of maps, lists and scalars, and the place of each of its nodes."""

    tree: dict[str, Any] = field(repr=False)
    places: dict[KeyPath, Place]


def nodes(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every node below (and with) a value, parents first."""
    waiting: list[tuple[KeyPath, Any]] = [(path, value)]
    while waiting:
        here, found = waiting.pop()
        yield here, found
        if isinstance(found, Mapping):
            waiting.extend(((*here, key), child) for key, child in reversed(list(found.items())))
        elif isinstance(found, list | tuple):
            waiting.extend(((*here, number), child) for number, child in reversed(list(enumerate(found))))


def single(path: KeyPath, value: Any, place: Place) -> Layer:
    """A layer that sets one value."""
    tree: Any = value
    for part in reversed(path):
        tree = {part: tree}
    return Layer(tree, {node: place for node, _ in nodes(tree)})


def over(lower: Layer, upper: Layer) -> Layer:
    """Both layers as one: maps are merged key by key, anything else of `upper` takes the place of what is below it."""
    places = dict(lower.places)

    def merge(low: dict[str, Any], high: dict[str, Any], at: KeyPath) -> dict[str, Any]:
        merged = dict(low)
        for key, value in high.items():
            path = (*at, key)
            if isinstance(value, dict) and isinstance(low.get(key), dict):
                merged[key] = merge(low[key], value, path)
                if value or path not in places:
                    places[path] = upper.places[path]
                continue
            for old in [each for each in places if each[: len(path)] == path]:
                del places[old]
            merged[key] = value
            places.update((node, upper.places[node]) for node, _ in nodes(value, path) if node in upper.places)
        return merged

    return Layer(merge(lower.tree, upper.tree, ()), places)


def nearest(places: Mapping[KeyPath, Place], path: KeyPath) -> Place | None:
    """The place of a node, else of the closest node above it that has one."""
    for length in range(len(path), 0, -1):
        place = places.get(path[:length])
        if place is not None:
            return place
    return places.get(())
