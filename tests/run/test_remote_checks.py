"""What only a simulation can do is refused where rows stay with their owners."""

import pytest
from support import make_run

from flctl.errors import IncompatibleError
from flctl.partition.federated import FederatedData
from flctl.run.run import check

ALONE = "engine.alone=true"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("attack.name=label-flip", "attack.fraction=0.2", ALONE), "`attack:`"),
        (("devices.stragglers=0.2", ALONE), "`devices:`"),
        (("eval.per_client=true", "strategy=ditto", ALONE), "eval.per_client of personal models"),
        (("strategy=fltrust", "strategy.root=3", ALONE), "strategy fltrust"),
        (("local.class_weights=balanced", ALONE), "local.class_weights: balanced"),
        ((), "engine.alone: false"),
    ],
)
def test_it_is_refused_for_a_federation_and_taken_for_a_partition(settings, named, toy, tmp_path):
    check(make_run(toy, tmp_path / "here", *settings)[0])
    with pytest.raises(IncompatibleError, match="only a simulation can use") as refused:
        check(make_run(FederatedData.of(toy), tmp_path / "elsewhere", *settings)[0])
    assert named in refused.value.message


def test_every_reason_is_named_at_once(toy, tmp_path):
    with pytest.raises(IncompatibleError, match=r"`attack:`, `devices:`, engine\.alone: false"):
        make_run(FederatedData.of(toy), tmp_path / "run", "attack.name=label-flip", "devices.stragglers=0.2")
