"""The configuration: layers, references, problems with their lines, printing, schema, documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from sidecar.changes import Limits
from sidecar.config import Config, json_schema, read
from sidecar.config.environment import variable
from sidecar.config.places import KeyPath, read_path, write_path
from sidecar.config.printing import as_json, as_yaml, redacted
from sidecar.config.problems import every_key
from sidecar.config.values import Duration, Size, write_duration, write_size
from sidecar.documents import DocumentLimits
from sidecar.errors import ConfigError, Problem
from sidecar.log_keys import KEYS

ROOT = Path(__file__).resolve().parents[2]
PEPPER = "pepper-pepper-pepper-42"


class Folder:
    """A working folder with a `sidecar.yaml`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, text: str | None = None, flags: Mapping[str, Any] | None = None, **environment: str) -> Config:
        if text is not None:
            (self.path / "sidecar.yaml").write_text(text)
        return read(environment=environment, flags=flags, working_folder=self.path)

    def problems(
        self, text: str | None = None, flags: Mapping[str, Any] | None = None, **environment: str
    ) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            self.read(text, flags, **environment)
        return list(caught.value.problems)

    def problem(self, text: str, **environment: str) -> Problem:
        found = self.problems(text, None, **environment)
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# -- defaults and layers -----------------------------------------------------------------------------------------------


def test_without_a_file_the_embedded_defaults_hold(folder: Folder) -> None:
    config = folder.read()
    assert config.server.demo is True
    assert config.file is None
    assert [entry.use for entry in config.plugin_entries()] == ["dev", "local", "memory", "sqlite"]
    assert config.data_dir == folder.path / "sidecar-data"
    assert not config.data_dir.exists()


def test_with_an_empty_file_demo_is_off(folder: Folder) -> None:
    assert folder.read("").server.demo is False
    assert folder.read("# nothing\n").server.demo is False


def test_each_layer_wins_over_the_one_below(folder: Folder) -> None:
    text = "server: {port: 1, workers: 1}\nchats: {active: 5}\n"
    config = folder.read(text, {"--port": 3, "--host": None}, SIDECAR_SERVER__PORT="2", SIDECAR_SERVER__DRAIN="1s")
    assert (config.server.port, config.server.drain, config.chats.active) == (3, 1.0, 5)
    assert config.place(("server", "port")).source == "--port"
    assert config.place(("server", "drain")).source == "SIDECAR_SERVER__DRAIN"
    assert str(config.place(("chats", "active"))) == "sidecar.yaml:2"
    assert config.place(("server", "host")).source == "default"


def test_environment_reads_lists_and_maps_as_json_and_deeper_names_win(folder: Folder) -> None:
    config = folder.read(
        SIDECAR_SERVER='{"port": 1, "drain": "3s"}',
        SIDECAR_SERVER__PORT="2",
        SIDECAR_SERVER__ORIGINS='["https://a.example"]',
        SIDECAR_PLUGINS='[{"use": "audit:Log"}]',
        SIDECAR_CACHE__OPTIONS__JOURNAL="false",
        SIDECAR_CACHE__OPTIONS__NAMES='["a"]',
        SIDECAR_SERVER__COOKIE="null",
        SIDECAR_SERVER__DEMO="false",
        SIDECAR_DEBUG="1",
    )
    assert (config.server.port, config.server.drain, config.server.origins) == (2, 3.0, ("https://a.example",))
    assert config.plugins[0].use == "audit:Log"
    assert config.cache.options == {"journal": "false", "names": ["a"]}
    assert config.server.cookie is None
    assert config.server.demo is False


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("SIDECAR_SERVER__PROT", "1", "did you mean SIDECAR_SERVER__PORT?"),
        ("SIDECAR_SERVER__ORIGINS", "https://a.example", 'write ["one", "two"]'),
        ("SIDECAR_SERVER__ORIGINS", '{"a": 1}', 'write ["one", "two"]'),
        ("SIDECAR_SERVER", "1", 'write {"key": "value"}'),
        ("SIDECAR_SERVER", '{"port": 1, "port": 2}', 'write {"key": "value"}'),
        ("SIDECAR_PLUGINS__0__USE", "zzz", "give the whole list as JSON in SIDECAR_PLUGINS"),
        ("SIDECAR_SERVER__PORT", "eighty", "write a number from 0 to 65535"),
    ],
)
def test_a_wrong_variable_is_named(folder: Folder, name: str, value: str, remedy: str) -> None:
    (problem,) = folder.problems(None, None, **{name: value})
    assert (problem.source, problem.remedy) == (name, remedy)
    assert value not in str(problem) or value == "1"


def test_kubernetes_variables_are_left_alone_and_near_misses_are_noticed(folder: Folder) -> None:
    config = folder.read(
        SIDECAR_PORT="tcp://10.0.0.1:80", SIDECAR_SERVICE_HOST="10.0.0.1", SIDECAR_SERVER_PORT="tcp://10.0.0.1:80"
    )
    assert config.notices == ()
    (notice,) = folder.read(SIDECAR_SERVER_PORT="9000").notices
    assert "SIDECAR_SERVER__PORT" in str(notice)


def test_every_key_can_be_set_by_the_variable_that_the_documents_name(folder: Folder) -> None:
    values = as_json(folder.read(""))
    for path in every_key():
        if _within_list(path):
            continue
        value = values[write_path(path)]["value"]
        text = value if isinstance(value, str) else json.dumps(value)
        config = folder.read("", None, **{variable(path): text})
        assert config.place(path).source == variable(path)
        assert as_json(config)[write_path(path)]["value"] == value


def test_file_names_are_taken_from_where_they_were_given(tmp_path: Path) -> None:
    beside, working = tmp_path / "etc", tmp_path / "work"
    beside.mkdir()
    working.mkdir()
    (beside / "pepper").write_text(f"{PEPPER}\n")
    file = beside / "my.yaml"
    file.write_text("data_dir: data\nids: {pepper: '${file:pepper}'}\n")
    config = read(file, environment={}, working_folder=working)
    assert config.data_dir == beside / "data"
    assert config.pepper == PEPPER
    assert config.search_paths == (beside, working)
    file.write_text("server: {}\n")
    assert read(file, environment={}, working_folder=working).data_dir == working / "sidecar-data"
    given = read(file, environment={"SIDECAR_DATA_DIR": "x"}, working_folder=working)
    assert given.data_dir == working / "x"
    assert given.socket_path == working / "x" / "sidecar.sock"


def test_a_section_whose_keys_are_all_commented_out_is_empty(folder: Folder) -> None:
    config = folder.read("server:\nplugins:\ncache:\n  options:\nlimits:\n  # burst: 3\n")
    assert config.limits.burst == 200
    assert config.plugins == ()
    assert config.cache.options == {}


def test_a_file_that_is_not_there_is_a_problem(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: .*no such file.*--config"):
        read(Path("nowhere.yaml"), environment={}, working_folder=folder.path)
    with pytest.raises(ConfigError, match="is a directory"):
        read(folder.path, environment={})


# -- T43: hostile and mistaken YAML ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nserver: !!python/object/apply:os.system ['true']\n", 2, "tag"),
        ("server:\n  host: !env HOST\n", 2, "the tag !env is not allowed"),
        ("server:\n  port: !!binary aGk=\n", 2, "tag"),
        ("server:\n  port: 1\n  host: a\n  port: 2\n", 4, "twice, first in line 2"),
        ("server: {}\n2: x\n", 2, "not text"),
        ("server: {}\n? [a, b]\n: x\n", 2, "not text"),
        ("server: {}\n---\nserver: {}\n", 2, "more than one document"),
        ("server: {}\nlimits: &a\n  burst: *a\n", 3, "holds itself"),
        ("server: {}\nlimits: &a\n  <<: *a\n", 3, "holds itself"),
        ("server:\n\tport: 1\n", 2, "tab"),
        ("server: *nothing\n", 1, "undefined alias"),
        ("server: {}\nids: {pepper: ${PEPPER}}\n", 2, "quotes"),
        ("- server\n", 1, "not a map"),
        ("server:\n  host: 'x\n", 2, "not valid YAML"),
        ("server: {}\n# \x01\n", 2, "character"),
    ],
)
def test_t43_what_a_configuration_has_no_use_for_is_refused_with_its_line(
    folder: Folder, text: str, line: int, words: str
) -> None:
    found = [problem for problem in folder.problems(text) if words in str(problem)]
    assert found, folder.problems(text)
    assert (found[0].source, found[0].line) == ("sidecar.yaml", line)


def test_t43_a_billion_laughs_end_at_the_bound(folder: Folder) -> None:
    bomb = "x-0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
        f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    assert "expands to more than" in folder.problem(bomb).message
    maps = "x-0: &a0 {k: v}\n" + "".join(
        f"x-{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
    )
    assert "expands to more than" in folder.problem(maps).message


def test_t43_depth_size_and_encoding_are_bounded(folder: Folder) -> None:
    assert "deeply" in folder.problem("[" * 5000).message
    assert "1 MiB" in folder.problem("#" * (1024 * 1024 + 1)).message
    (folder.path / "sidecar.yaml").write_bytes(b"server: {}\n# \xff\n")
    (problem,) = folder.problems()
    assert (problem.line, problem.message) == (2, "is not UTF-8 text")


def test_t43_an_unknown_key_is_refused_with_its_line_and_what_was_meant(folder: Folder) -> None:
    text = "server:\n  prot: 1\nsevrer: {}\nport: 1\ncache:\n  use: memory\n  url: x\nwhatever: 1\n"
    found = {problem.path: problem for problem in folder.problems(text)}
    assert {path: problem.line for path, problem in found.items()} == {
        "server.prot": 2,
        "sevrer": 3,
        "port": 4,
        "cache.url": 7,
        "whatever": 8,
    }
    assert found["server.prot"].remedy == "did you mean `port`?"
    assert found["sevrer"].remedy == "did you mean `server`?"
    assert found["port"].remedy == "did you mean `server.port`?"
    assert "`options:`" in found["cache.url"].remedy
    assert "begins with x-" in found["whatever"].remedy


def test_yaml_of_1_2_anchors_merges_and_free_keys(folder: Folder) -> None:
    config = folder.read(
        "x-common: &common {timeout: 2s, grants: [plaintext]}\n"
        "cache: {use: memory, options: {a: no, b: 0755, c: 12:30, d: 2024-01-01, e: 0x10, f: 1.5, g: ~, h: true}}\n"
        "plugins:\n  - {use: 'a:B', <<: *common}\n  - <<: *common\n    use: c:D\n    timeout: 3s\n"
    )
    assert config.cache.options == {
        "a": "no",
        "b": 755,
        "c": "12:30",
        "d": "2024-01-01",
        "e": 16,
        "f": 1.5,
        "g": None,
        "h": True,
    }
    assert [(plugin.use, plugin.timeout) for plugin in config.plugins] == [("a:B", 2.0), ("c:D", 3.0)]


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("2s", 2.0), ("30m", 1800.0), ("24h", 86400.0), ("7d", 604800.0), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration(0, 1e9).read(text) == seconds
    assert Duration(0, 1e9).read(write_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("0B", 0), ("512B", 512), ("128KiB", 131072), ("1MiB", 1048576), ("2GiB", 2**31)]
)
def test_sizes(text: str, count: int) -> None:
    assert Size(0, 2**40).read(text) == count
    assert write_size(count) == text


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("server.drain", "15", "300ms"),
        ("server.drain", "15 s", "300ms"),
        ("server.drain", "-1s", "300ms"),
        ("server.drain", "2h", "0s to 10m"),
        ("chats.key_ttl", "301s", "1s to 5m"),
        ("drafts.max_bytes", "131072", "128KiB"),
        ("drafts.max_bytes", "128KB", "128KiB"),
        ("drafts.max_bytes", "1B", "1KiB to 16MiB"),
        ("server.port", "65536", "0 to 65535"),
        ("server.port", "-1", "0 to 65535"),
        ("server.port", "true", "0 to 65535"),
        ("server.port", "80.5", "0 to 65535"),
        ("server.port", "[1]", "0 to 65535"),
        ("server.demo", "maybe", "true or false"),
        ("server.host", "http://a.example", "alone"),
        ("server.host", "a.example:80", "alone"),
        ("server.host", "300.1.1.1", "127.0.0.1"),
        ("server.hosts", "a.example", "[one, two]"),
        ("server.cookie", "a b", "RFC 6265"),
        ("server.trusted_proxies", "[10.1.2.3/8]", "10.0.0.0/8"),
        ("server.trusted_proxies", "[proxy]", "CIDR"),
        ("server.service_keys", "[{name: a}]", "add `key:`"),
        ("server.service_keys", "[{name: a, key: short}]", "16 random characters"),
        ("server.service_keys", "[{name: a b, key: 0123456789abcdef}]", "A-Z a-z 0-9"),
        ("ids.pepper", "short", "16 random characters"),
        ("ids.pepper", "1234567890123456", "in quotes"),
        ("drafts.conflicts", "merge", "copy, discard"),
        ("devices.policy", "lax", "strict, balanced, off"),
        ("devices.unenrolled", "ask", "allow, deny"),
        ("logging.format", "xml", "auto, json, console"),
        ("logging.level", "LOUD", "DEBUG, INFO"),
        ("cache", "memory", "`cache: {use: …}`"),
        ("cache.use", "a:b:c", "module:Class"),
        ("cache.options", "[a]", "key: value"),
        ("cache.grants", "[everything]", "plaintext"),
        ("server", "8770", "`host: …`"),
        ("plugins", "{use: a}", "[one, two]"),
        ("plugins", "[audit]", "`- {use: …}`"),
        ("plugins", "[{name: a}]", "add `use:`"),
        ("plugins", "[{use: a, on_failure: ignore}]", "refuse, pass"),
        ("data_dir", "''", "./sidecar-data"),
        ("data_dir", "[a]", "./sidecar-data"),
        ("titles.max_length", "null", "1 to 10000"),
    ],
)
def test_a_value_that_does_not_fit_says_what_to_write(folder: Folder, key: str, value: str, remedy: str) -> None:
    section, _, name = key.partition(".")
    text = f"{section}:\n  {name}: {value}\n" if name else f"{section}: {value}\n"
    problem = folder.problem(text)
    assert problem.path.startswith(key)
    assert remedy in problem.remedy
    assert problem.line == (2 if name else 1)


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com:443", "https://app.example.com"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:80", "http://[::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_origins_are_kept_as_browsers_send_them(folder: Folder, given: str, read_as: str) -> None:
    assert folder.read(f"server: {{origins: ['{given}']}}").server.origins == (read_as,)


@pytest.mark.parametrize(
    "given",
    [
        "*",
        "null",
        "app.example.com",
        "https://",
        "https://a.example/",
        "https://a.example/x",
        "https://a.example?x",
        "https://*.example",
        "https://u@a.example",
        "https://a.example:x",
        "https://a.example:99999",
        "https://ä.example",
        "https://a b",
        "https://a.example#x",
    ],
)
def test_an_origin_that_is_not_exact_is_refused(folder: Folder, given: str) -> None:
    problem = folder.problem(f"server:\n  origins:\n    - '{given}'\n")
    assert (problem.path, problem.line) == ("server.origins[0]", 3)


def test_networks_and_words_are_read(folder: Folder) -> None:
    config = folder.read(
        "server: {trusted_proxies: [10.0.0.0/8, '::1'], demo: on, hosts: ['[::1]', Chat.Example.com], port: '80'}\n"
        "devices: {policy: off}\nlogging: {level: debug}\n"
    )
    assert config.server.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert (config.server.demo, config.server.hosts, config.server.port) == (True, ("::1", "chat.example.com"), 80)
    assert (config.devices.policy, config.logging.level) == ("off", "DEBUG")


# -- contradictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("drafts: {debounce: 5s, max_debounce: 4s}", "drafts.max_debounce", "write 5s or longer"),
        ("server: {workers: 2}", "server.workers", "shared cache"),
        ("server: {metrics_port: 8770}", "server.metrics_port", "another port"),
        ("messages: {max_bytes: 256KiB}", "limits.max_frame", "write 260KiB or more"),
        ("sync: {max_frame: 128KiB}", "sync.max_frame", "or more"),
        ("limits: {send_queue: 512KiB}", "limits.send_queue", "write 1MiB or more"),
        ("limits: {bytes_per_user: 100KiB}", "limits.bytes_per_user", "write 256KiB or more"),
        ("sync: {recent: 9, total: 8}", "sync.recent", "at most 8"),
        ("plugins: [{use: 'a:B'}, {use: 'a:B'}]", "plugins[1]", "`name:`"),
        ("plugins: [{use: 'a:B', name: persistence}]", "plugins[0].name", "`name:`"),
        ("plugins: [{use: 'a:B', name: cache.memory}]", "plugins[0].name", "`name:`"),
        (
            "server: {service_keys: [{name: a, key: 0123456789abcdef}, {name: b, key: 0123456789abcdef}]}",
            "server.service_keys[1].key",
            "of its own",
        ),
    ],
)
def test_values_that_contradict_each_other(folder: Folder, text: str, path: str, words: str) -> None:
    problem = folder.problem(text)
    assert problem.path == path
    assert words in problem.remedy + problem.message
    assert problem.line == 1


def test_all_problems_are_found_in_one_run(folder: Folder) -> None:
    text = (
        "server:\n  port: x\n  prot: 1\n  host: 1.2.3.4.5\ndrafts: {max_debounce: 1s}\n"
        "plugins:\n  - {use: 7}\nids: {pepper: '${NO_SUCH}'}\ncache: 3\n"
    )
    found = folder.problems(text, None, SIDECAR_SERVER__WORKERZ="1")
    assert {(problem.path, problem.line) for problem in found} == {
        ("server.port", 2),
        ("server.prot", 3),
        ("server.host", 4),
        ("drafts.max_debounce", 5),
        ("plugins[0].use", 7),
        ("ids.pepper", 8),
        ("cache", 9),
        ("server.workerz", None),
    }
    lines = str(ConfigError(found)).splitlines()
    assert len(lines) == len(found)
    assert "sidecar.yaml:2: server.port: must be a whole number, not text; write a number from 0 to 65535" in lines


# -- references and redaction ------------------------------------------------------------------------------------------


def test_references_are_put_in(folder: Folder) -> None:
    (folder.path / "token").write_text("s3cret-line\n\n")
    config = folder.read(
        "server: {port: '${PORT}'}\ncache:\n  options:\n    url: 'redis://u:${PASSWORD}@${HOST}/0'\n"
        "    token: '${file:token}'\n    plain: '$${PASSWORD} $x'\n    list: ['${HOST}']\n",
        PORT="9000",
        PASSWORD="hunter2-$HOST-${HOST}",
        HOST="cache.internal",
    )
    assert config.server.port == 9000
    assert config.cache.options == {
        "url": "redis://u:hunter2-$HOST-${HOST}@cache.internal/0",
        "token": "s3cret-line\n",
        "plain": "${PASSWORD} $x",
        "list": ["cache.internal"],
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("${NO_SUCH}", "NO_SUCH is not set"),
        ("${EMPTY}", "EMPTY is empty"),
        ("${file:nothing}", "no such file"),
        ("${file:empty}", "is empty"),
        ("${file:binary}", "not UTF-8"),
        ("${file:large}", "64 KiB"),
        ("${file:}", "names no file"),
        ("${file:.}", "cannot be read"),
        ("${NAME", "without its }"),
        ("${A-B}", "neither a variable's name nor file:"),
        ("${}", "neither a variable's name nor file:"),
    ],
)
def test_a_missing_reference_names_the_key(folder: Folder, value: str, words: str) -> None:
    (folder.path / "empty").write_text("\n")
    (folder.path / "binary").write_bytes(b"\xff\xfe\x00")
    (folder.path / "large").write_text("x" * 65537)
    problem = folder.problem(f"cache:\n  options:\n    url: '{value}'\n", EMPTY="")
    assert (problem.path, problem.line) == ("cache.options.url", 3)
    assert words in problem.message


SECRET = 'cAnArY/+ &secret"x'


def test_t40_a_secret_is_redacted_wherever_it_is_printed(folder: Folder) -> None:
    (folder.path / "key").write_text(SECRET)
    config = folder.read(
        "cache:\n  options:\n    url: 'redis://u:${S}@h'\n    deep: [{anything: 'a ${S} b'}]\n    password: literal-one\n"
        "    plain_url: 'redis://u:literal-two@h'\n    tokens: [literal-four]\n"
        "ids: {pepper: '${P}'}\nserver:\n  service_keys: [{name: a, key: '${file:key}-${file:key}'}, {name: b, key: literal-three-3333}]\n",
        S=SECRET,
        P=PEPPER,
        SIDECAR_ENCRYPTION__OPTIONS__MASTER_KEY="literal-five",
    )
    assert config.cache.options["url"] == f"redis://u:{SECRET}@h"
    printed = [
        as_yaml(config),
        json.dumps(as_json(config), ensure_ascii=False),
        repr(config),
        str(config),
        repr(config.plugin_entries()),
        config.model_dump_json(include={"ids", "server"}),
    ]
    for text in printed:
        for secret in ("cAnArY", PEPPER, *(f"literal-{n}" for n in ("one", "two", "three", "four", "five"))):
            assert secret not in text
    values = as_json(config)
    assert values["cache.options.url"]["value"] == "redis://u:[redacted]@h"
    assert values["cache.options.url"]["source"] == "sidecar.yaml, ${S}"
    assert values["cache.options.deep[0].anything"]["value"] == "a [redacted] b"
    assert yaml.safe_load(as_yaml(config)) == redacted(config)


def test_t40_a_secret_is_redacted_within_foreign_texts_in_all_its_forms(folder: Folder) -> None:
    config = folder.read("cache: {options: {a: '${S}', b: '${SHORT}'}}", S=SECRET, SHORT="abc")
    quoted = "cAnArY%2F%2B%20%26secret%22x"
    for form in (SECRET, quoted, json.dumps(SECRET), repr(SECRET)):
        assert "cAnArY" not in config.redact(f"cannot reach {form}!")
    assert config.redact("abc, abcdef") == "[redacted], abcdef"
    assert config.redact("amqp://me:pass@host") == "amqp://me:[redacted]@host"
    located = config.locate(Problem("cache.options.a", f"{SECRET} is no URL", "mend it"))
    assert str(located) == "sidecar.yaml:1: cache.options.a: [redacted] is no URL; mend it"


def test_t40_a_secret_that_does_not_fit_is_not_repeated(folder: Folder) -> None:
    text = "server: {port: '${S}', host: '${S}', origins: ['${S}']}\ndrafts: {debounce: '${S}', conflicts: '${S}'}\ncache: '${S}'\n"
    found = folder.problems(text, S="cAnArY!!")
    assert len(found) == 6
    assert "cAnArY" not in "\n".join(map(str, found))
    assert "cAnArY" not in repr(found)


# -- what the core asks ------------------------------------------------------------------------------------------------


def test_plugin_entries_come_in_order_with_path_line_and_source(folder: Folder) -> None:
    config = folder.read(
        "plugins:\n  - use: a:B\n    options: {level: INFO}\n    on_failure: pass\n    name: first\n  - use: c:D\n"
        "persistence:\n  use: sqlite\n  timeout: 2s\n",
        SIDECAR_CACHE__OPTIONS__JOURNAL="false",
    )
    entries = config.plugin_entries()
    assert [(entry.path, entry.slot, entry.name, entry.line) for entry in entries] == [
        ("auth", "auth", "dev", None),
        ("encryption", "encryption", "local", None),
        ("cache", "cache", "memory", None),
        ("persistence", "persistence", "persistence", 7),
        ("plugins[0]", None, "first", 2),
        ("plugins[1]", None, "c:D", 6),
    ]
    assert entries[3].timeout == 2.0
    assert (entries[4].options, entries[4].on_failure) == ({"level": "INFO"}, "pass")
    assert entries[4].lines["options.level"] == 3
    assert config.locate(Problem("cache.options.journal", "a", "b")).source == "SIDECAR_CACHE__OPTIONS__JOURNAL"
    assert config.locate(Problem("plugins[0].options.level", "a", "b")).line == 3
    assert config.locate(Problem("plugins[1].options.nothing", "a", "b")).line == 6


def test_limits_are_handed_on(folder: Folder) -> None:
    assert folder.read("").cache_limits() == Limits()
    assert folder.read("").document_limits() == DocumentLimits()
    config = folder.read(
        "chats: {active: 9, ttl: 1m, draft_ttl: 2m}\ndrafts: {debounce: 1s, max_debounce: 3s, max_bytes: 1KiB, max_depth: 5, max_nodes: 6}\n"
        "limits: {draft_chats_per_user: 7, bytes_per_user: 1MiB}\nsync: {events_kept: 800}\nmessages: {max_bytes: 2KiB}\n"
    )
    assert config.cache_limits() == Limits(9, 60.0, 120.0, 1.0, 3.0, 7, 1024 * 1024, 800)
    assert config.document_limits() == DocumentLimits(1024, 5, 6)
    assert config.message_limits() == DocumentLimits(2048, 5, 6)


def test_a_person_is_named_by_id_or_hash(folder: Folder) -> None:
    plain, peppered = folder.read(""), folder.read("ids: {pepper: '${P}'}", P=PEPPER)
    digest = plain.user_hash("bob")
    assert plain.user_hash(digest.upper()) == digest
    assert peppered.user_hash("bob") != digest
    assert peppered.user_hash(digest) == digest


def test_the_configuration_cannot_be_changed(folder: Folder) -> None:
    with pytest.raises(ValueError, match="frozen"):
        folder.read().server.port = 1


# -- documents ---------------------------------------------------------------------------------------------------------


def _file(name: str) -> Config:
    return read(ROOT / "config" / name, environment={}, working_folder=ROOT / "config")


def test_the_reference_has_every_key_and_changes_nothing(folder: Folder) -> None:
    reference = _file("reference.yaml")
    plain = folder.read("")
    assert reference.model_copy(update={"data_dir": plain.data_dir}).model_dump() == plain.model_dump()
    assert reference.data_dir == ROOT / "config" / "sidecar-data"
    missing = [path for path in every_key() if not _within_list(path) and reference.place(path).source == "default"]
    assert missing == []


def test_each_key_of_the_reference_has_a_comment() -> None:
    lines = (ROOT / "config" / "reference.yaml").read_text().splitlines()
    for above, line in pairwise(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            assert above.lstrip().startswith("# "), line


def test_the_embedded_file_says_what_holds_without_a_file(tmp_path: Path) -> None:
    built_in = read(environment={}, working_folder=tmp_path)
    shipped = read(ROOT / "config" / "embedded.yaml", environment={}, working_folder=tmp_path)
    assert shipped.model_dump() == built_in.model_dump()


def test_each_key_is_documented_with_its_default(folder: Folder) -> None:
    rows = {}
    for line in (ROOT / "docs" / "configuration.md").read_text().splitlines():
        if line.startswith("| `"):
            key, default, meaning = (cell.strip() for cell in line.strip("| ").split(" | ", 2))
            rows[key.strip("`")] = (default.strip("`"), meaning)
    values = as_json(folder.read(""))
    for path in every_key():
        if path[0] in {"auth", "encryption", "cache", "persistence"} or _within_list(path):
            assert any(key.split("`")[0] == path[-1] for key in rows) or path[1:2] == ("service_keys",)
            continue
        default, meaning = rows[write_path(path)]
        assert len(meaning) > 10
        if path == ("data_dir",):
            assert default == "./sidecar-data"
        else:
            name = write_path(path)
            assert as_json(folder.read(None, None, **{variable(path): default}))[name]["value"] == values[name]["value"]


def test_each_log_key_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text().partition("## Logs")[2]
    assert [key for key in KEYS if f"`{key}`" not in text] == []


def _within_list(path: KeyPath) -> bool:
    return (path[0] == "plugins" and len(path) > 1) or "service_keys" in path[:-1]


def test_the_schema_takes_what_is_right_and_refuses_what_is_wrong() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    for name in ("reference.yaml", "embedded.yaml"):
        check.validate(yaml.safe_load((ROOT / "config" / name).read_text()))
    check.validate({"x-anchors": {"a": 1}, "server": {"port": "${PORT}", "drain": "${DRAIN}", "cookie": None}})
    wrongs: list[dict[str, Any]] = [
        {"sevrer": {}},
        {"server": {"port": 70000}},
        {"server": {"port": "80"}},
        {"server": {"drain": 15}},
        {"server": {"drain": "15"}},
        {"drafts": {"max_bytes": "1KB"}},
        {"drafts": {"conflicts": "merge"}},
        {"plugins": [{"name": "a"}]},
        {"cache": {"use": "memory", "url": "x"}},
    ]
    for wrong in wrongs:
        assert not check.is_valid(wrong), wrong


def test_each_key_in_the_schema_has_a_description() -> None:
    schema = json_schema()
    for model in (schema, *schema["$defs"].values()):
        for name, field in model["properties"].items():
            assert field.get("description"), name


@pytest.mark.parametrize("path", [("a",), ("a", 0, "b"), ("plugins", 12, "options", "url"), ("a", 0, 1)])
def test_paths_are_written_and_read(path: KeyPath) -> None:
    assert read_path(write_path(path)) == path
