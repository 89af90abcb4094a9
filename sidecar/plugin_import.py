"""From `use` to a class: an entry point's name, or `module:Class` beside the YAML file or in the working folder."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any

from sidecar.errors import ConfigError, Problem
from sidecar.plugin_call import told, whereabouts
from sidecar.plugin_entry import SLOTS, PluginEntry
from sidecar.plugin_rules import did_you_mean

GROUP = "sidecar.plugins"
"""The group of entry points in which distributions offer plugins."""

_MODULE_CLASS = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)\Z")
_OURS = "directus-sync-sidecar"


def extend_path(search_paths: Sequence[Path]) -> None:
    """Appends the folders to the import path, at its end: a `redis.py` there shadows nothing."""
    known = {str(Path(each or ".").resolve()) for each in sys.path}
    for folder in map(str, (each.resolve() for each in search_paths)):
        if folder not in known:
            sys.path.append(folder)
            known.add(folder)


def find_class(entry: PluginEntry, search_paths: Sequence[Path]) -> type:
    """The class that `use` names, imported. Raises `ConfigError`."""
    if ":" in entry.use:
        parts = _MODULE_CLASS.match(entry.use)
        if parts is None:
            raise _wrong(entry, f'"{entry.use}" is not of the form module:Class', "write it like `audit_log:AuditLog`")
        module_name, class_name = parts.groups()
    else:
        point = _entry_point(entry)
        module_name, class_name = point.module, point.attr
    if module_name.split(".")[0] == "plugins" and (hiding := _hiding_ours()) is not None:
        raise _wrong(
            entry,
            f"{hiding} hides the plugins that come with the sidecar: it makes the folder a package of its own",
            "delete that file; a folder plugins/ without it shares the name with ours",
        )
    module = _module(entry, module_name, search_paths)
    found: Any = module
    for part in class_name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise _wrong(entry, *_no_class(module, module_name, class_name, search_paths))
    return found


def _wrong(entry: PluginEntry, message: str, remedy: str) -> ConfigError:
    return ConfigError([entry.problem(message, remedy, "use")])


def _entry_point(entry: PluginEntry) -> EntryPoint:
    points = entry_points(group=GROUP)
    wanted = {entry.use} if entry.slot is None else {entry.use, f"{entry.slot}.{entry.use}"}
    found = {(point.name, point.value): point for point in points if point.name in wanted}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        offers = sorted(
            f"{point.name} of {point.dist.name if point.dist else 'an unknown distribution'}"
            for point in found.values()
        )
        raise _wrong(
            entry,
            f'"{entry.use}" is offered more than once: {", ".join(offers)}',
            "write module:Class of the one you want",
        )
    if entry.slot is None:
        names = sorted(name for name in points.names if name.partition(".")[0] not in SLOTS)
    else:
        names = sorted(
            name.removeprefix(f"{entry.slot}.") for name in points.names if name.startswith(f"{entry.slot}.")
        )
    raise _wrong(
        entry,
        f'no plugin is called "{entry.use}" here',
        f"{did_you_mean(entry.use, names)}; one of your own is module:Class",
    )


def _module(entry: PluginEntry, name: str, search_paths: Sequence[Path]) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise _wrong(
                entry,
                f"the module {name} needs the module {missing}, which is not installed",
                f"install {missing} beside the sidecar",
            ) from None
        places = " and ".join(str(each) for each in search_paths) or "the import path"
        files = sorted({file.stem for folder in search_paths for file in folder.glob("*.py")})[:20]
        raise _wrong(entry, f"there is no module {name} in {places}", did_you_mean(name, files)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too, while it is imported
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "sidecar":
            remedy = "import only what `sidecar` exports; the name may be of another version of the sidecar"
        else:
            remedy = "mend the module"
        raise _wrong(entry, f"importing {name} failed: {told(error)} at {whereabouts(error, 3)}", remedy) from None


def _no_class(module: Any, module_name: str, class_name: str, search_paths: Sequence[Path]) -> tuple[str, str]:
    file = getattr(module, "__file__", None)
    for folder in search_paths:
        beside = folder / Path(*module_name.split(".")).with_suffix(".py")
        if beside.is_file() and (file is None or not beside.samefile(file)):
            return (
                f"{module_name} is {file or 'built into Python'}, not your {beside}, and has no class {class_name}",
                "give your file a name that nothing else has; installed modules come first",
            )
    classes = sorted(
        name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
    )
    return f"{module_name} has no class {class_name}", did_you_mean(class_name, classes)


def _hiding_ours() -> Path | None:
    # A regular package anywhere on the path wins over a namespace, however late it comes.
    for each in sys.path:
        for file in (Path(each or ".") / "plugins" / "__init__.py", Path(each or ".") / "plugins.py"):
            if file.is_file():
                return file
    return None


def foreign_sidecars(installed: Sequence[Distribution] | None = None, ours: Path | None = None) -> Iterator[Problem]:
    """Other distributions that installed a package `sidecar` over ours. By default: of what is installed, over this one."""
    ours = (ours or Path(__file__).parent / "__init__.py").resolve()
    for each in distributions() if installed is None else installed:
        record = each.read_text("RECORD") or ""
        if "sidecar/__init__.py," not in record or (each.name or "").lower().replace("_", "-") == _OURS:
            continue
        if any(line.startswith("sidecar/__init__.py,") for line in record.splitlines()) and (
            Path(str(each.locate_file("sidecar/__init__.py"))).resolve() == ours
        ):
            yield Problem(
                "",
                f"the distribution {each.name} has installed a package `sidecar` of its own over ours",
                f"run `pip uninstall {each.name}`, then `pip install --force-reinstall {_OURS}`",
            )
