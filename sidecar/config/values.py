"""The kinds of value in the YAML: each reads what was written, says what to write instead, and describes itself to editors."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sidecar.config.secrets import REDACTED

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")


def wrong(what: str, remedy: str) -> PydanticCustomError:
    """The error of one value: what is wrong, and what to write instead. Neither may repeat the value, which may have come through `${…}`."""
    return PydanticCustomError("config", "{what}", {"what": what, "remedy": remedy})


def kind_of(value: object) -> str:
    """What YAML calls such a value; for errors, which must not repeat values that may be secret."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "a map"


def write_duration(seconds: float) -> str:
    """The shortest exact way to write a duration, to the millisecond."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def write_size(count: int) -> str:
    """The shortest exact way to write a number of bytes."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return f"{count}B"


class Kind(ABC):
    """Joins a kind to pydantic: `read` validates, `write` is how the value is printed, `described` goes into the JSON Schema."""

    __slots__ = ()

    @abstractmethod
    def read(self, value: Any) -> Any: ...

    def write(self, value: Any) -> Any:
        return value

    @abstractmethod
    def described(self) -> JsonSchemaValue: ...

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(self.write, when_used="json")
        return core_schema.no_info_plain_validator_function(self.read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self.described()


@dataclass(frozen=True, slots=True)
class Duration(Kind):
    """A time span with its unit, `300ms` `2s` `30m` `24h` `7d`, as float seconds. The limits are seconds."""

    low: float
    high: float

    def read(self, value: Any) -> float:
        found = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if not found:
            if isinstance(value, int | float) and not isinstance(value, bool):
                raise wrong("a duration needs its unit", "write it as 300ms, 2s, 30m or 24h")
            raise wrong("is not a duration", "write a number with its unit: 300ms, 2s, 30m or 24h")
        seconds = float(found[1]) * _SECONDS[found[2]]
        if not self.low <= seconds <= self.high:
            span = f"{write_duration(self.low)} to {write_duration(self.high)}"
            raise wrong(
                f"is {'shorter' if seconds < self.low else 'longer'} than allowed", f"write a duration of {span}"
            )
        return seconds

    def write(self, value: Any) -> str:
        return write_duration(value)

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_DURATION.pattern}$"}


@dataclass(frozen=True, slots=True)
class Size(Kind):
    """A number of bytes with its unit, `512B` `128KiB` `1MiB`. The limits are bytes."""

    low: int
    high: int

    def read(self, value: Any) -> int:
        found = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if not found:
            if isinstance(value, int) and not isinstance(value, bool):
                raise wrong("a size needs its unit", "write it as 512B, 128KiB or 1MiB")
            raise wrong(
                "is not a size", "write a whole number with its unit: 512B, 128KiB or 1MiB (1 KiB is 1024 bytes)"
            )
        count = int(found[1]) * _BYTES[found[2]]
        if not self.low <= count <= self.high:
            span = f"{write_size(self.low)} to {write_size(self.high)}"
            raise wrong(f"is {'smaller' if count < self.low else 'larger'} than allowed", f"write a size of {span}")
        return count

    def write(self, value: Any) -> str:
        return write_size(value)

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_SIZE.pattern}$"}


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """A whole number within limits; text of digits too, since that is what environment variables and `${…}` give."""

    low: int
    high: int

    def read(self, value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong(
                f"must be a whole number, not {kind_of(value)}", f"write a number from {self.low} to {self.high}"
            )
        if not self.low <= value <= self.high:
            size = "small" if value < self.low else "large"
            raise wrong(f"is too {size}", f"write a number from {self.low} to {self.high}")
        return value

    def described(self) -> JsonSchemaValue:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Switch(Kind):
    """true or false; `yes`, `no`, `on` and `off` too, which people write."""

    def read(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            word = value.lower()
            if word in {"true", "yes", "on"}:
                return True
            if word in {"false", "no", "off"}:
                return False
        raise wrong(f"must be true or false, not {kind_of(value)}", "write true or false")

    def described(self) -> JsonSchemaValue:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Name(Kind):
    """Text of a given shape. `what` says in words what belongs here."""

    pattern: str
    what: str

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(f"must be text, not {kind_of(value)}", f"write {self.what}, in quotes")
        if not re.fullmatch(self.pattern, value):
            raise wrong("is not a name that fits here", f"write {self.what}")
        return value

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{self.pattern}$"}


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of a few words, in whichever case they were written."""

    words: tuple[str, ...]

    def read(self, value: Any) -> str:
        if value is False and "off" in self.words:
            return "off"  # YAML 1.1 habits: an unquoted off that some tool turned into false
        for word in self.words:
            if isinstance(value, str) and value.lower() == word.lower():
                return word
        raise wrong("is not one of the words that fit here", f"write one of: {', '.join(self.words)}")

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Secret(Kind):
    """Text that is never printed, of a least length in characters."""

    shortest: int

    def read(self, value: Any) -> SecretStr:
        if isinstance(value, SecretStr):
            return value
        if not isinstance(value, str):
            raise wrong(f"must be text, not {kind_of(value)}", "put it in quotes, or give it as ${NAME} or ${file:…}")
        if len(value) < self.shortest:
            raise wrong("is too short for a secret", f"use at least {self.shortest} random characters")
        return SecretStr(value)

    def write(self, value: Any) -> str:
        return REDACTED

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "minLength": self.shortest, "writeOnly": True}


@dataclass(frozen=True, slots=True)
class FileName(Kind):
    """A file or folder. `reading` has made a relative one absolute, from the folder of the place where it was given."""

    def read(self, value: Any) -> Path:
        if isinstance(value, Path):
            return value
        if not isinstance(value, str) or not value or "\0" in value:
            raise wrong(
                f"must be the name of a file or folder, not {kind_of(value)}", "write a path such as ./sidecar-data"
            )
        return Path(value)

    def write(self, value: Any) -> str:
        return str(value)

    def described(self) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1}
