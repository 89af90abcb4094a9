"""The plugin guide says what the code says, and every hook has a heading, a test and a built-in user."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

import sidecar
from sidecar.hooks import HOOKS, mark_of
from sidecar.plugin_entry import SLOTS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text()
BUILT_INS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["sidecar.plugins"]


def test_the_headings_are_the_specification() -> None:
    headings = re.findall(r"^### (\w+)\(([^)]*)\)$", GUIDE, re.MULTILINE)
    said = {name: tuple(filter(None, arguments.split(", "))) for name, arguments in headings}
    assert said == dict(HOOKS)
    assert [name for name, _ in headings] == list(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test_named_for_it(hook: str) -> None:
    tree = ast.parse((ROOT / "tests" / "unit" / "test_hooks.py").read_text())
    tests = [node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)]
    assert any(re.match(rf"test_hook_{hook}(_|\Z)", name) for name in tests)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_built_in_user(hook: str) -> None:
    users = []
    for name, value in BUILT_INS.items():
        module, _, cls = value.partition(":")
        if mark_of(getattr(getattr(importlib.import_module(module), cls), hook, None)) is not None:
            users.append(name)
    assert users


@pytest.mark.parametrize("name", BUILT_INS)
def test_a_built_in_is_where_its_name_says(name: str) -> None:
    folder, _, module = name.partition(".")
    assert folder in (*SLOTS, "policy")
    assert BUILT_INS[name].startswith(f"plugins.{folder}.{module}:")


def test_the_example_in_the_guide_is_the_one_that_is_tried() -> None:
    shown = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert shown
    file = (ROOT / "examples" / "audit" / "audit_log.py").read_text()
    for text in (shown[1], file):
        compile(text, "audit_log.py", "exec")

    def bodies(text: str) -> list[str]:
        [cls] = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
        return [ast.unparse(node) for node in cls.body[1:]]  # without the docstring

    assert bodies(shown[1]) == bodies(file)


def test_the_yaml_in_the_guide_is_that_of_the_example() -> None:
    import yaml

    shown = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert yaml.safe_load(shown[0]) == yaml.safe_load((ROOT / "examples" / "audit" / "sidecar.yaml").read_text())


@pytest.mark.parametrize("record", ["ChatInDB", "MessageInDB", "Document", "Author", "Deleted", "Page", "Field"])
def test_the_table_of_records_is_that_of_the_classes(record: str) -> None:
    row = re.search(rf"^\| `{record}` \| (.*) \|$", GUIDE, re.MULTILINE)
    assert row
    cls = getattr(sidecar, record)
    fields = getattr(cls, "model_fields", None) or cls.__dataclass_fields__
    assert re.findall(r"`(\w+)`", row[1])[: len(fields)] == list(fields)


def test_t44_the_guide_says_what_a_plugin_can_reach() -> None:
    """T44: in-process means full trust, and the documentation says so."""
    assert "can reach everything in it" in GUIDE
    assert "T44" in GUIDE


def test_plugins_import_only_from_sidecar_and_their_own_folder() -> None:
    """The rule of the house: what a built-in needs, an author elsewhere can have.

    What several plugins of one backend share lies in a folder of that backend's name.
    """
    shared = {"plugins.auth": "plugins.directus", "plugins.persistence": "plugins.directus"}
    for file in (ROOT / "plugins").rglob("*.py"):
        own = ".".join(file.relative_to(ROOT).parent.parts)
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                if module.split(".")[0] == "sidecar":
                    assert module == "sidecar", f"{file}: {module}"
                if module.split(".")[0] == "plugins":
                    folder = module.rpartition(".")[0] if module != own else own
                    assert folder in {own, shared.get(own)}, f"{file}: {module}"


def test_plugins_is_a_namespace() -> None:
    assert list((ROOT / "plugins").rglob("__init__.py")) == []
