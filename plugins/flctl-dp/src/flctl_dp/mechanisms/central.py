"""Differential privacy by the central mechanism: updates clipped at the clients, noise on their sum."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import flctl
import numpy as np
import numpy.typing as npt
from flctl import Aggregate, Arrays, ConfigError, Layout, Notice, ServerContext, StartContext
from pydantic import Field, model_validator

from flctl_dp.accounting.releases import Relation
from flctl_dp.budget import charging, statements
from flctl_dp.budget.charging import planned_noise
from flctl_dp.budget.notices import Planned, notices
from flctl_dp.budget.terms import Terms, refuse_made_up, refuse_meaningless, refuse_visible_aborts
from flctl_dp.ledgers.registry import register_ledger
from flctl_dp.mechanisms.clipping import shortened, shrinking
from flctl_dp.noise.entropy import Words, insecure_words, secure_words
from flctl_dp.noise.lattice import Lattice

if TYPE_CHECKING:
    from flctl import RunInfo

__all__ = ["TOLERANCE", "CentralDP"]

TOLERANCE = 1e-6
"""Relative difference between a noise multiplier as a server and a client calibrate it."""


class CentralDP(flctl.Transform):
    """Differential privacy of clients: clips each update and adds noise to their sum (McMahan et al. 2018)."""

    name = "dp"
    _opened: tuple[Terms, int] | None = None
    """Terms and rounds of an open run at a site, for the client half."""

    class Config(flctl.Transform.Config):
        noise_multiplier: float | None = Field(
            1.0,
            gt=0,
            description="Standard deviation of the noise over the clipping norm; null: from target_epsilon.",
            examples=[0.05],
        )
        clipping_norm: float = Field(1.0, ge=1e-20, le=1e20, description="Largest L2 norm of a client's update.")
        target_epsilon: float | None = Field(
            None, gt=0, description="Privacy budget of the population: a round that would exceed it is refused."
        )
        target_delta: float = Field(1e-5, gt=0, lt=1, description="Delta; below 1 / number of clients.")
        relation: Relation | None = Field(
            None, description="Neighbouring relation; null: the common one of the sampling."
        )
        ledger: str | None = Field(
            None,
            min_length=1,
            description="Ledger of the population; null: privacy-ledger.jsonl in the partition.",
            json_schema_extra={"place": "path"},
        )
        insecure_seed: int | None = Field(
            None,
            ge=0,
            description="For tests: seed of noise and cohorts; no ledger, epsilon infinite.",
            examples=[7],
        )

        @model_validator(mode="before")
        @classmethod
        def _calibrate(cls, values: Any) -> Any:
            given = isinstance(values, Mapping) and values.get("target_epsilon") is not None
            return {"noise_multiplier": None, **values} if given else values

        @model_validator(mode="after")
        def _check_noise(self) -> Self:
            if self.noise_multiplier is None and self.target_epsilon is None:
                raise ValueError("set either noise_multiplier or target_epsilon")
            return self

    bounds_clients: ClassVar[bool] = True

    def check(self, run: RunInfo) -> None:
        refuse_meaningless(self, run)
        if self.config.insecure_seed is None and not self.noised_by_clients:
            refuse_made_up(self.name, run)
        terms = self.terms(run)
        refuse_visible_aborts(self.name, run, terms)
        coordinates = sum(run.pipeline.layouts[self.name_in(run)].values())
        noise = self.config.noise_multiplier or 1.0
        terms.release(noise)
        self._bound(
            self.config.clipping_norm, self._spread(noise, terms.cohort), coordinates, self._rounded(run), terms.cohort
        )

    def notices(self, run: RunInfo) -> Sequence[Notice]:
        if self.config.insecure_seed is not None:
            return ()
        planned = Planned(
            name=self.name,
            terms=self.terms(run),
            delta=self.config.target_delta,
            target=self.config.target_epsilon,
            noise=self.config.noise_multiplier,
            rounds=run.config.rounds,
            size=sum(run.pipeline.layouts[self.name_in(run)].values()),
            rows=run.partition.manifest.dataset.digest,
        )
        return list(notices(planned))

    @property
    def secret_cohort(self) -> bool:
        return self.config.insecure_seed is None

    def terms(self, run: RunInfo) -> Terms:
        """The privacy terms of the run's rounds."""
        return Terms.of(run, self.config)

    def name_in(self, run: RunInfo) -> str:
        """The name of this transform in the run."""
        return next(name for name, transform in run.transforms.items() if transform is self)

    def init(self, layout: Layout) -> Arrays:
        coordinates = sum(layout.values())
        noise = self.config.noise_multiplier or 1.0
        return {
            "noise": np.array([noise]),
            "spread": np.array([noise]),
            "clip": np.array([self.config.clipping_norm]),
            "bound": np.array([self._bound(self.config.clipping_norm, noise, coordinates)]),
            "coordinates": np.array([coordinates], np.int64),
            "rounded": np.zeros(1),
            "expected": np.zeros(1),
            "run": np.zeros(16, np.uint8),
            "head": np.zeros(32, np.uint8),
        }

    def begin(self, state: Arrays, ctx: StartContext) -> Arrays:
        terms, state = self.terms(ctx.run), {**state, "rounded": np.array([self._rounded(ctx.run)])}
        known = float(state["noise"][0]) if state["expected"][0] else self.config.noise_multiplier
        if self.config.insecure_seed is not None:
            return self._begun(state, float(state["noise"][0]), terms.cohort)
        if ctx.run.replays:
            return self._begun(state, planned_noise(terms, known), terms.cohort)
        asked = charging.Asked(
            terms=terms,
            delta=self.config.target_delta,
            target=self.config.target_epsilon,
            noise=known,
            run=state["run"].tobytes().hex() if state["run"].any() else secrets.token_hex(16),
            head=state["head"].tobytes().hex() if state["head"].any() else None,
            round=ctx.round,
            rounds=max(ctx.run.config.rounds, ctx.round),
            check=lambda noise: self._check_noise(state, noise, terms),
        )
        noise, head = charging.charge(asked)
        if asked.head is None:
            register_ledger(ctx.run.partition.manifest.dataset.digest, terms.ledger)
        named = {"run": asked.run, "head": head}
        written = {name: np.frombuffer(bytes.fromhex(text), np.uint8) for name, text in named.items()}
        return {**self._begun(state, noise, terms.cohort), **written}

    def broadcast(self, state: Arrays) -> Arrays:
        return {"bound": state["bound"]}

    def factors(self, norms: npt.NDArray[np.float64], broadcast: Arrays) -> npt.NDArray[np.float64]:
        return shrinking(norms, float(broadcast["bound"][0]))

    def weigh(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Each client counts once, whatever number of rows it claims."""
        return np.ones_like(weights)

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        expected = self._expected(state, ctx)
        noised = self._noised(aggregate.arrays, state, self._words(ctx.round, ctx.rng))
        return dataclasses.replace(aggregate, arrays=noised, weight=expected), state

    def tells(self, state: Arrays, run: RunInfo, finished: bool) -> Mapping[str, float | str]:  # noqa: FBT001
        said: dict[str, float | str] = {"noise_multiplier": float(state["noise"][0]), "clip": float(state["clip"][0])}
        terms = self.terms(run)
        if self.config.insecure_seed is not None:
            return {**said, "epsilon": float("inf"), "statement": statements.INSECURE}
        delta, target = self.config.target_delta, self.config.target_epsilon
        return {**said, **statements.report(terms, delta, target, state["run"].tobytes().hex(), finished=finished)}

    def _least_noise(self) -> float:
        """The least noise multiplier that a client accepts: that of the options, or the one with which a run without
        earlier charges keeps to their budget. 0 where server and client are one machine."""
        if self.config.noise_multiplier is not None:
            return float(self.config.noise_multiplier)
        if self.config.target_epsilon is None or self._opened is None:
            return 0.0
        terms, rounds = self._opened
        return charging.fresh_noise(terms, self.config.target_epsilon, self.config.target_delta, rounds)

    def _check_noise(self, state: Arrays, noise: float, terms: Terms) -> None:
        """Raises if a round cannot be played with this noise multiplier."""
        self._begun(state, noise, terms.cohort)

    def _begun(self, state: Arrays, noise: float, expected: float) -> Arrays:
        """The state of a round with this noise multiplier and `expected` clients on average."""
        clip, coordinates, spread = float(state["clip"][0]), int(state["coordinates"][0]), self._spread(noise, expected)
        rounded = float(state["rounded"][0])
        return {
            **state,
            "noise": np.array([noise]),
            "spread": np.array([spread]),
            "bound": np.array([self._bound(clip, spread, coordinates, rounded, expected)]),
            "expected": np.array([expected]),
        }

    def _spread(self, noise: float, expected: float) -> float:
        """The noise on the vectors, over the clipping norm, where a round is accounted with the multiplier `noise`."""
        return noise

    def _noised(self, arrays: Arrays, state: Arrays, words: Words) -> dict[str, npt.NDArray[np.float32]]:
        """The vectors with noise, in the order of their names."""
        lattice = Lattice(float(state["spread"][0]) * float(state["clip"][0]))
        return {name: lattice.noised(vector, words).astype(np.float32) for name, vector in sorted(arrays.items())}

    def _rounded(self, run: RunInfo) -> float:
        """Upper bound, in L2, on what the aggregator's rounding adds to a client's contribution, before noise."""
        return run.aggregator.rounding(run)

    def _bound(self, clip: float, noise: float, coordinates: int, rounded: float = 0.0, expected: float = 0.0) -> float:
        """The norm to clip to, so that sums of neighbours stay within `clip` after rounding. Raises ConfigError if the
        lattice of the noise, or of the aggregator, is so coarse that little is left."""
        _refuse_coarse(clip, rounded)
        return shortened(clip, noise, coordinates, rounded, cohort=expected)

    def _expected(self, state: Arrays, ctx: ServerContext) -> float:
        """The cohort's size that sums are divided by: the one that is expected, never the one that came."""
        expected = float(state["expected"][0])
        if expected:
            return expected
        if self.config.insecure_seed is None:
            raise flctl.FlctlError("a sum came to transform 'dp' before its round was charged")
        return float(max(ctx.asked, 1))

    def _words(self, round_number: int, rng: np.random.Generator) -> Words:
        """The random words of a round's noise: from the operating system, unless the seed is insecure."""
        if self.config.insecure_seed is None:
            return secure_words()
        return insecure_words(self.config.insecure_seed, round_number, int(rng.integers(2**63)))


def _refuse_coarse(clip: float, rounded: float) -> None:
    if rounded > clip / 2:
        raise ConfigError(
            f"the aggregator's rounding may move a sum by {rounded:.3g}, more than half of the clipping norm {clip:g}",
            hint="Use more bits (aggregator.bits), or tighter bounds (aggregator.clip, aggregator.max_weight).",
        )
