"""A registry of a few small components, for tests of what reads a configuration."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from flctl.component import Component, Options
from flctl.errors import PluginError, suggest
from flctl.kinds import KINDS


class Fedavg(Component):
    name = "fedavg"
    server: ClassVar[dict[str, object]] = {}
    local: ClassVar[dict[str, object]] = {}


class Fedprox(Fedavg):
    name = "fedprox"

    class Config(Options):
        proximal_mu: float = Field(default=0.01, ge=0)
        variant: Literal["plain", "decayed"] = "plain"
        layers: tuple[int, ...] = ()
        verbose: bool = False


class Fedadam(Fedavg):
    name = "fedadam"
    server: ClassVar[dict[str, object]] = {"optimizer": "adam", "lr": 0.01}


class Picky(Fedavg):
    name = "picky"

    class Config(Options):
        even: int

        @field_validator("even")
        @classmethod
        def _even(cls, value: int) -> int:
            if value % 2:
                raise ValueError(f"{value} is odd")
            return value


class Inner(Options):
    size: int = 1
    mode: Literal["only"] = "only"


class Nested(Fedavg):
    name = "nested"

    class Config(Options):
        inner: Inner = Inner()
        items: tuple[Inner, ...] = ()
        table: dict[str, int] = Field(default_factory=dict)


class Odd(Fedavg):
    """Has an option that no JSON Schema describes."""

    name = "odd"

    class Config(Options):
        rule: Callable[[int], int] | None = None
        count: int = 1


class Mlp(Component):
    name = "mlp"

    class Config(Options):
        hidden: tuple[int, ...] = (64,)
        dropout: float = Field(default=0.0, ge=0, lt=1)


class Plain(Component):
    name = "plain"


class Clip(Component):
    name = "clip"

    class Config(Options):
        norm: float = Field(gt=0)


class TopK(Component):
    name = "top-k"

    class Config(Options):
        k: int = 10


class Pool(Component):
    name = "pool"


class Ray(Component):
    name = "ray"

    class Config(Options):
        address: str = "auto"


class Dirichlet(Component):
    name = "dirichlet"

    class Config(Options):
        alpha: float = Field(default=0.5, gt=0)


class Shard(Component):
    name = "shard"

    class Config(Options):
        shards_per_client: int = 2


class Csv(Component):
    name = "csv"

    class Config(Options):
        target: str
        header: Literal["auto", "yes", "no"] = "auto"


class FakeRegistry:
    """A few components of each kind, and plugin files that only need to exist."""

    def __init__(self):
        offered = {"strategy": [Fedavg, Fedprox, Fedadam, Picky, Nested, Odd], "model": [Mlp], "aggregator": [Plain],
                   "transform": [Clip, TopK], "engine": [Pool, Ray],
                   "partitioner": [Dirichlet, Shard], "dataset": [Csv]}  # fmt: skip
        self.kinds = {kind: {c.name: SimpleNamespace(component=c) for c in found} for kind, found in offered.items()}
        self.files = []

    def offers(self, kind):
        return self.kinds[kind]

    def get(self, kind, name):
        if name not in self.kinds[kind]:
            raise PluginError(f"unknown {KINDS[kind].noun} '{name}'", hint=suggest(name, self.kinds[kind]))
        return self.kinds[kind][name].component

    def add_file(self, file):
        if not file.is_file():
            raise PluginError(f"plugin file {file} does not exist")
        self.files.append(file)
