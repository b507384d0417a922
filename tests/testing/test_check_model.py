"""`check_model`: our models pass, and for each check a model that breaks it is told so."""

import math

import numpy as np
import pytest
import torch
from support.conformance import caught, unmutated
from torch import nn

from flctl import ConfigError, DataSpec, Model
from flctl.plugins.registry import Registry
from flctl.testing import check_model
from flctl.testing.model.contract import MODEL, SPECS, ModelSubject

SMALL = {"resnet": ({"width": 8, "blocks": (1, 1)}, [DataSpec("classification", (1, 12, 12), 3)])}
"""A smaller form of a large model."""


@pytest.mark.parametrize("name", sorted(Registry().offers("model")))
def test_every_model_of_ours_keeps_the_contract(name):
    options, data = SMALL.get(name, ({}, SPECS))
    assert check_model(Registry().get("model", name), options, data=data).checks == MODEL.ids


class Mutant(Model):
    """A linear model of anything but text, until a subclass breaks something."""

    name = "mutant"

    def build(self, data):
        if data.task == "next-character":
            raise ConfigError("no text")
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(data.shape), data.outputs))


class Frozen(Mutant):
    def build(self, data):
        return super().build(data).requires_grad_(False)


class NoModule(Mutant):
    def build(self, data):
        super().build(data)
        return lambda x: x


class Fails(Mutant):
    def build(self, data):
        return nn.Linear(data.shape[3], data.outputs)


class Refuses(Mutant):
    def build(self, data):
        raise ConfigError("not this")


class OwnDice(Mutant):
    def build(self, data):
        module = super().build(data)
        with torch.no_grad():
            module[1].bias += float(np.random.normal())
        return module


class Shares(Mutant):
    made: dict = {}  # noqa: RUF012

    def build(self, data):
        if data not in self.made:
            self.made[data] = super().build(data)
        return self.made[data]


class OneMore(Mutant):
    def build(self, data):
        super().build(data)
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(data.shape), data.outputs + 1))


class Normed(Mutant):
    def build(self, data):
        module = super().build(data)
        return nn.Sequential(module, nn.BatchNorm1d(data.outputs))


class Doubles(Mutant):
    def build(self, data):
        return super().build(data).double()


class AlwaysDrops(Mutant):
    def build(self, data):
        class Drop(nn.Module):
            def forward(self, x):
                return torch.nn.functional.dropout(x, 0.5, training=True)

        return nn.Sequential(Drop(), *super().build(data))


class OverTheBatch(Mutant):
    def build(self, data):
        class Centre(nn.Module):
            def forward(self, x):
                return x - x.mean(dim=0, keepdim=True)

        return nn.Sequential(*super().build(data), Centre())


class Cut(Mutant):
    def build(self, data):
        class Detach(nn.Module):
            def forward(self, x):
                return x.detach() + 0 * self.weight.sum()

            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1))

        return nn.Sequential(*super().build(data), Detach())


class Hidden(Mutant):
    """Keeps what outputs depend on in an attribute."""

    def build(self, data):
        class Shift(nn.Module):
            def __init__(self):
                super().__init__()
                self.shift = torch.randn(1)

            def forward(self, x):
                return x + self.shift

        return nn.Sequential(*super().build(data), Shift())


MUTANTS = {
    "build": [
        (Frozen, "for classification of [6] with 3 outputs no parameter requires a gradient"),
        (NoModule, "it returned function, expected a torch.nn.Module"),
        (Fails, "it raised IndexError: tuple index out of range"),
        (Refuses, "it refuses all of classification of [6]"),
    ],
    "seed": [(OwnDice, "1.bias differs by up to"), (Shares, "two builds share parameters")],
    "outputs": [
        (
            OneMore,
            "for 1 row of classification of [6] with 3 outputs in evaluation it returned [1, 4], expected [1, 3]",
        ),
        (Normed, "Expected more than 1 value per channel when training"),
        (Doubles, "Double"),
    ],
    "rows": [(AlwaysDrops, "the same batch has different outputs"), (OverTheBatch, "alone and in a batch")],
    "trains": [(Cut, "a step changes nothing")],
    "stored": [(Hidden, "outputs differ by up to")],
}


def test_for_every_check_something_is_known_that_breaks_it():
    assert unmutated(MODEL, MUTANTS) == []


@pytest.mark.parametrize(
    ("which", "mutant", "words"),
    [(which, *case) for which, cases in MUTANTS.items() for case in cases],
    ids=lambda value: getattr(value, "__name__", str(value)[:20]),
)
def test_what_breaks_a_check_is_told_so(which, mutant, words):
    caught(MODEL, ModelSubject(mutant, {}, SPECS), which, words)


def test_a_model_may_be_checked_on_the_data_it_is_for():
    class Wide(Mutant):
        """Takes tables of forty columns only."""

        name = "wide"

        def build(self, data):
            if data.shape != (40,):
                raise ConfigError(f"{data.shape} is not 40 columns")
            return super().build(data)

    assert check_model(Wide, data=[DataSpec("regression", (40,), 1)]).checks == MODEL.ids
