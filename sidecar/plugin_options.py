"""A plugin's options against its own `Options`, and its constructor. No value is ever repeated: it may be a secret."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from sidecar.errors import ConfigError, Problem, SidecarError
from sidecar.plugin_call import told, whereabouts
from sidecar.plugin_entry import PluginEntry, Surroundings
from sidecar.plugin_rules import did_you_mean, parameters_of

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    (str, "a string"),
    ((int, float), "a number"),
    (Mapping, "a map"),
    ((list, tuple, set), "a list"),
    (type(None), "null"),
)


def construct(cls: type, entry: PluginEntry, surroundings: Surroundings) -> object:
    """The plugin, made with its validated options. Raises `ConfigError`."""
    options = _options(cls, entry)
    given = {"options": options, "surroundings": surroundings}
    made_by = inspect.getattr_static(cls, "__init__")
    takes = [] if made_by is object.__init__ else parameters_of(made_by)[1:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [
        each.name for each in takes if each.kind not in variable and each.kind is not inspect.Parameter.POSITIONAL_ONLY
    ]
    strange = [
        each.name
        for each in takes
        if each.name not in given and each.default is each.empty and each.kind not in variable
    ]
    if strange or (options is not None and "options" not in names):
        raise _wrong(
            entry,
            f"the constructor of {cls.__name__} asks for {', '.join(strange)}"
            if strange
            else f"the constructor of {cls.__name__} takes no options",
            "write `def __init__(self, options)`, or `(self, options, surroundings)`",
        )
    try:
        return cls(**{name: given[name] for name in names if name in given})
    except KeyboardInterrupt:
        raise
    except (
        BaseException
    ) as error:  # a constructor may raise anything; it ends this start in one line, not in a traceback
        if isinstance(error, ConfigError):
            raise
        at = "" if isinstance(error, SidecarError) else f" at {whereabouts(error, 3)}"
        raise _wrong(
            entry,
            f"{cls.__name__} could not be made: {told(error)}{at}",
            "mend what it says" if isinstance(error, SidecarError) else "look at its options, or mend its constructor",
        ) from None


def _wrong(entry: PluginEntry, message: str, remedy: str, at: str = "use") -> ConfigError:
    return ConfigError([entry.problem(message, remedy, at)])


def _options(cls: type, entry: PluginEntry) -> BaseModel | None:
    model = getattr(cls, "Options", None)
    if model is None:
        if entry.options:
            raise _wrong(entry, f"{cls.__name__} has no options", "take `options` out", "options")
        return None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise _wrong(
            entry, f"{cls.__name__}.Options is no pydantic model", 'write `class Options(BaseModel, extra="forbid")`'
        )
    if model.model_config.get("extra") != "forbid":
        raise _wrong(
            entry,
            f"{cls.__name__}.Options does not refuse unknown keys, so a misspelt one would be lost",
            'write `class Options(BaseModel, extra="forbid")`',
        )
    try:
        return model.model_validate(dict(entry.options))
    except ValidationError as error:
        raise ConfigError(list(_problems(model, entry, error))) from None
    except Exception as error:  # noqa: BLE001 - a validator of the plugin's own that raises something else
        raise _wrong(
            entry,
            f"{cls.__name__}.Options failed: {told(error)} at {whereabouts(error, 3)}",
            "mend the plugin",
            "options",
        ) from None


def _problems(model: type[BaseModel], entry: PluginEntry, error: ValidationError) -> Iterator[Problem]:
    for each in error.errors(include_url=False, include_context=False):
        location = each["loc"]
        path = "options" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
        kind = _kind(each["input"])
        if each["type"] == "extra_forbidden":
            known = _keys_at(model, location[:-1])
            yield entry.problem("there is no such option", did_you_mean(str(location[-1]), known), path)
        elif each["type"] == "missing":
            yield entry.problem("it is missing", f"write `{location[-1]}: …`", path)
        elif each["type"] in ("value_error", "assertion_error"):
            said = _without_values(each["msg"].partition(", ")[2], entry.options)
            yield entry.problem(f"{kind} that does not fit", said or "write another value", path)
        else:
            # pydantic's own texts name what is wanted; what follows the comma may tell of the value.
            wanted = re.sub(
                r"^(Input|Value) should (be|have) ", "write ", each["msg"].split(", unable")[0].split(", got")[0]
            )
            yield entry.problem(f"{kind} that does not fit", wanted, path)


def _kind(value: object) -> str:
    return next((word for kinds, word in _KINDS if isinstance(value, kinds)), "a value")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys that the model, or the one nested at the location, knows; empty where the way there is not plain."""
    for step in location:
        field = model.model_fields.get(str(step))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ()
        model = inner
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _without_values(text: str, options: Mapping[str, Any]) -> str:
    """A plugin's own words without the values of its options, should it repeat one."""
    todo: list[object] = [options]
    while todo:
        value = todo.pop()
        if isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, list | tuple):
            todo += value
        elif isinstance(value, str | int | float) and not isinstance(value, bool) and str(value):
            text = text.replace(str(value), "…")
    return text[:200]
