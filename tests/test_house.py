"""The house rules: public API, import direction, what `--help` may import, sizes, and words that stay out."""

from __future__ import annotations

import ast
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import flctl

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES, MEDIAN_LINES = 400, 50, 10

TREE = tuple(
    """
    types errors version component kinds metrics seeds machine timing results arrays atomic json_files
    wire data models partition config algorithms executors simulation run evaluation client engines stored
    prediction export server federation baselines plugins performance testing report cli
    builtins worker __main__
    """.split()  # noqa: SIM905
)
"""From the bottom up: a module imports from its own folder and from those named before it, never from one after it."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = (ROOT / "flctl").rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules().items()}


def imports_of(node: ast.AST, *, functions: bool = True, types: bool = True) -> Iterator[str]:
    """What a module imports: when it is imported, when its `functions` are called, and for `types` alone."""
    type_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    if (type_only and not types) or (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not functions):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in modules() else str(node.module)
    for child in ast.iter_child_nodes(node):
        yield from imports_of(child, functions=functions, types=types)


@cache
def graph(*, functions: bool = True, types: bool = True) -> dict[str, frozenset[str]]:
    """Module -> modules of flctl that it imports, in any of the three ways or at run time alone."""
    return {
        name: frozenset(
            found
            for found in imports_of(tree, functions=functions, types=types)
            if found in modules() and found != name
        )
        for name, tree in trees().items()
    }


def layer_of(module: str) -> int:
    """Position in TREE of the module, or of the folder it lies in; the public API lies above all of them.

    The two roles of `flctl/__init__.py` differ: at run time it imports `version` alone.
    """
    return TREE.index(module.split(".")[1]) if "." in module else len(TREE)


def test_the_public_api_is_what_the_documentation_lists() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(flctl.__all__)


@pytest.mark.parametrize("name", flctl.__all__)
def test_every_public_name_imports(name: str) -> None:
    found = getattr(flctl, name)
    assert getattr(found, "__module__", "flctl").startswith("flctl") or name in ("Arrays", "Layout", "hookimpl")


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Strategie'"):
        getattr(flctl, "Strategie")  # noqa: B009


def test_every_module_has_a_place_in_the_layers() -> None:
    assert [module for module in modules() if "." in module and module.split(".")[1] not in TREE] == []


def test_imports_go_one_way() -> None:
    upward = [
        f"{module} imports {found}"
        for module, all_found in graph().items()
        for found in sorted(all_found)
        if layer_of(found) > layer_of(module)
    ]
    assert upward == []


CONTRACT = frozenset(
    f"flctl.algorithms.{name}"
    for name in ("run_info", "strategy", "transform", "aggregator", "local_steps", "pipeline")
)
"""RunInfo names the base classes, and these name RunInfo: the one circle, of types alone and inside one folder."""


def circles(edges: dict[str, frozenset[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or through others."""

    def reached(start: str) -> set[str]:
        found, ahead = set(), [start]
        while ahead:
            for following in edges[ahead.pop()] - found:
                found.add(following)
                ahead.append(following)
        return found

    reach = {module: reached(module) for module in edges}
    groups = {frozenset(m for m in reach[module] if module in reach[m]) for module in edges if module in reach[module]}
    return [set(group) for group in groups]


def test_modules_import_without_a_circle() -> None:
    assert circles(graph(functions=False, types=False)) == []


def test_the_only_circle_of_types_and_functions_is_that_of_run_info() -> None:
    found = circles(graph())
    assert [sorted(circle - CONTRACT) for circle in found] == [[]]


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for module, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_only_torch_code_imports_torch_when_it_is_imported() -> None:
    """`flctl train --help`, `flctl partition` and the configuration never wait for torch."""
    importing = {
        name
        for name, tree in trees().items()
        if any(found.split(".")[0] == "torch" for found in imports_of(tree, functions=False, types=False))
    }
    allowed = {
        "flctl.executors.sequential",
        "flctl.models.tasks",
        "flctl.executors.optimizers",
        "flctl.stored.weights",
        "flctl.export.runtime",
        "flctl.performance.hand_written_loop",
    }
    assert {name for name in importing if not name.startswith(("flctl.models.", "flctl.executors."))} <= allowed


HELP_PROGRAM = """
import contextlib, io, json, sys
from typer.main import get_command
from flctl.cli import build, run

HEAVY = ("torch", "numpy", "sklearn", "scipy", "matplotlib", "pyarrow", "PIL", "pandas")

def paths(command, at=()):
    yield at
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from paths(child, (*at, name))

root = get_command(build())

def command_at(path):
    command = root
    for name in path:
        command = command.commands[name]
    return getattr(command, "commands", {}).get("SOURCE", command)

found = {}
for path in paths(root):
    options = [opt for p in command_at(path).params if not getattr(p, "hidden", False) for opt in p.opts]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        code = run([*path, "--help"])
    heavy = [name for name in HEAVY if name in sys.modules]
    page = {"code": code, "heavy": heavy, "usage": "Usage: flctl" in shown.getvalue(), "options": options}
    found[" ".join(path)] = page
print(json.dumps(found))
"""


@cache
def help_pages() -> dict[str, dict[str, object]]:
    """Command -> its --help's exit code, heavy modules in memory after it, whether usage was shown; its options."""
    done = subprocess.run([sys.executable, "-c", HELP_PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


def test_help_of_every_command_imports_neither_torch_nor_numpy() -> None:
    assert {"", "partition", "train", "eval", "demo", "config show", "plugins list", "runs list"} <= set(help_pages())
    for command, page in help_pages().items():
        assert (command, page["code"], page["heavy"], page["usage"]) == (command, 0, [], True)


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    missing = [command for command in help_pages() if command and f"`flctl {command}" not in text]
    assert missing == []


def test_every_option_is_documented() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    named |= {f"--{key.replace('_', '-')}" for key in re.findall(r"`([a-z][a-z0-9_]*)`", text)}  # as a YAML key
    options = {(command, word) for command, page in help_pages().items() for word in page["options"] if "--" in word}
    assert ("partition", "--alpha") in options
    assert sorted((command, word) for command, word in options if word not in named) == []


def test_every_documented_command_exists() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ `flctl ([a-z ]+)`", text, re.MULTILINE)
    assert headings
    assert [heading for heading in headings if heading not in help_pages()] == []


def test_every_hook_is_documented_for_plugin_authors() -> None:
    tree = ast.parse((ROOT / "flctl" / "plugins" / "hookspecs.py").read_text(encoding="utf-8"))
    hooks = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert len(hooks) == 13
    assert [hook for hook in hooks if f"| `{hook}(" not in text] == []


@cache
def functions() -> dict[str, int]:
    """`file:line name` -> lines, of every function of the package."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module, path in modules().items()
        for node in ast.walk(trees()[module])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def test_no_function_is_longer_than_its_budget() -> None:
    assert {name: lines for name, lines in functions().items() if lines > FUNCTION_LINES} == {}


def test_the_median_function_is_short() -> None:
    assert statistics.median(functions().values()) <= MEDIAN_LINES


def test_no_file_is_longer_than_its_budget() -> None:
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules().values()}
    assert {path: count for path, count in lines.items() if count > FILE_LINES} == {}


def tracked() -> list[Path]:
    """The files that are part of the project, as far as they are text."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git work tree")
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".csv", ".sh", ".txt", ""}
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


HOSTS = "|".join(("py" + "pi", "python" + "hosted", "pytorch", "anaconda", "npm" + "js"))
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~:{}-])/(?:tmp|home|root|opt|mnt|srv|Users|work)/\w"),
    "a package index": re.compile(rf"(?:{HOSTS})\.(?:org|com|io)\b|--(?:extra-)?" + r"index-url|--find-" + "links"),
    "a file of other people's": re.compile(r"\.\./" + "shared"),
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_file_names(kind: str) -> None:
    allowed = {"a file of other people's": {ROOT / ".ci" / "run"}}.get(kind, set())
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path not in allowed
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if FORBIDDEN[kind].search(line)
    ]
    assert found == []


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def importing(names: set[str], tests: bool) -> list[str]:
    """The tracked files that import one of `names`."""
    word = re.compile(rf"\b({'|'.join(names)})\b")  # a file without any of them is not worth parsing
    return [
        f"{path.relative_to(ROOT)} imports {found}"
        for path in tracked()
        if path.suffix == ".py" and (tests or "tests" not in path.relative_to(ROOT).parts)
        if word.search(path.read_text(encoding="utf-8"))
        for found in imports_of(ast.parse(path.read_text(encoding="utf-8")))
        if found.split(".")[0] in names
    ]


def test_no_code_imports_pickle() -> None:
    """A pickle runs code that the file brings along. Tests may make one, to see it refused."""
    assert importing(PICKLES, tests=False) == []
    assert "allow_pickle=" + "True" not in "".join(path.read_text(encoding="utf-8") for path in modules().values())


def test_no_code_imports_click() -> None:
    """Typer 0.26 and later bring a Click of their own, and the package need not be there."""
    assert importing({"click"}, tests=True) == []


def test_product_code_has_no_assert_and_swallows_no_error() -> None:
    found = []
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found.append(f"{name}:{node.lineno} asserts")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{name}:{node.lineno} excepts everything")
    assert found == []


WH_OPENING = re.compile(r"(What|Who|Where|How|Whether)\b")
RIDDLES = re.compile(
    r"\b(so many|is none|none of its|[nN]obody|[aA]nybody|[wW]hoever|becomes? of|(is|are) told(?! apart)|"
    r"of its own accord)\b"
)
UNCLEAR_HINT = re.compile(r"(Take|Give|Say|Mend|Put it back)\b")
COUNTED_NOUNS = re.compile(
    r" (clients|rows|rounds|updates|steps|classes|features|columns|examples|targets|survivors)\b"
)


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def prose_of(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, text and docstring-or-not of each docstring, string and comment of a file."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and is_docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split()), id(node) in docstrings
    if not RIDDLES.search(re.sub(r"[\s#]+", " ", source)):  # comments are read for riddles alone
        return
    above, joined = 0, ""  # a comment of several lines is one text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            text = token.string.lstrip("# ")
            joined = f"{joined} {text}" if line == above + 1 else text
            above = line
            yield line, joined, False


def unclear_prose() -> Iterator[str]:
    """Docstrings that open with a wh-word, and texts with words that make a reader stop."""
    for top in ("flctl", "scripts", *(str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*/src"))):
        for path in sorted((ROOT / top).rglob("*.py")):
            for line, text, docstring in prose_of(path):
                if (" " in text and RIDDLES.search(text)) or (docstring and WH_OPENING.match(text)):
                    yield f"{path.relative_to(ROOT)}:{line}: {text[:100]}"


def test_docstrings_open_with_a_verb_or_a_noun_and_no_text_is_a_riddle() -> None:
    assert list(unclear_prose()) == []


def documents() -> list[Path]:
    """Pages for readers: Markdown, templates of plugins, and sample configurations with their comments."""
    paths = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    patterns = ("docs/**/*.md", "plugins/*.md", "plugins/*/*.md", "sample_configs/*.yaml")
    paths += [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return paths + sorted((ROOT / "flctl" / "plugins" / "template").rglob("*.tmpl"))


def test_no_document_has_a_riddle() -> None:
    found = []
    for path in documents():
        text = " ".join(path.read_text(encoding="utf-8").replace("\n# ", "\n").split())  # phrases may cross lines
        for match in RIDDLES.finditer(text):
            found.append(f"{path.relative_to(ROOT)}: {text[max(0, match.start() - 40) : match.end() + 40]}")
    assert found == []


@cache
def product_trees() -> tuple[tuple[str, ast.Module], ...]:
    """File and syntax tree of each module of the package and of its plugins."""
    tops = (ROOT / "flctl", *sorted(ROOT.glob("plugins/*/src")))
    paths = [path for top in tops for path in sorted(top.rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def test_hints_use_a_setting_and_never_take_or_give_one() -> None:
    found = []
    for name, tree in product_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                text = ast.unparse(node.value).lstrip("f").strip("'\"")
                if UNCLEAR_HINT.match(text):
                    found.append(f"{name}:{node.value.lineno}: {text[:80]}")
    assert found == []


def uncounted(value: ast.expr) -> bool:
    """True if a value in an f-string is a bare number, which may be 1 before a noun in the plural."""
    return not (isinstance(value, ast.Call) and getattr(value.func, "id", "") in {"counted", "size_text", "sorted"})


PLURAL_ALWAYS = {
    "flctl/cli/bench.py": "more than one worker",
    "flctl/export/runtime.py": "runs without flctl",
    "flctl/partition/export.py": "the name of a part",
    "flctl/partition/preprocess.py": "a dtype",
}
"""Files whose values before a plural are never the number 1."""


def test_counts_agree_with_their_nouns() -> None:
    """A number before a noun goes through `counted`, so that messages say "1 client"."""
    found = [
        f"{name}:{value.lineno}: {{{ast.unparse(value.value)}}}{text.value[:30]}"
        for name, tree in product_trees()
        if name not in PLURAL_ALWAYS
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value, text in pairwise(node.values)
        if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)
        if COUNTED_NOUNS.match(str(text.value)) and uncounted(value.value)
    ]
    assert found == []


def test_the_architecture_page_names_every_folder_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`flctl/([a-z]+)/`", text))
    assert named == {path.parent.name for path in (ROOT / "flctl").glob("*/__init__.py")}


def test_every_page_of_the_documentation_is_in_its_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in menu] == []


def test_the_documentation_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is in the extra `docs`")
    # Not --quiet: it hides warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_local_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_version_is_told_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == flctl.__version__
    assert f"## [{flctl.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
