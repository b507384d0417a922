"""Plans of rounds to which clients add shares of the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flctl import ConfigError
from flctl.errors import counted

from flctl_dp.accounting.releases import Sampling
from flctl_dp.accounting.summed_release import SummedRelease, largest_cohort
from flctl_dp.commands.plans import Question, require_known
from flctl_dp.noise.rotation import padded
from flctl_dp.noise.shares import MECHANISMS, Mechanism

__all__ = ["DistributedQuestion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedQuestion(Question):
    """The options that all plans of a grid share if the noise of `survivors` clients is to be enough, for models of
    `parameters` values, in sums of `bits` bits."""

    survivors: int
    parameters: int
    bits: int
    mechanism: str

    def check(self) -> None:
        Question.check(self)
        if self.parameters < 1:
            raise ConfigError("--survivors needs the size of the model", hint="Use --parameters.")
        require_known(("--mechanism", self.mechanism, MECHANISMS))

    def release(self, cohort: float, noise: float) -> SummedRelease:
        """A round with `cohort` clients on average; the sampling decides only the largest possible number."""
        Question.release(self, cohort, noise)
        drawn = largest_cohort(
            cast(Sampling, self.sampling), self.population, cohort, cohort / self.population, self.max_cohort or 0
        )
        if self.survivors > cohort:
            raise ConfigError(f"--survivors is {self.survivors}, and a round has {counted(cohort, 'client')}")
        return SummedRelease(
            noise_multiplier=noise,
            cohort=drawn,
            mechanism=cast(Mechanism, self.mechanism),
            survivors=self.survivors,
            dimension=padded(self.parameters),
            bits=self.bits,
        )
