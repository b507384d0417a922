"""plugins/README.md, the author's guide: its hooks, signatures and examples are those of the code."""

import ast
import re
from pathlib import Path

import pytest

from flctl import testing
from flctl.kinds import KINDS
from flctl.plugins import new_plugin
from flctl.plugins.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
NAMES = {
    "strategy": "flctl-root-weights",
    "transform": "flctl-random-mask",
    "aggregator": "flctl-roll-call",
    "engine": "flctl-retry",
    "dataset": "flctl-svmlight",
    "model": "flctl-layer-norm",
    "partitioner": "flctl-ratios",
}


def signature(node):
    """A function as the guide writes it: `name(arguments) -> result`, as a cell of a table."""
    return f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}".replace("|", r"\|")


def hooks():
    """Every hook of hookspecs.py."""
    tree = ast.parse((ROOT / "flctl" / "plugins" / "hookspecs.py").read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def methods():
    """(Base class, method) of everything that a component may override, properties aside."""
    for kind in KINDS.values():
        module, _, name = kind.home.partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        base = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in base.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                decorators = [ast.unparse(one) for one in node.decorator_list]
                if "property" not in decorators and "cached_property" not in decorators:
                    yield name, node


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook.name)
def test_each_hook_is_there_with_its_exact_signature(hook):
    assert f"| `{signature(hook)}` | " in GUIDE, f"plugins/README.md: write the line of {signature(hook)}"


def test_no_hook_is_there_that_is_none():
    assert sorted(re.findall(r"^\| `(flctl_\w+)\(", GUIDE, re.MULTILINE)) == sorted(hook.name for hook in hooks())


HEADINGS = {"DatasetReader": "Data set reader", "Partitioner": "Partition scheme"}


def section(base):
    """The guide's section of a base class."""
    heading = HEADINGS.get(base, base)
    return re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.parametrize(("base", "method"), list(methods()), ids=lambda value: getattr(value, "name", value))
def test_each_method_is_in_its_section_with_its_exact_signature(base, method):
    line = f"| `{signature(method)}` | "
    assert line in section(base), f"plugins/README.md, {base}: write the line of {signature(method)}"


@pytest.mark.parametrize("base", sorted({base for base, _ in methods()}))
def test_a_section_lists_no_other_method(base):
    written = re.findall(r"^\| `(\w+)\((?:self|cls)", section(base), re.MULTILINE)
    assert sorted(written) == sorted(method.name for name, method in methods() if name == base)


def code(language):
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_what_flctl_plugins_new_writes(kind):
    """So they pass their tests, install and train: tests/test_plugin_kit_new.py holds the templates to that."""
    names = new_plugin.names_of(NAMES[kind])
    rendered = new_plugin.render(names, kind)
    component = f"src/{names.module}/{kind}.py"
    assert f"# {component}\n{rendered[component]}" in code("python")


def test_a_whole_package_is_shown():
    names = new_plugin.names_of(NAMES["strategy"])
    rendered = new_plugin.render(names, "strategy")
    assert rendered["pyproject.toml"] in code("toml")
    for path in (f"src/{names.module}/__init__.py", f"tests/test_{names.module}.py"):
        assert f"# {path}\n{rendered[path]}" in code("python")


@pytest.mark.parametrize("block", code("python"), ids=lambda block: block.partition("\n")[0][:40])
def test_each_piece_of_code_is_python(block):
    ast.parse(block)


def test_the_example_of_a_subcommand_works(capsys):
    import typer
    from typer.testing import CliRunner

    import flctl

    (block,) = [block for block in code("python") if "flctl_commands" in block]
    scope = {"flctl": flctl}
    exec(block, scope)
    plugin = type("Plugin", (), {"flctl_commands": staticmethod(scope["flctl_commands"])})()
    app = typer.Typer()
    app.callback()(lambda: None)
    registry = Registry()
    registry.add(plugin, "hello")
    plugin.flctl_commands(app)
    result = CliRunner().invoke(app, ["hello", "you"])
    assert (result.exit_code, result.output.strip()) == (0, "hello you")


def test_every_call_of_the_kit_is_there():
    for name in testing.__all__:
        if name.startswith("check_"):
            assert f"`{name}`" in GUIDE


def test_commands_in_the_guide_exist():
    from flctl.cli import build

    groups = {group.name: group.typer_instance for group in build().registered_groups}
    plugins = {command.name for command in groups["plugins"].registered_commands}
    assert set(re.findall(r"flctl plugins (\w+)", GUIDE)) <= plugins
