"""The sections of a configuration, with the ranges of their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from flctl.component import CODE, PATH, Options
from flctl.config.sections.attack import AttackConfig
from flctl.config.sections.devices import DevicesConfig
from flctl.config.sections.section import IDLE_ERROR, KEY_ERROR, Reasons, Section, about, without
from flctl.types import LocalWork, ServerOptimizerName

__all__ = [
    "AUTO",
    "DEFAULT_COMPONENTS",
    "IDLE_ERROR",
    "KEY_ERROR",
    "SECTIONS",
    "AttackConfig",
    "CheckpointConfig",
    "CohortConfig",
    "ComponentConfig",
    "DevicesConfig",
    "EngineConfig",
    "EvalConfig",
    "LocalConfig",
    "Section",
    "ServerConfig",
    "StopConfig",
]

AUTO = "auto"
MEMORY = r"^[0-9]{1,6}(\.[0-9]{1,3})? ?[MG]iB$"
DEFAULT_COMPONENTS = {"model": AUTO, "strategy": "fedavg", "aggregator": "plain", "engine": AUTO}


def _named(value: Any) -> Any:
    """Class names of YAML that look like numbers, as `1: 5`, are text."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


Weight = Annotated[float, Field(ge=0, le=1e6)]
ClassWeights = Annotated[
    Literal["none", "balanced", "balanced-per-client"] | dict[str, Weight], BeforeValidator(_named)
]


class ComponentConfig(Options):
    """A component by name, with its options as plain values (numbers, text, lists, mappings)."""

    name: str = Field(min_length=1, json_schema_extra=CODE)
    options: dict[str, Any] = Field(default_factory=dict)


class LocalConfig(Section):
    """Local training on each client in a round."""

    epochs: int = Field(default=1, ge=1, description="Passes over the client's rows; no effect if `steps` is set.")
    steps: int | None = Field(
        default=None,
        ge=1,
        description="Minibatch steps instead of epochs, the same number for each client.",
    )
    batch_size: int = Field(default=32, ge=0, description="Rows per step; 0: all of the client's rows.")
    drop_last: bool = Field(default=False, description="Leave out the last batch of an epoch if it is smaller.")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        default="sgd", description="The client's optimiser, fresh each round."
    )
    lr: float = Field(
        default=0.1, gt=0, description="Learning rate before its schedule. Default: 0.1 for sgd, 0.001 for adam, adamw."
    )
    momentum: float = Field(default=0.0, ge=0, lt=1, description="Momentum of sgd.")
    nesterov: bool = Field(default=False, description="Nesterov momentum; needs momentum above 0.")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty (sgd, adam) or decoupled decay (adamw).")
    beta_1: float = Field(default=0.9, ge=0, lt=1, description="First moment decay of adam, adamw.")
    beta_2: float = Field(default=0.999, ge=0, lt=1, description="Second moment decay of adam, adamw.")
    eps: float = Field(default=1e-8, gt=0, description="Added to the denominator by adam, adamw.")
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest L2 norm of a minibatch gradient; null: no clipping."
    )
    class_weights: ClassWeights = Field(
        default="none",
        description="Factor of each row's loss by its class: none, balanced (all clients' label counts), "
        "balanced-per-client (each client's own), or a mapping of classes to weights.",
    )
    schedule: Literal["constant", "step", "exponential", "cosine", "linear"] = Field(
        default="constant", description="Schedule of the learning rate over rounds."
    )
    decay: float = Field(default=0.99, gt=0, le=1, description="Factor of the step and exponential schedules.")
    decay_rounds: int = Field(
        default=1, ge=1, description="Rounds between two decays (step), or per factor `decay` (exponential)."
    )
    warmup_rounds: int = Field(default=0, ge=0, description="Rounds over which lr grows linearly to its full value.")
    min_lr: float = Field(
        default=0.0, ge=0, description="Final lr of cosine and linear; lower bound of step and exponential."
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_lr(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("lr") is None:
            lr = 0.001 if values.get("optimizer") in ("adam", "adamw") else 0.1
            return {**values, "lr": lr}
        return values

    @model_validator(mode="after")
    def _check_floor(self) -> Self:
        if self.schedule != "constant" and self.min_lr > self.lr:
            raise about("min_lr", f"{{at}}.min_lr {self.min_lr:g} is above {{at}}.lr {self.lr:g}", "Lower one of them.")
        return self

    def amount(self) -> LocalWork:
        """Returns the section as local work, at the learning rate before its schedule."""
        return LocalWork(**{item.name: getattr(self, item.name) for item in fields(LocalWork)})

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        return {
            **(without(("epochs",), f"with steps {self.steps}") if self.steps else {}),
            **self._idle_optimizer(),
            **self._idle_schedule(),
        }

    def _idle_optimizer(self) -> Reasons:
        reason = f"with optimizer {self.optimizer}"
        if self.optimizer != "sgd":
            return without(("momentum", "nesterov"), reason)
        nesterov = {} if self.momentum else without(("nesterov",), "with momentum 0")
        return {**without(("beta_1", "beta_2", "eps"), reason), **nesterov}

    def _idle_schedule(self) -> Reasons:
        reason = f"with schedule {self.schedule}"
        if self.schedule == "constant":
            return without(("decay", "decay_rounds", "min_lr"), reason)
        return without(("decay", "decay_rounds"), reason) if self.schedule in ("cosine", "linear") else {}


class CohortConfig(Section):
    """Selection of each round's clients."""

    sampling: Literal["fixed", "poisson", "all", "cyclic", "trace"] = Field(
        default="fixed",
        description="fixed: `clients` at random; poisson: each with probability `rate`; all: every client; "
        "cyclic: `clients` in turn; trace: up to `clients` of those that `trace` lists as available.",
    )
    clients: int = Field(default=10, ge=1, description="Clients sampled per round (fixed, cyclic, trace).")
    rate: float | None = Field(default=None, gt=0, le=1, description="Probability that a client takes part (poisson).")
    max_cohort: int | None = Field(
        default=None, ge=1, description="Largest cohort; a larger one is cut to a random subset of this size (poisson)."
    )
    trace: str | None = Field(
        default=None,
        min_length=1,
        description="File that lists the available clients of each round (trace).",
        json_schema_extra=PATH,
    )
    separation: int | None = Field(
        default=None, ge=1, description="Select each client in at most one of this many consecutive rounds (trace)."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"poisson": "rate", "trace": "trace"}.get(self.sampling)
        if needed and getattr(self, needed) is None:
            sentence = f"{{at}}.{needed} is missing: {{at}}.sampling is {self.sampling}, which needs it"
            raise about("sampling", sentence, f"Set it, for example -o {{at}}.{needed}=...")
        return self

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        special = {"poisson": ("rate", "max_cohort"), "all": (), "trace": ("clients", "trace", "separation")}
        used = special.get(self.sampling, ("clients",))
        unused = tuple(name for name in type(self).model_fields if name not in ("sampling", *used))
        return without(unused, f"with sampling {self.sampling}")


class ServerConfig(Section):
    """Server optimiser, applied to the mean update (Reddi et al. 2021)."""

    optimizer: ServerOptimizerName = Field(default="sgd", description="The server's optimiser; sgd at lr 1 is FedAvg.")
    lr: float = Field(default=1.0, gt=0, description="Server learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Server momentum (momentum).")
    beta_1: float = Field(default=0.9, ge=0, lt=1, description="First moment decay (adam, yogi).")
    beta_2: float = Field(default=0.99, ge=0, lt=1, description="Second moment decay (adam, yogi).")
    tau: float = Field(
        default=1e-3, gt=0, description="Degree of adaptivity: added to the denominator (adagrad, adam, yogi)."
    )

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        used = {"sgd": (), "momentum": ("momentum",), "adagrad": ("tau",)}.get(
            self.optimizer, ("beta_1", "beta_2", "tau")
        )
        unused = tuple(name for name in ("momentum", "beta_1", "beta_2", "tau") if name not in used)
        return without(unused, f"with server optimizer {self.optimizer}")


class EvalConfig(Section):
    """Evaluation of the global model."""

    every: int = Field(
        default=1, ge=0, description="Rounds between evaluations; the last round is always evaluated. 0: only the last."
    )
    at: Literal["server", "clients"] = Field(
        default="server",
        description="server: on the central rows; clients: by sums over each client's own rows, as at real sites.",
    )
    min_rows: int | None = Field(
        default=None,
        ge=1,
        description="Fewest rows of a client that answers with sums; null: no minimum, and no column statistics.",
    )
    batch_size: int = Field(default=1000, ge=1, description="Examples per evaluation batch.")
    per_client: bool = Field(default=False, description="Also evaluate on each client's own test rows.")
    positive: str | None = Field(
        default=None, min_length=1, description="Positive class of two, in recall, AUPRC and so on; null: the second."
    )
    disclose_clients: bool = Field(
        default=False,
        description="Allow `per_client` with an aggregator that hides clients; each round's notes then record it.",
    )


class StopConfig(Section):
    """Early stopping, before `rounds` is reached."""

    metric: str | None = Field(
        default=None, min_length=1, description="Metric of `target` and `patience`; null: `metric`."
    )
    target: float | None = Field(default=None, description="Stop once the metric reaches this value.")
    patience: int | None = Field(
        default=None, ge=1, description="Stop after this many evaluations without improvement."
    )
    min_delta: float = Field(
        default=0.0, ge=0, description="Smallest change that counts as an improvement for `patience`."
    )
    minutes: float | None = Field(
        default=None, gt=0, description="Stop after the first round that ends later than this many minutes."
    )

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        if self.patience is not None:
            return {}
        metric = without(("metric",), "without target or patience") if self.target is None else {}
        return {**metric, **without(("min_delta",), "without patience")}


class CheckpointConfig(Section):
    """Checkpoints; one is always written after the last round."""

    every: int = Field(default=10, ge=0, description="Rounds between checkpoints; 0: not by rounds.")
    seconds: float = Field(
        default=30.0, ge=0, description="Seconds after which a checkpoint is due as well; 0: not by time."
    )
    keep: int | None = Field(
        default=None, ge=1, description="Number of latest checkpoints to keep, beside the best; null: all."
    )


class EngineConfig(Section):
    """Engine that runs clients. Keys beyond these are the named engine's own options."""

    NEUTRAL: ClassVar[Mapping[str, Any]] = {"workers": 1}

    name: str = Field(
        default=DEFAULT_COMPONENTS["engine"],
        min_length=1,
        description="auto (pool if workers is above 1), inprocess, pool, or a plugin's.",
        json_schema_extra=CODE,
    )
    workers: int = Field(default=1, ge=1, description="Worker processes; results do not depend on their number.")
    max_failures: int = Field(default=0, ge=0, description="Clients that may fail in a round before the run stops.")
    deadline: float | None = Field(
        default=None, gt=0, description="Seconds after which a client's reply no longer counts."
    )
    minimum: int = Field(
        default=1, ge=1, description="Clients of a cohort that must be available before a round starts."
    )
    wait: float | None = Field(
        default=None, gt=0, description="Seconds to wait for `minimum` clients; null: until they are available."
    )
    executor: Literal["auto", "shared", "stacked", "fused", "vmap", "sequential"] = Field(
        default="auto",
        description="How clients are trained; `flctl train --explain` shows the choice of auto, and the reasons.",
    )
    memory: str = Field(
        default="1 GiB",
        pattern=MEMORY,
        description="Memory limit of training in each worker process: a number of MiB or GiB. Chunks of clients are "
        "sized to fit.",
    )
    alone: bool = Field(
        default=False,
        description="Train each client by itself and carry its messages one by one, as for sites on other machines: "
        "the results are then the bits of a run at real sites.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="The engine's own options.")

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: Any) -> Any:
        if isinstance(values, str):
            return {"name": values}
        if not isinstance(values, Mapping) or "options" in values:
            return values
        own = {key: item for key, item in values.items() if key in cls.model_fields}
        return {**own, "options": {key: item for key, item in values.items() if key not in own}}

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes."""
        number, unit = self.memory[:-3], self.memory[-3:]
        return int(float(number) * {"MiB": 1 << 20, "GiB": 1 << 30}[unit])

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        return without(("workers",), "with engine inprocess") if self.name == "inprocess" else {}


SECTIONS: Mapping[str, type[Section]] = {
    "cohort": CohortConfig,
    "local": LocalConfig,
    "server": ServerConfig,
    "eval": EvalConfig,
    "stop": StopConfig,
    "checkpoint": CheckpointConfig,
    "engine": EngineConfig,
    "attack": AttackConfig,
    "devices": DevicesConfig,
}
