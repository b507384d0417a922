"""The order of the plugin's folders: a module imports only from its own folder and from those above it."""

import ast
from pathlib import Path

import flctl_secagg
import pytest

ORDER = (
    "crypto",
    "encoding",
    "identity",
    "protocol",
    "client",
    "server",
    "transcripts",
    "storage",
    "options",
    "run_limits",
    "aggregator",
    "planning",
    "cli",
    "__init__",
)
SOURCE = Path(flctl_secagg.__file__).parent
MODULES = sorted(path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py"))


def imported(parts):
    """Modules of the plugin that a module imports, as parts of their names."""
    tree = ast.parse((SOURCE.joinpath(*parts).with_suffix(".py")).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flctl_secagg":
            base = tuple(node.module.split(".")[1:])
            for name in node.names:
                found = (*base, name.name)
                yield found if found in MODULES else base


@pytest.mark.parametrize("parts", MODULES, ids="/".join)
def test_a_module_imports_only_from_its_own_folder_and_those_above_it(parts):
    mine = ORDER.index(parts[0])
    assert [found for found in imported(parts) if ORDER.index(found[0]) > mine] == []


def test_modules_of_one_folder_import_each_other_without_a_circle():
    below = {parts: {found for found in imported(parts) if found[0] == parts[0]} for parts in MODULES}
    while ready := [parts for parts, left in below.items() if not left & below.keys()]:
        for parts in ready:
            del below[parts]
    assert below == {}
