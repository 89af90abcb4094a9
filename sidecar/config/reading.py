"""Puts the layers together: built-in defaults, the YAML file, the environment, flags (`docs/configuration.md`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sidecar.config.checks import contradictions
from sidecar.config.environment import read_environment
from sidecar.config.model import DEFAULTS, EMBEDDED, Config, Origins
from sidecar.config.places import KeyPath, Layer, Place, nearest, nodes, over, single, write_path
from sidecar.config.problems import is_list, model_at, problems_of
from sidecar.config.references import MISSING, References
from sidecar.config.secrets import Secrets
from sidecar.config.yaml_file import MOST_BYTES, read_yaml
from sidecar.errors import ConfigError, Problem

DEFAULT_FILE = "sidecar.yaml"
_FLAGS: Mapping[str, KeyPath] = {
    "--host": ("server", "host"),
    "--port": ("server", "port"),
    "--workers": ("server", "workers"),
}
_FILE_NAMES: tuple[KeyPath, ...] = (("data_dir",), ("devices", "country_database"))


def read(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    working_folder: Path | None = None,
) -> Config:
    """The effective configuration.

    `file` None: `./sidecar.yaml` if it is there, else the embedded defaults. `environment` None: the process's own.
    `flags` maps `--host`, `--port`, `--workers` to their values; None values are flags that were not given.

    A relative file name, in `data_dir`, `devices.country_database` or `${file:…}`, is taken from the folder of the YAML file if it
    stands there, else from the working folder. Raises `ConfigError` with every problem that was found.
    """
    environment = os.environ if environment is None else environment
    folder = Path.cwd() if working_folder is None else working_folder
    problems: list[Problem] = []
    notices: list[Problem] = []

    layer = _whole(DEFAULTS, Place("default"))
    references = References(environment, folder)
    path = _find(file, folder)
    if path is None:
        layer = over(layer, _whole(EMBEDDED, Place("embedded default")))
    else:
        source = str(file) if file is not None else DEFAULT_FILE
        layer = over(layer, references.resolve(_filled(_open(path, source, problems))))
    layer = over(layer, references.resolve(_filled(read_environment(environment, problems, notices))))
    for flag, value in (flags or {}).items():
        if value is not None:
            layer = over(layer, single(_FLAGS[flag], value, Place(flag)))

    problems += references.problems
    secrets = Secrets(references.found)
    config = _validate(_absolute(layer, folder), problems)
    if problems or config is None:
        raise ConfigError(sorted(dict.fromkeys(problems), key=_order))
    return config.with_origins(Origins(layer.places, secrets, path.resolve() if path else None, folder, tuple(notices)))


def _order(problem: Problem) -> tuple[bool, str, int]:
    return problem.line is None, problem.source or "", problem.line or 0


def _whole(tree: Mapping[str, Any], place: Place) -> Layer:
    layer = Layer({}, {})
    for key, value in tree.items():
        layer = over(layer, single((key,), value, place))
    return layer


def _find(file: Path | None, folder: Path) -> Path | None:
    if file is not None:
        return folder / file.expanduser()
    usual = folder / DEFAULT_FILE
    return usual if usual.exists() else None


def _open(path: Path, source: str, problems: list[Problem]) -> Layer:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "cannot be opened"
        problems.append(
            Problem("", f"the file cannot be read: {reason.lower()}", "name a YAML file with --config", source=source)
        )
        return Layer({}, {(): Place(source)})
    return read_yaml(raw, source, path.resolve().parent, problems)


def _filled(layer: Layer) -> Layer:
    """A section or list whose keys are all commented out is null to YAML; what is meant is an empty one."""

    def walk(value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: walk(child, (*path, key)) for key, child in value.items()}
        if isinstance(value, list):
            return [walk(child, (*path, number)) for number, child in enumerate(value)]
        if value is not None:
            return value
        above = model_at(path[:-1])
        name = path[-1] if path else None
        if above is None or not isinstance(name, str) or name not in above.model_fields:
            return value
        if is_list(above.model_fields[name].annotation):
            return []
        return {} if model_at(path) is not None or name == "options" else value

    return Layer(walk(layer.tree, ()), layer.places)


def _absolute(layer: Layer, folder: Path) -> Layer:
    """File names made absolute, each from the folder of the place where it was given."""
    tree = dict(layer.tree)
    for path in _FILE_NAMES:
        above: Any = tree
        for part in path[:-1]:
            if not isinstance(above.get(part), dict):
                above = None
                break
            above[part] = dict(above[part])
            above = above[part]
        value = above.get(path[-1]) if above is not None else None
        if isinstance(value, str) and value and "\0" not in value:
            place = nearest(layer.places, path)
            base = (place.folder if place else None) or folder
            above[path[-1]] = (base / Path(value).expanduser()).resolve()
    return Layer(tree, layer.places)


def _validate(layer: Layer, problems: list[Problem]) -> Config | None:
    """Validates; what is wrong is left out and the rest validated again, so that contradictions are found in the same run."""
    missing = [path for path, value in nodes(layer.tree) if value is MISSING]
    told = set(missing)
    shifted = any(isinstance(part, int) for path in missing for part in path)
    tree = _without(layer.tree, [_item(path) for path in missing])
    for _ in range(4):
        try:
            config = Config.model_validate(tree)
        except ValidationError as error:
            wrong = [tuple(detail["loc"]) for detail in error.errors(include_url=False, include_input=False)]
            found = problems_of(error, layer.places)
            problems += [
                problem
                for path, problem in zip(wrong, found, strict=True)
                if path not in told and not (shifted and any(isinstance(part, int) for part in path))
            ]
            told.update(wrong)
            shifted = shifted or any(isinstance(part, int) for path in wrong for part in path)
            tree = _without(tree, [_item(path) if _present(tree, path) else path[:-1] for path in wrong])
            tree = {**{key: value for key, value in DEFAULTS.items() if key not in tree}, **tree}
            continue
        for path, what, remedy, *others in contradictions(config):
            if shifted and any(isinstance(part, int) for part in path):
                continue  # an item was left out, so its number is not the one in the file
            places = [nearest(layer.places, each) for each in (path, *others) if each in layer.places]
            place = next((each for each in places if each), nearest(layer.places, path))
            where = (place.line, place.source) if place else (None, None)
            problems.append(Problem(write_path(path), what, remedy, *where))
        return config
    return None


def _item(path: KeyPath) -> KeyPath:
    """The list item that a path lies in, else the path: half an item is no use."""
    last = max((number for number, part in enumerate(path) if isinstance(part, int)), default=len(path) - 1)
    return path[: last + 1] if "options" not in path else path


def _present(tree: Any, path: KeyPath) -> bool:
    return any(path == found for found, _ in nodes(tree))


def _without(tree: Any, paths: list[KeyPath], at: KeyPath = ()) -> Any:
    if isinstance(tree, dict):
        return {key: _without(value, paths, (*at, key)) for key, value in tree.items() if (*at, key) not in paths}
    if isinstance(tree, list):
        return [
            _without(value, paths, (*at, number)) for number, value in enumerate(tree) if (*at, number) not in paths
        ]
    return tree
