"""From the YAML's entries to plugins that are ready to be entered, or to everything that is wrong with them at once."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sidecar.errors import ConfigError, Problem
from sidecar.hooks import Implementations
from sidecar.loaded_plugin import LoadedPlugin
from sidecar.plugin_entry import SLOTS, PluginEntry, Surroundings
from sidecar.plugin_import import extend_path, find_class, foreign_sidecars
from sidecar.plugin_options import construct
from sidecar.plugin_rules import broken_rules, hidden_hooks
from sidecar.plugins import Plugins

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}\Z")


def load(entries: Sequence[PluginEntry], surroundings: Surroundings, search_paths: Sequence[Path] = ()) -> Plugins:
    """Imports, checks and makes what `entries` list, and nothing else. Opens nothing: that happens when `Plugins` is entered.

    `search_paths`: the folder of the YAML file and the working folder; they are appended to the import path. Raises
    `ConfigError` with every problem of every entry.
    """
    problems = [*foreign_sidecars(), *_wrong_slots(entries), *_wrong_names(entries)]
    extend_path(search_paths)
    made: list[tuple[PluginEntry, object]] = []
    for entry in in_order(entries):
        try:
            cls = find_class(entry, search_paths)
            if wrong := list(broken_rules(cls, entry)):
                raise ConfigError(wrong)
            plugin = construct(cls, entry, surroundings)
            if wrong := list(hidden_hooks(plugin, entry)):
                raise ConfigError(wrong)
            made.append((entry, plugin))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    implementations = Implementations([(entry.known_as, plugin) for entry, plugin in made])
    return Plugins(
        [
            LoadedPlugin(entry, plugin, _file_of(plugin), implementations.of_plugin(entry.known_as))
            for entry, plugin in made
        ]
    )


def in_order(entries: Sequence[PluginEntry]) -> list[PluginEntry]:
    """The slots first, then `plugins:` as the YAML has them."""
    return sorted(entries, key=lambda entry: SLOTS.index(entry.slot) if entry.slot else len(SLOTS))


def _wrong_slots(entries: Sequence[PluginEntry]) -> Iterator[Problem]:
    for slot in SLOTS:
        filling = [entry for entry in entries if entry.slot == slot]
        if not filling:
            yield Problem(slot, "this slot is empty", f"write `{slot}: {{use: …}}`")
        for entry in filling[1:]:
            yield entry.problem(f"the slot {slot} is filled twice", "leave one of them: exactly one plugin fills it")


def _wrong_names(entries: Sequence[PluginEntry]) -> Iterator[Problem]:
    taken: dict[str, PluginEntry] = {}
    for entry in in_order(entries):
        name = entry.known_as
        if not _NAME.match(name):
            yield entry.problem("it has no fit name", "write `name:` with 1 to 100 of A-Z a-z 0-9 _ . : -", "name")
        elif entry.slot is None and name in SLOTS:
            yield entry.problem(f'"{name}" is the name of a slot', "write another `name:`", "name")
        elif name in taken:
            yield entry.problem(
                f'"{name}" is the name of {taken[name].path} too',
                "give one of them another `name:`; each has its own position in the outbox",
                "name",
            )
        taken.setdefault(name, entry)
        if not (math.isfinite(entry.timeout) and entry.timeout > 0):
            yield entry.problem("a timeout is longer than nothing and ends", "write a duration such as 5s", "timeout")


def _file_of(plugin: object) -> str | None:
    return getattr(sys.modules.get(type(plugin).__module__), "__file__", None)
