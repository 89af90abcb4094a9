"""From what pydantic found to problems: path, line, what is wrong, what to write instead."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sidecar.config.model import Config
from sidecar.config.places import KeyPath, Place, nearest, write_path
from sidecar.config.sections import Slot
from sidecar.config.values import kind_of
from sidecar.errors import Problem


def close_to(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    names = {name.replace("-", "_").lower(): name for name in known}
    found = difflib.get_close_matches(word.replace("-", "_").lower(), list(names), 1, 0.6)
    return names[found[0]] if found else None


def model_at(path: KeyPath) -> type[BaseModel] | None:
    """The model whose keys stand under a path; None where there is none, such as within a plugin's options."""
    model: type[BaseModel] | None = Config
    for part in path:
        if isinstance(part, int):
            continue
        if model is None or part not in model.model_fields:
            return None
        model = _model_of(model.model_fields[part].annotation)
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in {tuple, typing.Union, types.UnionType}:
        for argument in typing.get_args(annotation):
            found = _model_of(argument)
            if found is not None:
                return found
    return None


def is_list(annotation: Any) -> bool:
    """Whether a field of this annotation holds a list."""
    return typing.get_origin(annotation) is tuple


def every_key(model: type[BaseModel] = Config, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key of the YAML that is no section: `("server", "port")`; of lists of sections the list and its keys too."""
    for name, field in model.model_fields.items():
        inner = _model_of(field.annotation)
        if inner is None or is_list(field.annotation):
            yield (*path, name)
        if inner is not None:
            yield from every_key(inner, (*path, name))


def problems_of(error: ValidationError, places: Mapping[KeyPath, Place]) -> list[Problem]:
    """One problem for each error. The texts repeat no value, so there is nothing to redact."""
    found = []
    for detail in error.errors(include_url=False):
        path = tuple(detail["loc"])
        what, remedy = _explain(detail, path)
        place = nearest(places, path)
        found.append(
            Problem(
                write_path(path),
                what,
                remedy,
                place.line if place else None,
                place.source if place else None,
            )
        )
    return found


def _explain(detail: ErrorDetails, path: KeyPath) -> tuple[str, str]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "config":
        return str(context["what"]), str(context["remedy"])
    if kind == "extra_forbidden":
        return "is no key that exists", _suggest(path, value)
    if kind == "missing":
        return "is missing", f"add `{path[-1]}:` here"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        model = model_at(path)
        if model is not None and issubclass(model, Slot) and isinstance(value, str):
            return (
                "must be a map, not text",
                f"write `{'- ' if isinstance(path[-1], int) else f'{path[0]}: '}{{use: …}}`",
            )
        example = f"{next(iter(model.model_fields))}: …" if model is not None else "key: value"
        return f"must be a map, not {kind_of(value)}", f"write keys below it, such as `{example}`"
    if kind in {"tuple_type", "list_type"}:
        return f"must be a list, not {kind_of(value)}", "write it as [one, two], or with a dash before each item"
    return f"does not fit: {detail['msg']}", "see docs/configuration.md for what fits here"


def _suggest(path: KeyPath, value: Any) -> str:
    key = str(path[-1])
    model = model_at(path[:-1])
    known = list(model.model_fields) if model is not None else []
    meant = close_to(key, known)
    if meant is not None:
        return f"did you mean `{meant}`?"
    if model is not None and issubclass(model, Slot):
        return f"the plugin's own settings go under `options:`; the keys here are {', '.join(known)}"
    elsewhere = [each for each in every_key() if each[-1] == key and len(each) == 2]
    if elsewhere:
        return f"did you mean {' or '.join(f'`{write_path(each)}`' for each in elsewhere)}?"
    remedy = f"the keys here are {', '.join(known)}"
    return remedy + ("; a key of your own begins with x-" if len(path) == 1 else "")
