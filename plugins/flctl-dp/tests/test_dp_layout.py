"""The folders of the plugin: one idea each, and imports only from folders below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flctl_dp

FOLDERS = ("noise", "accounting", "ledgers", "budget", "mechanisms", "audit", "commands")
"""From the bottom up."""
TOP = Path(flctl_dp.__file__).parent
FILES = [path for path in sorted(TOP.rglob("*.py")) if path.parent != TOP]


def test_every_folder_has_its_place_in_the_order():
    assert {path.parent.name for path in FILES} == set(FOLDERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TOP).as_posix())
def test_modules_import_from_folders_below_only(path):
    """Module-level, in-function and type-only imports alike; within a folder there is no circle."""
    mine = FOLDERS.index(path.parent.name)
    for module in _imported(path):
        _, folder, name = module.split(".")
        assert FOLDERS.index(folder) <= mine, f"{path.name} imports {module}"
        if folder == FOLDERS[mine]:
            assert path not in _reached(TOP / folder / f"{name}.py"), f"{path.name} and {name} import each other"


def _imported(path: Path) -> set[str]:
    found = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
    names = {f"{node.module}.{alias.name}" for node in found for alias in node.names}
    return {".".join(name.split(".")[:3]) for name in names if name.startswith("flctl_dp.")}


def _reached(path: Path) -> set[Path]:
    """The files that `path` imports, directly or by others."""
    reached, ahead = set(), [path]
    while ahead:
        for module in _imported(ahead.pop()):
            file = TOP.joinpath(*module.split(".")[1:]).with_suffix(".py")
            if file not in reached:
                reached.add(file)
                ahead.append(file)
    return reached
