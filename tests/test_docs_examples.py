"""The examples in the docstrings of the public base classes run as written."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from flctl.algorithms.run_info import RunInfo

MODULES = {
    "flctl.algorithms.aggregator": "Aggregator",
    "flctl.algorithms.local_steps": "LocalSteps",
    "flctl.algorithms.run_info": "RunInfo",
    "flctl.algorithms.strategy": "Strategy",
    "flctl.algorithms.transform": "Transform",
    "flctl.client.runtime": "ClientRuntime",
    "flctl.data.dataset": "DatasetReader",
    "flctl.engines.engine": "Engine",
    "flctl.federation.identity.homes": "SiteHome",
    "flctl.federation.identity.keys": "PublicIdentity",
    "flctl.federation.identity.roster": "Roster",
    "flctl.models.model": "Model",
    "flctl.partition.partitioner": "Partitioner",
    "flctl.partition.store": "Partition",
}


@pytest.mark.parametrize(("module", "name"), MODULES.items(), ids=MODULES.values())
def test_the_example_of_a_base_class_runs(module: str, name: str) -> None:
    found = importlib.import_module(module)
    assert ">>>" in (getattr(found, name).__doc__ or "")
    result = doctest.testmod(found)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_the_api_page_describes_each_property_of_run_info() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.search(r"^## RunInfo$(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert listed is not None
    cells = re.findall(r"^\| (`.*?) \|", listed[1], re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`run\.(\w+)`", cell)}
    assert named == {name for name, value in vars(RunInfo).items() if isinstance(value, property)}
