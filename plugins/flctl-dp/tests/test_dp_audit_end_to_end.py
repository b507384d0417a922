"""The end-to-end audit: `flctl train` on canaries, by the configuration of a run."""

import pytest
import yaml
from flctl import ConfigError, IncompatibleError

from flctl_dp.accounting.accountants import gaussian_epsilon
from flctl_dp.audit.end_to_end import audit_end_to_end


def config(path, name="dp", sampling="all", aggregator="plain", **options):
    file = path / "config.yaml"
    transforms = {name: {"noise_multiplier": 4.0, "clipping_norm": 0.5, **options}}
    file.write_text(
        yaml.safe_dump({"transforms": transforms, "cohort": {"sampling": sampling}, "aggregator": aggregator})
    )
    return file


@pytest.mark.slow
def test_a_sound_mechanism_is_not_refuted(tmp_path):
    found = audit_end_to_end(config(tmp_path), 60, None, error=1e-3)
    assert found.claim == pytest.approx(gaussian_epsilon(1 / 4.0, 1e-5))
    assert (found.broken, found.end_to_end) == (False, True)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"insecure_seed": 3}, ConfigError, "no privacy claim"),
        ({"noise_multiplier": None, "target_epsilon": 2.0}, IncompatibleError, "only after a run"),
    ],
)
def test_what_claims_nothing_or_is_not_known_yet_is_refused(tmp_path, options, error, said):
    with pytest.raises(error, match=said):
        audit_end_to_end(config(tmp_path, **options), 50, None)


def test_a_configuration_without_a_mechanism_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("transforms: {topk: {}}\n")
    with pytest.raises(ConfigError, match="no mechanism"):
        audit_end_to_end(tmp_path, 50, None)
