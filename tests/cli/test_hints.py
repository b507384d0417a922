"""Commands, options and settings in messages exist: those of every string in the source, and a few that are run."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support import toy_partition, train_run
from typer.main import get_command

from flctl.cli import build
from flctl.cli import run as cli
from flctl.config.config import Config
from flctl.config.sections.training import SECTIONS
from flctl.config.sources import LAYERED, NAMED
from flctl.plugins.registry import Registry

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(
    r"`flctl (?P<quoted>[^`]+)`"
    r"|(?:: |run |\(|\| )flctl (?P<bare>[a-z][^\n]*?)(?=$|\n|\) |\)\.|, |\. |\.$| to )"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w-])")
SETTING = re.compile(r"(?<![\w./-])([a-z]+)\.([a-z][a-z_-]+)(?:\.([a-z_]+))?(?![\w(/-])")
PLACEHOLDER = "X"
NETWORK = ("flctl/federation/", "flctl/cli/federation/", "flctl/cli/site/", "flctl/cli/hub/")
"""Source of federations over a network, whose commands are not all in this version."""


def text_of(node: ast.AST) -> str | None:
    """A string, with `X` in the place of values; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
    return None


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """Strings that are statements: docstrings, of modules, classes, functions and attributes."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string of a module, docstrings left out; parts of f-strings are not given twice."""
    skipped, todo = docstrings(tree), [tree]
    while todo:
        node = todo.pop()
        text = None if node in skipped else text_of(node)
        if text is None:
            todo += [] if node in skipped else list(ast.iter_child_nodes(node))
        else:
            yield node.lineno, text


def built_commands(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each `command_line("flctl", ...)` whose words are written there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "command_line":
            words = [text_of(word) or PLACEHOLDER for word in node.args if not isinstance(word, ast.Starred)]
            if words[:1] == ["flctl"] and len(words) > 1:
                yield node.lineno, shlex.join(words[1:])


@cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    """File and syntax tree of each module of the package and of its plugins."""
    tops = (ROOT / "flctl", *sorted(ROOT.glob("plugins/*/src")))
    paths = [path for top in tops for path in sorted(top.rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


@cache
def all_strings() -> tuple[tuple[str, str], ...]:
    """Place and text of each string of the source."""
    return tuple((f"{name}:{line}", text) for name, tree in sources() for line, text in strings(tree))


def commands() -> Iterator[tuple[str, str]]:
    """Place and words after `flctl` of each command in a message."""
    for place, text in all_strings():
        for match in COMMAND.finditer(text):
            yield place, match["quoted"] or match["bare"]
    for name, tree in sources():
        for line, text in built_commands(tree):
            yield f"{name}:{line}", text


@cache
def root():
    return get_command(build())


def options(command) -> set[str]:
    """Options of a command, and of the one that stands for a group without a subcommand."""
    bare = getattr(command, "commands", {}).get("SOURCE", command)
    return {"--help", *(name for parameter in bare.params for name in (*parameter.opts, *parameter.secondary_opts))}


def all_options(command) -> set[str]:
    """Options of a command and of all its subcommands."""
    return options(command).union(*map(all_options, getattr(command, "commands", {}).values()))


def fault(words: list[str]) -> str | None:
    """The reason that a command line cannot be parsed, or None. A command without arguments is only named."""
    command = root()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if command is root():
        return f"no command '{words[0]}'"
    if getattr(command, "commands", {}) and "SOURCE" not in command.commands:
        return f"no subcommand '{' '.join(words)}'" if words else None  # `flctl dp` alone prints its help
    bare = getattr(command, "commands", {}).get("SOURCE", command)
    arguments = [parameter for parameter in bare.params if parameter.required and not parameter.opts[0].startswith("-")]
    if words and words != ["--help"] and len([word for word in words if not word.startswith("--")]) < len(arguments):
        return f"lacks {arguments[-1].name}"
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options(command)]
    return f"no option {unknown}" if unknown else None


def pending(place: str, reason: str) -> bool:
    """True for commands of federations over a network that are not in this version."""
    return place.startswith(NETWORK) and reason.startswith(("no command", "no subcommand"))


def test_commands_in_messages_exist_with_their_options() -> None:
    found, listed = [], list(commands())
    for place, text in listed:
        reason = fault(shlex.split(text.replace("'", "")))
        if reason and not pending(place, reason):
            found.append(f"{place}: flctl {text}: {reason}")
    assert len(listed) > 40
    assert found == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train DIR --resume X", None),
        ("partition SOURCE --alpha 0.3", None),
        ("dp", None),
        ("trian DIR", "no command 'trian'"),
        ("runs erase", "no subcommand 'erase'"),
        ("predict RUN", "lacks rows"),
        ("eval RUN --verbosely", "no option ['--verbosely']"),
    ],
)
def test_a_command_that_does_not_parse_is_found(text, reason):
    assert fault(text.split()) == reason


def test_options_in_messages_exist() -> None:
    known = all_options(root()) | {"--disable-plugin", "--force-reinstall"}  # the latter is an option of pip
    found = [
        f"{place}: {option}"
        for place, text in all_strings()
        if not place.startswith(NETWORK)
        for option in OPTION.findall(text)
        if option not in known
    ]
    assert found == []


@cache
def settings() -> dict[str, set[str]]:
    """Section -> keys, those of all components of its kind included."""
    registry = Registry()
    keys = {name: set(section.model_fields) for name, section in SECTIONS.items()}
    for kind in NAMED:
        offered = registry.offers(kind).values()
        keys.setdefault(kind, {"name"}).update(*(one.component.Config.model_fields for one in offered))
    return keys


@cache
def transform_settings() -> dict[str, set[str]]:
    registry = Registry()
    return {name: set(one.component.Config.model_fields) for name, one in registry.offers("transform").items()}


def known_setting(section: str, key: str, inner: str | None) -> bool:
    if section == LAYERED:
        return key in transform_settings() and inner in {None, *transform_settings()[key]}
    return key in settings()[section]


def hints(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield from strings(node.value)


def test_settings_in_hints_exist() -> None:
    known = {*settings(), LAYERED}
    found = [
        f"{name}:{line}: {match[0]}"
        for name, tree in sources()
        for line, text in hints(tree)
        for match in SETTING.finditer(text)
        if match[1] in known and not known_setting(match[1], match[2], match[3])
    ]
    assert {"local", "cohort", "engine", "aggregator", "strategy"} <= known <= {*Config.model_fields, "partition"}
    assert found == []


def error_of(capsys, *arguments) -> dict[str, str]:
    """The error of a command that fails."""
    capsys.readouterr()
    assert cli([*arguments] if "--json" in arguments else [*arguments, "--json"]) > 0
    return json.loads(capsys.readouterr().out)["error"]


def hint_of(capsys, *arguments) -> str:
    return error_of(capsys, *arguments)["hint"]


def hinted(hint: str, **values) -> list[str]:
    """The words of the first command in a hint, with values in the place of its words in capitals."""
    match = next(COMMAND.finditer(f": {hint}"))
    return [values.get(word, word) for word in shlex.split(match["quoted"] or match["bare"])]


@pytest.mark.slow
def test_hints_are_commands_that_succeed_as_they_stand(tmp_path, capsys, monkeypatch):
    home = tmp_path / "my studies"
    home.mkdir()
    monkeypatch.chdir(home)
    make = hinted(hint_of(capsys, "train", "a study"), SOURCE="iris", DIR="a study")
    assert cli([*make, "--clients", "3", "--no-report"]) == 0

    train = hinted(hint_of(capsys, "train"), DIR="a study")
    assert cli([*train, "--rounds", "2", "--out", "a run"]) == 0
    for failing in (
        ("partition",),
        ("plugins", "show", "nothing-of-that-kind"),
        ("eval", "another run"),
        ("export", "a study", "--out", "folder"),
        ("baselines", "a study"),
    ):
        hint = hint_of(capsys, *failing)
        assert cli(hinted(hint, RUN="a run")) == 0, hint


def test_partitions_and_runs_in_the_place_of_something_else_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = toy_partition(tmp_path / "parts")
    train_run(data, tmp_path / "run", "rounds=1")
    expected = {
        ("partition", "parts"): "parts is a partition, not a source",
        ("predict", "run", "parts", "--out", "x.csv"): "parts is a partition, not a source",
        ("partition", "run"): "run is a run, not a source",
        ("train", "parts", "--resume", "parts"): "parts is a partition, not a run",
        ("eval", "parts"): "parts is a partition, not a run",
        ("train", "run"): "run is a run, not a partition",
    }
    assert {words: error_of(capsys, *words)["message"] for words in expected} == expected
    for words in expected:
        assert fault(hinted(error_of(capsys, *words)["hint"])) is None


def test_an_option_without_its_value_names_the_help_of_its_command(capsys):
    assert hint_of(capsys, "eval", "run", "--json", "--csv") == "`flctl eval --help` shows how to call it."
