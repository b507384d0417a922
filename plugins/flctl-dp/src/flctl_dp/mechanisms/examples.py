"""Differential privacy of single rows: clients train by DP-SGD, and send private updates."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import flctl
import numpy as np
import numpy.typing as npt
from flctl import Arrays, IncompatibleError, IntegrityError, Layout, Notice, StartContext, StepsContext
from pydantic import Field

from flctl_dp.accounting.releases import Relation, Release
from flctl_dp.budget import statements
from flctl_dp.budget.example_budget import ExampleTerms, calibrated, described, refuse_excess, released, steps_of
from flctl_dp.budget.notices import more_noise, same_rows
from flctl_dp.budget.terms import delta_warning, refuse_delta
from flctl_dp.ledgers.client_ledgers import spent
from flctl_dp.ledgers.ledger import Ledger, Promise
from flctl_dp.ledgers.registry import register_ledger
from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.mechanisms.poisson_steps import PoissonSteps, row_bound
from flctl_dp.noise.entropy import Words, insecure_words, secure_words

if TYPE_CHECKING:
    from flctl import RunInfo

__all__ = ["ExampleDP"]

_DIGEST = 32


class ExampleDP(flctl.Transform):
    """Differential privacy of single rows: clients make noisy steps on rows drawn by coins (Abadi et al. 2016)."""

    name = "dp-examples"

    class Config(CentralDP.Config):
        clipping_norm: float = Field(1.0, ge=1e-20, le=1e20, description="Largest L2 norm of a per-example gradient.")
        target_epsilon: float | None = Field(
            None, gt=0, description="Privacy budget of each client's rows: a round that would exceed one is refused."
        )
        target_delta: float = Field(1e-5, gt=0, lt=1, description="Delta; below 1 / number of a client's rows.")
        relation: Relation | None = Field(None, description="Neighbouring relation; null: add-remove.")
        ledger: str | None = Field(
            None,
            min_length=1,
            description="Folder of the clients' ledgers; null: privacy-ledgers in the partition.",
            json_schema_extra={"place": "path"},
        )

    def check(self, run: RunInfo) -> None:
        if run.strategy.measures != "nothing":
            raise IncompatibleError(
                f"strategy '{run.strategy.name}' evaluates the model on all rows of each client without noise",
                hint="Use a strategy without such an evaluation (fedavg, fedprox, scaffold ...).",
            )
        most = int(run.partition.counts[:, 0].max(initial=0))
        refuse_delta(f"transforms.{self.name}.target_delta", self.config.target_delta, most, "row")
        Release("poisson", 1.0, rate=0.5).check_relation(self.terms(run).relation)
        row_bound(self.config.clipping_norm, self.config.noise_multiplier or 1.0, run.division.layout["params"])

    def notices(self, run: RunInfo) -> Sequence[Notice]:
        if self.config.insecure_seed is not None:
            return ()
        terms, counts = self.terms(run), run.partition.counts[:, 0]
        warning = delta_warning(terms.delta, int(counts.max(initial=0)), "row")
        found = [Notice(warning)] if warning else []
        found += same_rows(self.name, run.partition.manifest.dataset.digest, terms.ledgers.folder)
        ledgers = terms.ledgers.read(np.flatnonzero(counts).tolist())
        if self.config.noise_multiplier is None and ledgers:
            now, first = self._noise(run, terms, ledgers), self._noise(run, terms, {})
            client = int(np.argmax(np.where(first > 0, now / np.maximum(first, 1e-9), 0.0)))
            if now[client] > 1.5 * first[client]:
                spent = f"the rows of client '{run.partition.client_ids[client]}'"
                size = math.sqrt(run.division.layout["params"]) / max(run.config.local.batch_size or counts[client], 1)
                signal = f"noise of the mean gradient: {now[client] * size:.3g} clipping norms in L2"
                found.append(more_noise(spent, float(first[client]), float(now[client]), signal))
        return found

    def terms(self, run: RunInfo) -> ExampleTerms:
        """The privacy terms of the run's steps."""
        return ExampleTerms.of(run, self.config)

    def init(self, layout: Layout) -> Arrays:
        """`noise`: the multiplier of each client, or one for all; `heads`: the digests of the clients' ledgers."""
        noise = np.array([self.config.noise_multiplier or 1.0])
        return {"noise": noise, "run": np.zeros(16, np.uint8), "heads": np.zeros(0, np.uint8)}

    def begin(self, state: Arrays, ctx: StartContext) -> Arrays:
        if self.config.insecure_seed is not None:
            return state
        terms, counts = self.terms(ctx.run), ctx.run.partition.counts[:, 0]
        ledgers = terms.ledgers.read(np.flatnonzero(counts).tolist())
        _refuse_lost(state["heads"], ledgers)
        fresh = not state["run"].any()
        noise = self._noise(ctx.run, terms, ledgers) if fresh else state["noise"]
        if ctx.run.replays:
            return {**state, "noise": noise}
        self._refuse_excess(ctx, terms, ledgers, noise)
        heads = np.zeros(_DIGEST * len(counts), np.uint8)
        for client_index, ledger in ledgers.items():
            digest = np.frombuffer(bytes.fromhex(ledger.head), np.uint8)
            heads[_DIGEST * client_index : _DIGEST * (client_index + 1)] = digest
        if fresh:
            register_ledger(ctx.run.partition.manifest.dataset.digest, terms.ledgers.folder)
        run = np.frombuffer(secrets.token_bytes(16), np.uint8) if fresh else state["run"]
        return {"noise": noise, "run": run, "heads": heads}

    def broadcast(self, state: Arrays) -> Arrays:
        return {"noise": state["noise"], "run": state["run"]}

    def steps(self, ctx: StepsContext) -> PoissonSteps:
        """The steps of a client, which are charged to it by then."""
        noise, words = _noise_of(ctx.broadcast["noise"], ctx.number), self._words(ctx)
        if noise < (self.config.noise_multiplier or 0.0):
            raise flctl.ProtocolError(
                f"the server requests the noise multiplier {noise:g}, and the run has {self.config.noise_multiplier:g}"
            )
        if self.config.insecure_seed is None and ctx.steps and not ctx.run.replays:
            self._charge(ctx, noise)
        clip, coordinates = self.config.clipping_norm, ctx.run.division.layout["params"]
        bound = row_bound(clip, noise, coordinates)
        return PoissonSteps(ctx.rows, ctx.steps, ctx.batch_size, bound, noise * clip, words)

    def tells(self, state: Arrays, run: RunInfo, finished: bool) -> Mapping[str, float | str]:  # noqa: FBT001
        terms, clip = self.terms(run), self.config.clipping_norm
        used = state["noise"][state["noise"] > 0]
        said: dict[str, float | str] = {"noise_multiplier": float(np.median(used)), "clip": clip}
        if self.config.insecure_seed is not None:
            return {**said, "epsilon": float("inf"), "statement": statements.INSECURE}
        ledgers = terms.ledgers.read(np.flatnonzero(run.partition.counts[:, 0]).tolist()).values()
        mine, delta, relation = state["run"].tobytes().hex(), terms.delta, terms.relation
        own = spent((ledger.releases(mine) for ledger in ledgers), delta, relation, exact=finished)
        whole = spent((ledger.releases() for ledger in ledgers), delta, relation, exact=finished)
        said |= {"epsilon": own.greatest, "median_epsilon": own.median, "all_runs_epsilon": whole.greatest}
        said["delta"] = delta
        if finished:
            said |= {"statement": described(own, delta, relation), "all_runs": described(whole, delta, relation)}
            said["unit"] = "example"
        return said

    def _noise(self, run: RunInfo, terms: ExampleTerms, ledgers: Mapping[int, Ledger]) -> npt.NDArray[np.float64]:
        """The noise multiplier of each client: that of the options, or one that keeps to the budget in all rounds."""
        if self.config.noise_multiplier is not None:
            return np.array([self.config.noise_multiplier])
        counts = run.partition.counts[:, 0]
        clients = {
            client_index: steps_of(run, int(counts[client_index])) for client_index in np.flatnonzero(counts).tolist()
        }
        found = calibrated(
            terms, clients, {client_index: ledger.releases() for client_index, ledger in ledgers.items()}
        )
        noise = np.zeros(len(counts))
        noise[list(found)] = list(found.values())
        return noise

    def _refuse_excess(
        self, ctx: StartContext, terms: ExampleTerms, ledgers: Mapping[int, Ledger], noise: npt.NDArray[np.float64]
    ) -> None:
        """Ends the run before a round that would exceed the budget of any client that may take part in it."""
        if terms.target is None:
            return
        counts = ctx.run.partition.counts[:, 0]
        for client_index in np.flatnonzero(counts).tolist():
            before = ledgers[client_index].releases() if client_index in ledgers else {}
            more = released(steps_of(ctx.run, int(counts[client_index])), _noise_of(noise, client_index))
            refuse_excess(terms, ctx.round, str(ctx.run.partition.client_ids[client_index]), before, more)

    def _charge(self, ctx: StepsContext, noise: float) -> None:
        """Puts the steps on the client's ledger. Another run may have charged since the round began: the budget is
        asked again."""
        if not ctx.broadcast["run"].any():
            raise flctl.FlctlError(f"a client came to transform '{self.name}' before its round was begun")
        terms, run = self.terms(ctx.run), ctx.broadcast["run"].tobytes().hex()
        release = Release("poisson", noise, rate=ctx.batch_size / ctx.rows)
        with terms.ledgers.opened(ctx.number, ctx.client_id, terms.relation) as (file, ledger):
            refuse_excess(terms, ctx.round, ctx.client_id, ledger.releases(), {release: ctx.steps})
            promise = Promise(terms.delta, terms.target, ctx.rows)
            file.charge(ledger, run, ctx.round, release, ctx.steps, promise)

    def _words(self, ctx: StepsContext) -> Words:
        """The random words of a client's batches and noise: from the operating system, unless the seed is insecure."""
        if self.config.insecure_seed is None:
            return secure_words()
        return insecure_words(self.config.insecure_seed, ctx.round, ctx.client_id, int(ctx.rng.integers(2**63)))


def _noise_of(noise: npt.NDArray[np.float64], client_index: int) -> float:
    """The noise multiplier of a client. Raises FlctlError for one that has none: nothing may be released without."""
    found = float(noise[client_index if len(noise) > 1 else 0])
    if not found > 0:
        raise flctl.FlctlError(f"no noise multiplier was found for client number {client_index}")
    return found


def _refuse_lost(heads: npt.NDArray[np.uint8], ledgers: Mapping[int, Ledger]) -> None:
    """Raises IntegrityError or IncompatibleError where ledgers are not those that the run's checkpoint rests on."""
    for client_index, row in enumerate(heads.reshape(-1, _DIGEST)):
        head = row.tobytes().hex()
        if not row.any():
            continue
        if client_index not in ledgers:
            raise IntegrityError(
                f"the ledger of client number {client_index} is missing, and the run's checkpoint depends on it",
                hint="Restore it.",
            )
        if not ledgers[client_index].holds(head):
            raise IncompatibleError(
                f"the ledger of client number {client_index} has no line {head[:12]}, on which the run's checkpoint "
                "depends",
                hint="Restore the ledgers that this run was charged to.",
            )
