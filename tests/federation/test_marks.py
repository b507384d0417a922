"""Options that name code or files: each is marked, and none passes in a plan."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flctl.config.config import Config, effective
from flctl.config.sections.training import SECTIONS
from flctl.federation.plan.marks import approved_digest, place_of, unapproved
from flctl.kinds import KINDS
from flctl.plugins.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
SINKS = set(
    """
    Path PurePath open import_module spec_from_file_location load_file existing read_text read_bytes write_text
    write_bytes write_file new_file exec eval compile loadtxt fromfile memmap run Popen system get_submodule __import__
    glob iglob table_files
    """.split()  # noqa: SIM905
)
"""Calls that reach the file system, an import or a process."""
TEXT = {
    "private": "patterns of parameter names",
    "root": "a client id",
    "base": "a scheme's name",
    "base_options": "options of that scheme",
    "by": "columns",
    "target": "a column",
    "features": "columns",
    "drop": "columns",
    "categorical": "columns",
    "date": "columns",
    "date_format": "a format of strptime",
    "na": "words for missing values",
    "delimiter": "a character",
    "x": "an array's name inside the file",
    "y": "an array's name inside the file",
    "sampling": "a choice",
    "positive": "a class",
    "class_weights": "classes",
    "metric": "a metric's name",
    "memory": "a size",
    "executor": "a choice",
    "options": "options of the component",
    "purpose": "words for people",
    "proxy": "a proxy's address; options of an engine are never part of a plan",
}
"""Options of text without a mark, each reviewed: what the text is."""
TOP = dict.fromkeys(("model", "strategy", "aggregator", "engine", "transforms", *SECTIONS), "components and sections")


def models() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model of options: the configuration, its sections, and each component of each plugin."""
    yield "config", Config
    yield from SECTIONS.items()
    registry = Registry()
    for kind in KINDS:
        for name, offer in registry.offers(kind).items():
            yield f"{kind} {name}", offer.component.Config


def texts(model: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    """Options that may hold free text or a path, and whether they are marked."""
    for name, field in model.model_fields.items():
        if takes_text(field.annotation):
            yield name, place_of(field) is not None


def takes_text(annotation: Any) -> bool:
    if annotation in (str, Path, Any, bytes):
        return True
    arguments = getattr(annotation, "__args__", ())
    literal = getattr(annotation, "__origin__", None) is not None and str(annotation).startswith("typing.Literal")
    return not literal and any(takes_text(argument) for argument in arguments)


@cache
def sources() -> tuple[ast.Module, ...]:
    tops = [ROOT / "flctl", *ROOT.glob("plugins/*/src")]
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for top in tops for path in sorted(top.rglob("*.py")))


def opened(tree: ast.AST) -> set[str]:
    """Attributes of a configuration that a call in `SINKS` receives: `open(self.config.ledger)` gives "ledger"."""
    found = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and called(call) in SINKS:
            for argument in [*call.args, *(keyword.value for keyword in call.keywords), call.func]:
                found |= {
                    node.attr for node in ast.walk(argument) if isinstance(node, ast.Attribute) and of_options(node)
                }
    return found


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def of_options(node: ast.Attribute) -> bool:
    owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
    return owner in {"config", "options", "cohort", "local", "eval", "chosen", "data", "model", "engine"}


def test_an_unmarked_option_that_is_opened_or_imported_is_found() -> None:
    assert opened(ast.parse("def read(self): return open(self.config.ledger).read()")) == {"ledger"}
    assert opened(ast.parse("import_module(config.loss)")) == {"loss"}
    assert opened(ast.parse("np.loadtxt(Path(self.config.matrix))")) == {"matrix"}
    assert opened(ast.parse("print(self.config.matrix)")) == set()


@pytest.mark.parametrize(("name", "model"), list(models()), ids=lambda value: value if isinstance(value, str) else "")
def test_each_option_of_text_is_marked_or_reviewed(name: str, model: type[BaseModel]) -> None:
    unknown = [f"{name}.{option}" for option, marked in texts(model) if not marked and option not in TEXT | TOP]
    assert unknown == [], "mark it with json_schema_extra={'place': ...}, or say in TEXT what it is"


def test_no_reviewed_option_reaches_a_file_or_an_import() -> None:
    reached = {name for tree in sources() for name in opened(tree)}
    marked = {name for _, model in models() for name, field in model.model_fields.items() if place_of(field)}
    assert {"keys", "ledger", "trace"} <= reached & marked
    assert reached & (TEXT.keys() - {"options"}) == set()


REGISTRY = Registry()
SHA = "0123456789abcdef" * 4
PLAIN = effective(Config())


def marked() -> list[tuple[str, str, str]]:
    """Kind, name and option of each marked option of a component that a run may have."""
    return [
        (kind, name, option)
        for kind in ("strategy", "transform", "aggregator", "engine", "model")
        for name, offer in REGISTRY.offers(kind).items()
        for option, field in offer.component.Config.model_fields.items()
        if place_of(field)
    ]


@pytest.mark.parametrize(("kind", "name", "option"), marked())
def test_each_marked_option_of_a_component_is_refused_in_a_plan(kind: str, name: str, option: str) -> None:
    options = {option: "plain-word"}
    part = {"transforms": {name: options}} if kind == "transform" else {kind: {"name": name, **options}}
    at = f"transforms.{name}" if kind == "transform" else kind
    assert unapproved({**PLAIN, **part}, REGISTRY) == [f"{at}.{option}"]


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({}, []),
        ({"model": {"name": "mlp", "hidden": [8]}}, []),
        ({"model": {"name": f"approved:{SHA}:net", "width": 8}}, []),
        ({"strategy": {"name": f"approved:{SHA}:Mine"}}, ["strategy.name"]),
        ({"transforms": {f"approved:{SHA}:Mine": {}}}, [f"transforms.approved:{SHA}:Mine.name"]),
        ({"eval": {**PLAIN["eval"], "positive": "n/a"}}, []),
        ({"local": {**PLAIN["local"], "class_weights": {"and/or": 2.0}}}, []),
        ({"model": {"name": "os:system"}}, ["model.name"]),
        ({"model": {"name": "my.py:net"}}, ["model.name"]),
        ({"model": {"name": f"approved:{SHA}"}}, ["model.name"]),
        ({"model": {"name": f"approved:{SHA}:net", "weights": "/etc/passwd"}}, ["model.weights"]),
        ({"model": {"name": "mlp", "weights": "x"}}, ["model.weights"]),
        ({"strategy": {"name": "./mine.py:Mine"}}, ["strategy.name"]),
        ({"strategy": {"name": "unheard-of"}}, ["strategy.name"]),
        ({"strategy": "fedavg"}, ["strategy"]),
        ({"strategy": {"name": "fedper", "private": ["../x"]}}, ["strategy.private"]),
        ({"transforms": {"./mine.py": {}}}, ["transforms../mine.py.name"]),
        ({"transforms": [1]}, ["transforms"]),
        ({"aggregator": {"name": "secagg", "keys": f"approved:{SHA}:keys"}}, ["aggregator.keys"]),
        ({"engine": {"name": "file.py:Engine"}}, ["engine.name"]),
        ({"plugins": ["mine.py"]}, ["plugins"]),
        ({"data": "parts/x"}, ["data"]),
        ({"partition": {"source": "x.csv"}}, ["partition"]),
        ({"cohort": {**PLAIN["cohort"], "trace": "trace.jsonl"}}, ["cohort.trace"]),
        ({"cohort": {**PLAIN["cohort"], "more": 1}}, ["cohort.more"]),
        ({"metric": "file:///etc/passwd"}, ["metric"]),
        ({"more": 1}, ["more"]),
    ],
)
def test_a_plan_sets_no_option_that_names_code_or_a_file(change: dict[str, Any], keys: list[str]) -> None:
    assert unapproved({**PLAIN, **change}, REGISTRY) == keys


def test_approved_code_is_named_by_its_digest() -> None:
    assert approved_digest(f"approved:{SHA}:net") == SHA
    assert approved_digest(f"approved:{SHA.upper()}:net") is None
    assert approved_digest("net.py:net") is None
