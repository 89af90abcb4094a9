"""What the loader refuses in a plugin's class. pluggy accepts much of it in silence, and then never calls it, or in an order
of its own."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sidecar.errors import Problem
from sidecar.hooks import HOOKS, PHASES, mark_of
from sidecar.plugin_entry import SLOTS, PluginEntry

API = 1
"""The plugin interface that this sidecar speaks."""

_NO_MARKS = ("optionalhook", "specname", "tryfirst", "trylast", "hookwrapper", "wrapper")
_WRITES = tuple(hook for hook in HOOKS if hook.startswith("on_"))


def did_you_mean(word: str, words: list[str] | tuple[str, ...]) -> str:
    """`did you mean "url"?`, or what there is."""
    near = difflib.get_close_matches(word, words, 1, 0.6)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"there is {', '.join(words)}" if words else "there is none"


def broken_rules(cls: type, entry: PluginEntry) -> Iterator[Problem]:
    """Everything that is wrong with this class at this place in the YAML."""
    name = cls.__name__
    api = getattr(cls, "api", None)
    if api is None:
        yield entry.problem(
            f"{name} does not say which plugin interface it was written for",
            f"write `api = {API}` into the class",
            "use",
        )
    elif type(api) is not int or api != API:
        yield entry.problem(
            f"{name} was written for another plugin interface than this sidecar's, which is {API}",
            f"install a version of it with `api = {API}`",
            "use",
        )
    hooks, misnamed = {}, False
    for attribute in dir(cls):
        found = inspect.getattr_static(cls, attribute)
        if mark_of(_function_of(found)) is None and not (attribute.startswith(PHASES) and _is_method(found)):
            continue
        wrong = list(_broken_hook(f"{name}.{attribute}", attribute, found, entry))
        yield from wrong
        misnamed = misnamed or attribute not in HOOKS
        if attribute in HOOKS and not wrong:
            hooks[attribute] = tuple(each.name for each in parameters_of(found)[1:])
        elif attribute in HOOKS:
            hooks[attribute] = ()
    if not hooks and not misnamed:
        yield entry.problem(
            f"{name} has no hook, it would never be called",
            "give it a method of sidecar.hooks.Hooks marked @hookimpl",
            "use",
        )
    yield from _broken_grants(name, hooks, entry)
    yield from _broken_slots(name, hooks, entry)
    yield from _broken_life(cls, entry)


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Of a function in a class, `self` first. Annotations are not evaluated: their names may be there for type checkers only."""
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415 - new in 3.14, where signatures evaluate annotations unless told otherwise

        found = inspect.signature(function, annotation_format=annotationlib.Format.STRING)
    else:
        found = inspect.signature(function)
    return list(found.parameters.values())


def hidden_hooks(instance: object, entry: PluginEntry) -> Iterator[Problem]:
    """Hooks that the constructor put on the instance: they were not looked at above."""
    for attribute, value in getattr(instance, "__dict__", {}).items():
        if attribute.startswith(PHASES) and callable(value):
            yield entry.problem(
                f"{type(instance).__name__} sets {attribute} in its constructor",
                "write it as a method marked @hookimpl",
                "use",
            )


def _function_of(found: object) -> object:
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found


def _is_method(found: object) -> bool:
    return inspect.isroutine(found) or isinstance(found, property)


def _broken_hook(called: str, hook: str, found: Any, entry: PluginEntry) -> Iterator[Problem]:
    mark = mark_of(_function_of(found))
    if mark is None:
        yield entry.problem(
            f"{called} is called like a hook and is not marked",
            "put @hookimpl above it, or call it otherwise"
            if hook in HOOKS
            else f"{did_you_mean(hook, tuple(HOOKS))} or call it otherwise",
            "use",
        )
        return
    if hook not in HOOKS:
        yield entry.problem(
            f"there is no hook {hook}, which {called} is marked as", did_you_mean(hook, tuple(HOOKS)), "use"
        )
        return
    if not inspect.isfunction(found):
        yield entry.problem(f"{called} is not a plain method", "write it as `async def` with `self`", "use")
        return
    marks = [word for word in _NO_MARKS if mark.get(word)]
    if marks:
        yield entry.problem(
            f"{called} is marked with {', '.join(marks)}", "write @hookimpl alone; the order is that of the YAML", "use"
        )
    if inspect.isasyncgenfunction(found):
        yield entry.problem(f"{called} yields", "a hook returns; take the yield out", "use")
    elif not inspect.iscoroutinefunction(found):
        yield entry.problem(f"{called} is not async", "write `async def`", "use")
    yield from _broken_arguments(called, hook, found, entry)


def _broken_arguments(called: str, hook: str, found: Any, entry: PluginEntry) -> Iterator[Problem]:
    kinds = inspect.Parameter
    parameters = parameters_of(found)
    if not parameters or parameters[0].name != "self":
        yield entry.problem(f"{called} does not begin with self", "write `self` as its first argument", "use")
        return
    for each in parameters[1:]:
        if each.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
            yield entry.problem(
                f"{called} takes {each}", f"name what it wants of {', '.join(HOOKS[hook]) or 'nothing'}", "use"
            )
        elif each.kind is kinds.KEYWORD_ONLY:
            yield entry.problem(f"the argument {each.name} of {called} is keyword-only", "take the `*` out", "use")
        elif each.name not in HOOKS[hook]:
            yield entry.problem(
                f"{hook} has no argument {each.name}, which {called} names", did_you_mean(each.name, HOOKS[hook]), "use"
            )
        elif each.default is not kinds.empty:
            yield entry.problem(
                f"the argument {each.name} of {called} has a default", "take the default out: it is always given", "use"
            )


def _broken_grants(name: str, hooks: Mapping[str, tuple[str, ...]], entry: PluginEntry) -> Iterator[Problem]:
    reading = [hook for hook, arguments in hooks.items() if "plaintext" in arguments]
    if reading and "plaintext" not in entry.grants:
        yield entry.problem(
            f"{name} reads what persons wrote ({', '.join(reading)}) and is not granted it",
            "write `grants: [plaintext]` if you trust it with that",
            "grants",
        )
    if "plaintext" in entry.grants and not reading:
        yield entry.problem(
            f"{name} is granted plaintext and no hook of it names plaintext", "take the grant out", "grants"
        )


def _broken_slots(name: str, hooks: Mapping[str, tuple[str, ...]], entry: PluginEntry) -> Iterator[Problem]:
    provided = [slot for slot in SLOTS if f"provide_{slot}" in hooks]
    if entry.slot is None:
        for slot in provided:
            yield entry.problem(
                f"{name} provides the slot {slot}, which stands in a section of its own",
                f"write it as `{slot}: {{use: {entry.use}}}`",
                "use",
            )
        return
    if entry.slot not in provided:
        fits = f"; it fits in {', '.join(provided)}" if provided else ""
        yield entry.problem(
            f"{name} has no provide_{entry.slot}, so it cannot fill this slot{fits}",
            f"use a plugin for {entry.slot}",
            "use",
        )
    for slot in provided:
        if entry.slot in provided and slot != entry.slot:
            yield entry.problem(
                f"{name} also provides the slot {slot}",
                "make a plugin of its own for each slot: exactly one fills each",
                "use",
            )
    if entry.slot == "persistence":
        lacking = [hook for hook in _WRITES if hook not in hooks]
        if lacking:
            yield entry.problem(
                f"{name} lacks {', '.join(lacking)}",
                "a plugin for persistence has every on_… hook: what it misses would never be stored",
                "use",
            )


def _broken_life(cls: type, entry: PluginEntry) -> Iterator[Problem]:
    entering, leaving = hasattr(cls, "__aenter__"), hasattr(cls, "__aexit__")
    if entering != leaving:
        yield entry.problem(f"{cls.__name__} has only one of __aenter__ and __aexit__", "write both, or none", "use")
    if hasattr(cls, "__enter__") and not entering:
        yield entry.problem(
            f"{cls.__name__} is a context manager that is not async, nobody would enter it",
            "write __aenter__ and __aexit__",
            "use",
        )
