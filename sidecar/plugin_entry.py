"""What the YAML says of one plugin, whether in a slot's section or in `plugins:`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sidecar.errors import Problem

SlotName = Literal["auth", "encryption", "cache", "persistence"]
SLOTS: tuple[SlotName, ...] = ("auth", "encryption", "cache", "persistence")


@dataclass(frozen=True, slots=True)
class PluginEntry:
    path: str
    """YAML path of the section: `cache`, `plugins[0]`; errors name it."""
    use: str
    """An entry point's name, `module:Class`, or in a slot's section a built-in's short name."""
    slot: SlotName | None = None
    """The section that it stands in; None for an entry of `plugins:`."""
    name: str = ""
    """Its position in the outbox; `persistence` for the persistence slot, else what `use` says unless given."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 5.0
    """Seconds that one call of a hook may take."""
    grants: tuple[Literal["plaintext"], ...] = ()
    on_failure: Literal["refuse", "pass"] = "refuse"
    """What a failing `before_…` hook does to the change."""
    line: int | None = None
    """Line of the section in the YAML file, where it came from one."""
    source: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    """Lines of single keys, by their path below the section (`options.url`), where they are known."""

    @property
    def known_as(self) -> str:
        """The name in effect. A slot's short `use` counts in full (`auth.directus`): two slots may use plugins of one name."""
        if self.slot == "persistence":
            return "persistence"
        if self.slot is not None and self.name in ("", self.use) and not {".", ":"} & set(self.use):
            return f"{self.slot}.{self.use}"
        return self.name or self.use

    def problem(self, message: str, remedy: str, at: str = "") -> Problem:
        """A problem of this section, or of the key `at` below it (`options.url`), with the nearest line that is known."""
        line, key = self.line, at
        while key:
            if key in self.lines:
                line = self.lines[key]
                break
            key = key.rpartition(".")[0]
        return Problem(f"{self.path}.{at}" if at else self.path, message, remedy, line, self.source)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a plugin may ask of the configuration besides its own options."""

    data_dir: Path
    """For files of embedded plugins; exists, 0700."""
    host: str
    """The address that the server listens on."""
