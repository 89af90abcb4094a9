"""Frozen records that are made often.

`@dataclass(frozen=True)` sets each field through `object.__setattr__`, which makes a record of eighteen fields four times as
expensive to make. A draft on its way through the house makes about fifteen records, so those are frozen for the type checker
alone (PEP 681); what hooks are handed is frozen for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A dataclass with slots that nobody assigns to: mypy refuses it, the interpreter does not look. Hashed by value."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
