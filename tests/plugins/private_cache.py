"""A cache that several workers may have: each its own, in memory. What it cannot do is share anything."""

from __future__ import annotations

from plugins.cache.memory import Memory
from sidecar import Surroundings


class Private(Memory):
    def __init__(self, options: Memory.Options, surroundings: Surroundings) -> None:
        super().__init__(options.model_copy(update={"journal": False}), surroundings)
