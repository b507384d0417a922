"""The benchmark of stragglers: its figures by hand, and a claim that is missed in one seed is seen."""

import pytest
import stragglers


def curve(loss, accuracy, swing=0.0):
    """120 rounds that end at these values, up and down by `swing` from one to the next."""
    signs = [(-1) ** n for n in range(120)]
    return {
        "test_loss": [loss + swing / 2 * sign for sign in signs],
        "accuracy": [accuracy for _ in signs],
        "clients": [1.0] * 120,
    }


def found(pairs):
    fedavg, fedprox = zip(*pairs, strict=True)
    return {stragglers.FEDAVG: list(fedavg), stragglers.FEDPROX: list(fedprox)}


def test_figures_by_hand():
    assert stragglers.final([9.0] * 100 + [1.0, 3.0] * 10) == 2.0
    assert stragglers.jump([9.0] * 100 + [1.0, 3.0, 2.0]) == 1.5
    assert stragglers.jump(curve(1, 0.5, 0.25)["test_loss"]) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("fedprox", "expected"),
    [
        (curve(0.5, 0.8, 0.04), [True, True, True]),
        (curve(1.1, 0.8, 0.04), [False, True, True]),
        (curve(0.5, 0.7, 0.04), [True, False, True]),
        (curve(0.5, 0.8, 0.06), [True, True, False]),
    ],
)
def test_a_claim_holds_where_it_holds_in_every_seed(fedprox, expected):
    good = curve(1.0, 0.7, 0.1), curve(0.5, 0.8, 0.01)
    verdicts = stragglers.judge(found([good, (good[0], fedprox), good]))
    assert list(verdicts.values()) == expected
