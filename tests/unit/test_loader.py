"""The loader: what it finds, what it refuses, and in which words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import Distribution, EntryPoint, EntryPoints, PathDistribution
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from sidecar.errors import ConfigError, Problem
from sidecar.plugin_entry import SLOTS, PluginEntry, Surroundings
from sidecar.plugin_import import foreign_sidecars
from sidecar.plugins_loading import load
from tests.plugins.loading import instance, listed, loaded, loaded_from, slot, slots

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test puts on the import path and imports is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("mine", "own_")):
            del sys.modules[name]


def problems_of(entries: list[PluginEntry], *folders: Path) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        loaded_from(entries, *folders)
    return list(caught.value.problems)


def problem_of(entry: PluginEntry, *folders: Path) -> Problem:
    """The only problem of this entry beside four good slots."""
    entries = [each for each in slots() if each.slot is None or each.slot != entry.slot]
    [problem] = problems_of([*entries, entry], *folders)
    return problem


def write(folder: Path, body: str, name: str = "mine") -> PluginEntry:
    """A module with a class `Mine` of this body, and the entry that uses it."""
    text = f"""
from pydantic import BaseModel
from sidecar import *
from sidecar import hookimpl

class Mine:
    api = 1
{indent(dedent(body), "    ")}
"""
    (folder / f"{name}.py").write_text(text)
    return PluginEntry("plugins[0]", f"{name}:Mine", name="mine")


# -- finding -----------------------------------------------------------------------------------------------------------


def test_a_users_plugin_is_found_beside_the_yaml(tmp_path: Path) -> None:
    entry = write(tmp_path, "@hookimpl\nasync def on_title(self, chat): ...")
    plugins = loaded_from([*slots(), entry], tmp_path)
    assert plugins.names[-1] == "mine"
    assert plugins.files[str(tmp_path / "mine.py")] == "mine"


def test_search_paths_come_last_and_shadow_nothing(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    entry = write(tmp_path, "@hookimpl\nasync def on_title(self, chat): ...", "own_json_user")
    (tmp_path / "own_json_user.py").write_text(
        "import json\njson.dumps\n" + (tmp_path / "own_json_user.py").read_text()
    )
    loaded_from([*slots(), entry], tmp_path)
    assert sys.path[-1] == str(tmp_path)
    problem = problem_of(replace(entry, use="json:Mine"), tmp_path)
    assert "not your" in problem.message
    assert "installed modules come first" in problem.remedy


def test_nothing_is_loaded_that_is_not_listed(tmp_path: Path) -> None:
    write(tmp_path, "@hookimpl\nasync def on_title(self, chat): ...", "own_unlisted")
    assert loaded_from(slots(), tmp_path).names == (
        "sample_slots:Auth",
        "sample_slots:Encryption",
        "sample_slots:Caching",
        "persistence",
    )
    assert "own_unlisted" not in sys.modules


def offer(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    group = "sidecar.plugins"
    offered = EntryPoints(EntryPoint(name, value, group) for name, value in points)
    monkeypatch.setattr("sidecar.plugin_import.entry_points", lambda group: offered.select(group=group))


def test_an_entry_point_and_in_a_slots_section_its_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """S65: a slot's plugin is swapped by one word of the YAML."""
    offer(monkeypatch, ("auth.sample", "sample_slots:Auth"), ("policy.titles", "listening:Titles"))
    rest = slots()[1:]
    for use, name in (("sample", ""), ("sample", "sample"), ("auth.sample", "")):
        described = loaded_from([PluginEntry("auth", use, slot="auth", name=name), *rest]).describe()[0]
        assert (described.name, described.hooks) == ("auth.sample", ("provide_auth",))
    assert loaded(listed("policy.titles", grants=())).names[-1] == "policy.titles"


def test_an_unknown_name_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("cache.memory", "x:Y"), ("cache.redis", "x:Y"), ("policy.allowed_nodes", "x:Y"))
    problem = problem_of(PluginEntry("cache", "memry", slot="cache", line=7, source="sidecar.yaml"))
    assert str(problem).startswith(
        'sidecar.yaml:7: cache.use: no plugin is called "memry" here; did you mean "memory"?'
    )
    assert "memory, redis" in problem_of(PluginEntry("cache", "zzz", slot="cache")).remedy
    assert "policy.allowed_nodes" in problem_of(listed("zzz")).remedy


def test_a_name_that_two_distributions_offer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("policy.x", "listening:Titles"), ("policy.x", "listening:Recorder"))
    assert "offered more than once" in problem_of(listed("policy.x", grants=())).message


def test_a_missing_module_or_class_says_what_is_there(tmp_path: Path) -> None:
    entry = write(tmp_path, "@hookimpl\nasync def on_title(self, chat): ...", "own_audit_log")
    problem = problem_of(replace(entry, use="own_audit_lg:Mine"), tmp_path)
    assert problem.path == "plugins[0].use"
    assert "there is no module own_audit_lg" in problem.message
    assert problem.remedy == 'did you mean "own_audit_log"?'
    assert problem_of(replace(entry, use="own_audit_log:Mein"), tmp_path).remedy == 'did you mean "Mine"?'
    assert "not of the form module:Class" in problem_of(replace(entry, use="own audit.py:"), tmp_path).message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_thing_at_all", "needs the module no_such_thing_at_all, which is not installed"),
        ("def broken(:\n  pass", "SyntaxError at "),
        ("raise ValueError('hunter2')", "ValueError at "),
        ("import sys; sys.exit('hunter2')", "SystemExit at "),
        ("from sidecar import NoSuchName", "ImportError at "),
    ],
)
def test_a_module_that_does_not_import_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own_broken.py").write_text(text)
    problem = problem_of(listed("own_broken:Mine"), tmp_path)
    assert message in problem.message
    assert "hunter2" not in str(problem)
    if " at " in message:
        assert "own_broken.py:1" in problem.message


def test_a_users_plugins_folder_may_share_the_namespace(tmp_path: Path) -> None:
    (tmp_path / "plugins" / "own_area").mkdir(parents=True)
    write(tmp_path / "plugins" / "own_area", "@hookimpl\nasync def on_title(self, chat): ...", "titles")
    sys.path.append(str(tmp_path))
    loaded_from([*slots(), listed("plugins.own_area.titles:Mine", grants=())], tmp_path)


@pytest.mark.parametrize("hiding", ["plugins/__init__.py", "plugins.py"])
def test_a_package_that_hides_ours_is_named(tmp_path: Path, hiding: str) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / hiding).write_text("")
    problem = problem_of(listed("policy.allowed_nodes"), tmp_path)
    assert str(tmp_path / hiding) in problem.message
    assert "hides the plugins that come with the sidecar" in problem.message
    assert "delete that file" in problem.remedy


def test_another_distributions_sidecar_over_ours_is_named(tmp_path: Path) -> None:
    ours = tmp_path / "sidecar" / "__init__.py"
    installed: list[Distribution] = []
    for name, record in (
        ("kube_sidecar", "sidecar/__init__.py,sha256=x,1"),
        ("directus_sync_sidecar", "sidecar/__init__.py,sha256=x,1"),
        ("other", "other/sidecar/__init__.py,sha256=x,1"),
    ):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "RECORD").write_text(record + "\n")
        installed.append(PathDistribution(info))
    [problem] = foreign_sidecars(installed, ours)
    assert "kube_sidecar has installed a package `sidecar` of its own over ours" in problem.message
    assert "pip uninstall kube_sidecar" in problem.remedy
    assert list(foreign_sidecars(installed, tmp_path / "elsewhere" / "__init__.py")) == []
    assert list(foreign_sidecars()) == []


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message", "remedy"),
    [
        (
            "async def on_draft(self, chat): ...",
            "Mine.on_draft is called like a hook and is not marked",
            "put @hookimpl above it",
        ),
        ("def before_lunch(self): ...", "Mine.before_lunch is called like a hook", "call it otherwise"),
        (
            "@property\ndef on_title(self): ...",
            "Mine.on_title is called like a hook and is not marked",
            "@hookimpl",
        ),
        ("@hookimpl\nasync def on_drafts(self, chat): ...", "there is no hook on_drafts", 'did you mean "on_draft"?'),
        ("@hookimpl\nasync def settled(self, chat): ...", "there is no hook settled", "there is provide_auth"),
        ("@hookimpl(optionalhook=True)\nasync def on_draft(self, chat): ...", "marked with optionalhook", "alone"),
        ("@hookimpl(specname='on_title')\nasync def on_draft(self, chat): ...", "marked with specname", "alone"),
        (
            "@hookimpl(tryfirst=True)\nasync def on_draft(self, chat): ...",
            "marked with tryfirst",
            "order is that of the YAML",
        ),
        (
            "@hookimpl(trylast=True)\nasync def on_draft(self, chat): ...",
            "marked with trylast",
            "order is that of the YAML",
        ),
        ("@hookimpl(hookwrapper=True)\nasync def on_draft(self, chat): ...", "marked with hookwrapper", "alone"),
        ("@hookimpl(wrapper=True)\nasync def on_draft(self, chat): ...", "marked with wrapper", "alone"),
        ("@hookimpl\ndef on_draft(self, chat): ...", "Mine.on_draft is not async", "async def"),
        ("@hookimpl\nasync def on_draft(self, chat):\n    yield", "Mine.on_draft yields", "take the yield out"),
        (
            "@staticmethod\n@hookimpl\nasync def on_draft(chat): ...",
            "Mine.on_draft is not a plain method",
            "with `self`",
        ),
        (
            "@classmethod\n@hookimpl\nasync def on_draft(cls, chat): ...",
            "Mine.on_draft is not a plain method",
            "with `self`",
        ),
        ("@hookimpl\nasync def on_draft(chat): ...", "does not begin with self", "first argument"),
        (
            "@hookimpl\nasync def on_draft(self, chat=None): ...",
            "argument chat of Mine.on_draft has a default",
            "take the default out",
        ),
        ("@hookimpl\nasync def on_draft(self, *, chat): ...", "argument chat of Mine.on_draft is keyword-only", "`*`"),
        ("@hookimpl\nasync def on_draft(self, *args): ...", "Mine.on_draft takes *args", "chat, plaintext"),
        ("@hookimpl\nasync def on_draft(self, **more): ...", "Mine.on_draft takes **more", "chat, plaintext"),
        ("@hookimpl\nasync def on_draft(self, chatt): ...", "on_draft has no argument chatt", 'did you mean "chat"?'),
        ("pass", "Mine has no hook", "@hookimpl"),
        ("@hookimpl\nasync def provide_auth(self): ...", "provides the slot auth", "`auth: {use: mine:Mine}`"),
        ("@hookimpl\nasync def on_title(self): ...\ndef __enter__(self): ...", "not async", "__aenter__"),
        ("@hookimpl\nasync def on_title(self): ...\nasync def __aenter__(self): ...", "only one of", "both"),
        (
            "@hookimpl\nasync def on_title(self): ...\ndef __init__(self): self.on_draft = print",
            "sets on_draft in its constructor",
            "@hookimpl",
        ),
    ],
)
def test_what_pluggy_would_accept_in_silence_is_refused(tmp_path: Path, body: str, message: str, remedy: str) -> None:
    problem = problem_of(write(tmp_path, body), tmp_path)
    assert problem.path == "plugins[0].use"
    assert message in problem.message
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("api", "message"),
    [
        ("", "does not say which plugin interface"),
        ("api = 2", "another plugin interface"),
        ("api = True", "another plugin interface"),
    ],
)
def test_a_plugin_of_another_interface_is_refused(tmp_path: Path, api: str, message: str) -> None:
    entry = write(tmp_path, "@hookimpl\nasync def on_title(self, chat): ...")
    file = tmp_path / "mine.py"
    file.write_text(file.read_text().replace("api = 1", api))
    problem = problem_of(entry, tmp_path)
    assert message in problem.message
    assert "api = 1" in problem.remedy


def test_t44_plaintext_is_named_and_granted_or_neither(tmp_path: Path) -> None:
    """T44: what a plugin may read stands in the YAML."""
    reading = write(tmp_path, "@hookimpl\nasync def on_title(self, plaintext): ...")
    problem = problem_of(reading, tmp_path)
    assert (problem.path, problem.remedy) == (
        "plugins[0].grants",
        "write `grants: [plaintext]` if you trust it with that",
    )
    assert "on_title" in problem.message
    loaded_from([*slots(), replace(reading, grants=("plaintext",))], tmp_path)
    problem = problem_of(listed("listening:Titles", "titles"))
    assert (problem.path, problem.remedy) == ("plugins[0].grants", "take the grant out")


# -- slots and names ---------------------------------------------------------------------------------------------------


def test_a_slot_that_is_empty_or_filled_twice() -> None:
    entries = [*slots()[1:], replace(slot("cache", "Caching"), name="second", line=9)]
    found = problems_of(entries)
    assert [(each.path, each.message) for each in found] == [
        ("auth", "this slot is empty"),
        ("cache", "the slot cache is filled twice"),
    ]
    assert [each.path for each in problems_of([])] == list(SLOTS)


def test_a_plugin_that_does_not_fill_its_slot(tmp_path: Path) -> None:
    assert (
        problem_of(slot("cache", "Auth", name="cache")).message
        == "Auth has no provide_cache, so it cannot fill this slot; it fits in auth"
    )
    both = write(
        tmp_path, "@hookimpl\nasync def provide_auth(self): ...\n@hookimpl\nasync def provide_cache(self): ..."
    )
    problem = problem_of(replace(both, path="cache", slot="cache"), tmp_path)
    assert problem.message == "Mine also provides the slot auth"


def test_annotations_may_be_for_type_checkers_only(tmp_path: Path) -> None:
    """Python 3.14 would evaluate them with the signature."""
    text = """
from __future__ import annotations
from typing import TYPE_CHECKING
from sidecar import hookimpl
if TYPE_CHECKING:
    from sidecar import ChatInDB

class Mine:
    api = 1

    @hookimpl
    async def on_title(self, chat: ChatInDB) -> None: ...
"""
    for name, module in (("own_future", text), ("own_lazy", text.replace("from __future__ import annotations\n", ""))):
        if name == "own_lazy" and sys.version_info < (3, 14):
            module = text
        (tmp_path / f"{name}.py").write_text(module)
        assert loaded_from([*slots(), listed(f"{name}:Mine", grants=())], tmp_path).describe()[-1].hooks == (
            "on_title",
        )


def test_a_store_that_would_miss_something_is_refused(tmp_path: Path) -> None:
    entry = write(
        tmp_path, "@hookimpl\nasync def provide_persistence(self): ...\n@hookimpl\nasync def on_title(self): ..."
    )
    problem = problem_of(replace(entry, path="persistence", slot="persistence"), tmp_path)
    assert "lacks on_draft, on_first_message, on_message, on_chat_deleted, on_user_erased, on_sync" in problem.message


def test_two_plugins_of_one_name() -> None:
    titles = listed("listening:Titles", grants=())
    [problem] = problems_of([*slots(), titles, replace(titles, path="plugins[1]")])
    assert (problem.path, problem.message) == ("plugins[1].name", '"listening:Titles" is the name of plugins[0] too')
    for name in ("persistence", "cache"):
        [problem] = problems_of([*slots(), replace(titles, name=name)])
        assert "is the name of a slot" in problem.message
    [problem] = problems_of([*slots(), replace(titles, name="a name")])
    assert "no fit name" in problem.message


def test_a_timeout_must_end() -> None:
    for timeout in (0.0, -1.0, float("inf"), float("nan")):
        assert problem_of(listed("listening:Titles", grants=(), timeout=timeout)).path == "plugins[0].timeout"


def test_every_problem_of_every_entry_comes_at_once() -> None:
    found = problems_of(
        [
            slot("auth", "Nope"),
            PluginEntry("plugins[0]", "nope:Nope"),
            PluginEntry("plugins[1]", "listening:Recorder", options={"wrd": 1}),
        ]
    )
    assert [each.path for each in found] == [
        "encryption",
        "cache",
        "persistence",
        "auth.use",
        "plugins[0].use",
        "plugins[1].grants",
    ]


def test_slots_are_entered_first_whatever_the_order() -> None:
    entries = [listed("listening:Titles", "titles", grants=()), *reversed(slots())]
    assert [each.slot for each in loaded_from(entries).describe()] == [*SLOTS, None]


# -- options and constructors ------------------------------------------------------------------------------------------

OPTIONS = """
class Inner(BaseModel, extra="forbid"):
    host: str = ""
class Options(BaseModel, extra="forbid"):
    url: str
    count: int = 1
    inner: "Mine.Inner | None" = None
    names: list[str] = []
def __init__(self, options): self.options = options
@hookimpl
async def on_title(self, chat): ...
"""


@pytest.mark.parametrize(
    ("options", "path", "message", "remedy"),
    [
        ({}, "options.url", "it is missing", "write `url: …`"),
        ({"url": "x", "ulr": "hunter2"}, "options.ulr", "there is no such option", 'did you mean "url"?'),
        ({"url": ["hunter2"]}, "options.url", "a list that does not fit", "write a valid string"),
        ({"url": "x", "count": "hunter2"}, "options.count", "a string that does not fit", "write a valid integer"),
        ({"url": "x", "names": ["a", 2]}, "options.names[1]", "a number that does not fit", "write a valid string"),
        ({"url": "x", "inner": {"hst": "hunter2"}}, "options.inner.hst", "there is no such option", "there is"),
    ],
)
def test_options_are_checked_against_the_plugins_own(
    tmp_path: Path, options: dict[str, Any], path: str, message: str, remedy: str
) -> None:
    entry = replace(
        write(tmp_path, OPTIONS), options=options, line=20, lines={"options": 22, path: 24}, source="a.yaml"
    )
    problem = problem_of(entry, tmp_path)
    assert problem.path == f"plugins[0].{path}"
    assert problem.line == 24
    assert problem.message == message
    assert remedy in problem.remedy
    assert "hunter2" not in str(problem)


def test_a_validators_own_words_are_told_without_the_value(tmp_path: Path) -> None:
    body = """
    class Options(BaseModel, extra="forbid"):
        url: str
        def model_post_init(self, _):
            raise ValueError(f"{self.url} does not begin with redis://")
    def __init__(self, options): ...
    @hookimpl
    async def on_title(self, chat): ...
    """
    problem = problem_of(replace(write(tmp_path, body), options={"url": "http://:hunter2@host"}), tmp_path)
    assert problem.remedy == "… does not begin with redis://"
    assert problem.path == "plugins[0].options"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "Mine has no options"),
        ("Options = dict", "is no pydantic model"),
        ("class Options(BaseModel): ...", "does not refuse unknown keys"),
        ('class Options(BaseModel, extra="forbid"):\n    a: int = 1', "the constructor of Mine takes no options"),
        (
            "def __init__(self, options, colour): ...\n" + 'class Options(BaseModel, extra="forbid"):\n    a: int = 1',
            "asks for colour",
        ),
        (
            (
                "def __init__(self, options): raise RuntimeError(options.a)\n"
                'class Options(BaseModel, extra="forbid"):\n    a: int = 1'
            ),
            "RuntimeError at ",
        ),
        (
            (
                "def __init__(self, options): raise SystemExit(options.a)\n"
                'class Options(BaseModel, extra="forbid"):\n    a: int = 1'
            ),
            "SystemExit at ",
        ),
        (
            (
                "def __init__(self, options): raise StartRefused('search', 'this needs a loopback address')\n"
                'class Options(BaseModel, extra="forbid"):\n    a: int = 1'
            ),
            "search: this needs a loopback address",
        ),
        (
            (
                "def __init__(self, options): open('/no/such/file')\n"
                'class Options(BaseModel, extra="forbid"):\n    a: int = 1'
            ),
            "FileNotFoundError (No such file or directory)",
        ),
    ],
)
def test_a_constructor_that_fails_is_one_line(tmp_path: Path, body: str, message: str) -> None:
    entry = write(tmp_path, body + "\n@hookimpl\nasync def on_title(self, chat): ...")
    problem = problem_of(replace(entry, options={"a": 271828}), tmp_path)
    assert message in problem.message
    assert "271828" not in str(problem)
    assert "Traceback" not in str(problem)


def test_a_constructor_gets_its_options_and_where_it_is(tmp_path: Path) -> None:
    surroundings = Surroundings(tmp_path, "::1")
    plugins = load(
        [*slots(), listed("listening:Recorder", "r", options={"word": "w"})], surroundings, [ROOT / "tests/plugins"]
    )
    assert instance(plugins, "r").options.word == "w"
    assert instance(plugins, "r").surroundings is surroundings


def test_the_example_plugin_of_a_users_own_loads_as_its_yaml_says() -> None:
    import yaml

    folder = ROOT / "examples" / "audit"
    [said] = yaml.safe_load((folder / "sidecar.yaml").read_text())["plugins"]
    entry = PluginEntry("plugins[0]", said["use"], name=said["name"], options=said["options"])
    described = loaded_from([*slots(), entry], folder).describe()[-1]
    assert (described.name, described.hooks, described.grants) == ("audit", ("on_draft",), ())
