"""Secure aggregation as an aggregator of flctl: a round runs sessions, each with its own id, until one gives a sum."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import flctl
from flctl import (
    Aggregate,
    AggregationContext,
    Arrays,
    ClientContext,
    IncompatibleError,
    Phase,
    ProtocolError,
    RoundLostError,
)
from flctl.errors import counted
from flctl_secagg.client.client import Client
from flctl_secagg.client.local_bounds import LocalBounds, class_ratio
from flctl_secagg.client.policy import Differing, Policy
from flctl_secagg.crypto.primitives import KEY_BYTES, Signer
from flctl_secagg.encoding.vectors import WEIGHT, Decoded, Encoding
from flctl_secagg.identity.ids import require_ids
from flctl_secagg.identity.keys import identity_public
from flctl_secagg.identity.roster import Roster
from flctl_secagg.options import Options
from flctl_secagg.protocol.asked_work import AskedWork, config_digest, work_digest
from flctl_secagg.protocol.degrees import Degrees, require_survivable
from flctl_secagg.protocol.parameters import Parameters
from flctl_secagg.protocol.session import Session
from flctl_secagg.run_limits import (
    largest_weight,
    most_clients,
    require_allowed,
    require_coarse_clip,
    require_even_classes,
    require_few_cohorts,
    require_minimum,
    require_varied,
)
from flctl_secagg.server.attempt import Attempt, AttemptError, decoded_sum
from flctl_secagg.server.journal import Journal, Outcome, Sum
from flctl_secagg.server.survivor_lists import SurvivorLists
from flctl_secagg.storage import FederationHome, Home, KeysHome, NoHome, SimulatedHome
from flctl_secagg.transcripts.recording import Transcript, record_cut

if TYPE_CHECKING:
    from flctl import RunIdentities, RunInfo

__all__ = ["SecureAggregation"]

Replies = Iterable[tuple[str, bytes]]
_NO_RUN_WEIGHT = 1024.0


class SecureAggregation(flctl.Aggregator):
    """Pairwise masking: the server learns the sum and no single update (Bonawitz et al. 2017; Bell et al. 2020).

    Protocol flctl-secagg/1: each client adds masks that cancel in the sum. Masks of clients that drop out are
    reconstructed from shares that their neighbours hold. A round that cannot be finished is retried as a new session,
    or refused; it is never summed in the clear.
    """

    name = "secagg"
    hides = True
    answers_once = True

    class Config(Options):
        """Options of a run."""

    _home: Home = NoHome()
    _max_weight: float = _NO_RUN_WEIGHT
    _bounded = False
    _rounds = 1_000_000
    _config = ""
    _class_ratio = 1.0
    _repeats = True
    """False if clients keep state between rounds: a sum from the journal would skip the training that updates it."""
    _local = LocalBounds(lr=(0.0, math.inf), drop_last=True)

    @property
    def ring(self) -> int:
        return int(self.config.bits)

    @property
    def survivors(self) -> int:
        """Fewest survivors of a sum. Clients enforce it by their policy (`minimum`), whatever the server proposes."""
        return int(self.config.minimum)

    def rounding(self, run: RunInfo) -> float:
        """Upper bound, in L2 norm, on what rounding adds to one client's effect on the sum. One client more or less may
        change the rounding of all others, each by at most `Encoding.rounding`."""
        count = most_clients(run)
        return (count + 1) * self.encoding(count, {**run.update_layout, WEIGHT: 1}).rounding

    def placed(self, run: RunInfo) -> Self:
        """Returns a copy with the run's identities, and its largest client's weight as the default maximum."""
        placed = copy.copy(self)
        directory = run.directory / "secagg"
        if self.config.keys is None:
            placed._home = SimulatedHome(directory, run.partition.client_ids)
        else:
            placed._home = KeysHome(Path(self.config.keys), directory)
        placed._max_weight = largest_weight(run)
        placed._repeats = not run.memory_layout
        placed._bounded = any(transform.bounds_clients for transform in run.transforms.values())
        placed._rounds = run.config.rounds
        placed._config = config_digest(run.config)
        placed._class_ratio = class_ratio(run.config.local.class_weights)
        placed._local = LocalBounds.of(run.config.local.amount(), placed._class_ratio)
        return placed

    def enrolled(self, identities: RunIdentities) -> Self:
        """See `Aggregator.enrolled`: keys, graph seed and records are those of the federation."""
        enrolled = copy.copy(self)
        enrolled._home = FederationHome(identities, self._home.directory)
        return enrolled

    def check(self, run: RunInfo) -> None:
        expected = run.cohort_size
        require_ids(run.partition.client_ids)
        self.require_cohort(expected)
        require_even_classes(run)
        if self._weight > 1:
            require_varied(run)
        if self._differing == "refuse":
            require_few_cohorts(run)
        require_coarse_clip(run, float(self.config.clip))
        count = math.ceil(expected)
        self.encoding(count, {**run.update_layout, WEIGHT: 1})
        if isinstance(self._home, KeysHome):
            self._home.check(run.partition.client_ids)
            require_allowed(self._home, self._options(None))

    def derived(self, run: RunInfo) -> dict[str, int | float]:
        """See `Aggregator.derived`: bounds of the largest cohort's sessions."""
        count = most_clients(run)
        degrees = self.degrees(count)
        chosen = {"neighbours": degrees.neighbours, "threshold": degrees.threshold, "max_weight": self._weight}
        return {**chosen, "cohort": count, "minimum": self.survivors}

    def require_cohort(self, expected: float) -> None:
        """Raises IncompatibleError if cohorts of this size are below the minimum, or cannot bear the dropouts that are
        expected."""
        if expected < self.config.minimum:
            raise IncompatibleError(
                f"aggregator 'secagg' needs at least {counted(self.config.minimum, 'client')}, and a round selects "
                f"{expected:g}",
                hint="Raise cohort.clients, or lower aggregator.minimum (at least 3).",
            )
        count = math.ceil(expected)
        require_survivable(count, self.degrees(count), self.config.dropped)

    def degrees(self, count: int) -> Degrees:
        """Returns k and t for a cohort of `count`, as configured or chosen. Raises IncompatibleError if a configured
        value is below the least safe one, or above the number of neighbours."""
        options: Options = self.config
        return options.degrees(count)

    def encoding(self, count: int, layout: flctl.Layout) -> Encoding:
        """Encoding of a cohort's vectors as words. Raises IncompatibleError if the ring is too small for its sums."""
        vectors = tuple((name, int(length)) for name, length in layout.items() if name != WEIGHT)
        return Encoding(vectors, self.config.bits, count, float(self.config.clip), self._weight)

    @property
    def _weight(self) -> float:
        """Largest weight. In active mode it defaults to 1, so that clients count alike: from sums of weights over a few
        cohorts, a server could solve for each client's number of rows."""
        chosen = 1.0 if self.config.mode == "active" else self._max_weight
        return float(self.config.max_weight or chosen)

    @property
    def weights_equal(self) -> bool:
        return self._weight <= 1

    def server(self, ctx: AggregationContext) -> Generator[Phase, Replies, Aggregate]:
        cohort = sorted(set(ctx.cohort))
        self._home.prepare(cohort)
        roster = self._home.roster()
        run = roster.run or ctx.fresh(KEY_BYTES).hex()
        ask = "train" if ctx.work is None else ctx.work.ask
        kept = self._journal.sum_of(run, ctx.round, work_digest(ctx.work), ask) if self._repeats else None
        if kept is not None:
            ctx.note("the sum was published before the run was stopped, and is read from the journal")
            decoded = Session(kept.parameters, roster).encoding.decode(kept.words, len(kept.survivors))
            return Aggregate(decoded.arrays, decoded.weight, len(kept.survivors))
        for number in range(1, self.config.attempts + 1):
            require_minimum(cohort, self.config.minimum, ctx.round)
            session = self._session(self._parameters(ctx, cohort, number, run), roster)
            error = yield from self._attempt(ctx, session)
            if isinstance(error, Aggregate):
                return error
            ctx.note(f"attempt {number} of secure aggregation failed: {error.message}")
            if error.opened:
                raise self._lost(ctx.round, error)
            if number == self.config.attempts or len(error.left) < self.config.minimum:
                raise ProtocolError(f"round {ctx.round}: {error.message}", hint=error.hint)
            cohort = self._lists.largest_allowed(session, error.left)
        raise ProtocolError(f"round {ctx.round}: no attempt was made")

    def _session(self, parameters: Parameters, roster: Roster) -> Session:
        """Returns a new session; or the one that was begun before the server was stopped, if the run repeats the nonce:
        clients then answer it as before, and are not asked to train again."""
        for previous, sid in self._journal.begun_in(parameters.round):
            again = Session(replace(parameters, previous=previous), roster)
            if again.sid.hex() == sid:
                return again
        record_cut(self._journal)
        return Session(replace(parameters, previous=self._journal.head()), roster)

    def _attempt(
        self, ctx: AggregationContext, session: Session
    ) -> Generator[Phase, Replies, Aggregate | AttemptError]:
        """Runs one session. Returns its sum or its error; either is in the journal when this returns."""
        parameters = session.parameters
        outcome = Outcome(parameters.round, session.sid.hex(), "ended", ask=parameters.ask)
        self._journal.begin(parameters.round, session.sid)
        with self._transcript(session) as transcript:
            attempt = self._server_side(ctx, session, transcript)
            try:
                unmasked = yield from attempt.run()
                decoded = decoded_sum(session, unmasked)
            except AttemptError as error:
                if transcript is not None:
                    outcome = replace(outcome, transcript=transcript.digest)
                if error.opened:
                    outcome = replace(outcome, end="burnt", survivors=attempt.survivors)
                    self._lists.burn(session, attempt.survivors)
                self._journal.keep(outcome)
                return error
            if transcript is not None:
                transcript.publish(unmasked)
                outcome = replace(outcome, transcript=transcript.digest)
        outcome = replace(outcome, end="summed", survivors=unmasked.survivors)
        self._journal.publish(outcome, Sum(parameters, unmasked.survivors, unmasked.words))
        return self._published(ctx, session, unmasked.survivors, decoded)

    def _server_side(self, ctx: AggregationContext, session: Session, transcript: Transcript | None) -> Attempt:
        key = self._home.server_key()
        return Attempt(
            session,
            ctx.note,
            transcript,
            partial(self._lists.objection, session),
            past=self._journal.past(session.parameters.previous),
            sign=None if key is None else Signer(key).sign,
        )

    def _lost(self, number: int, error: AttemptError) -> ProtocolError:
        """Returns the error of a round that gave no sum after shares were opened. Clients open no shares for a second
        list of survivors, so the round is burnt. A RoundLostError continues the run; too many in a row end it."""
        before = self._journal.burnt_before(number)
        if before >= self.config.burnt:
            said = (
                f"round {number} and the {before} before it ended without a sum after shares were opened: "
                f"{error.message}"
            )
            return ProtocolError(said, hint="See the notes of these rounds, or raise aggregator.burnt.")
        return RoundLostError(f"round {number} is lost, and the model is unchanged: {error.message}", hint=error.hint)

    @property
    def _journal(self) -> Journal:
        return Journal(self._home.directory)

    def client(self, memory: bytes, message: bytes, vector: Arrays | None, ctx: ClientContext) -> tuple[bytes, bytes]:
        home = self._home
        roster, stores = home.roster(), (home.ledger(), home.outbox())
        me = Client(ctx.client_id, home.keyring(), roster, self._policy(roster), *stores)
        me = replace(me, keys=home.session_keys(), history=home.history())
        return me.step(memory, message, vector, AskedWork.of(ctx.round, ctx.work, self._config, self._class_ratio))

    def _policy(self, roster: Roster) -> Policy:
        """Returns the client's own policy, tightened by the run's options; in a simulation, the options alone."""
        own, options = self._home.policy(), self._options(roster.run or None)
        return options if own is None else own.tightened(options)

    def _options(self, run: str | None) -> Policy:
        """Returns the run's options as a policy."""
        config = self.config
        return Policy(
            mode=config.mode,
            minimum=config.minimum,
            corrupt=config.corrupt,
            dropped=config.dropped,
            clip_floor=config.clip,
            clip=config.clip,
            bits=(config.bits,),
            ciphers=(config.cipher,),
            max_weight=self._weight,
            differing=self._differing,
            run=run,
            local=self._local,
            rounds=self._rounds,
            simulation=self._home.simulated,
            accept_zeros=self._bounded,
            bounded=self._bounded,
        )

    @property
    def _differing(self) -> Differing:
        chosen: Differing | None = self.config.differing
        return chosen or ("refuse" if self.config.mode == "active" else "warn")

    @property
    def _lists(self) -> SurvivorLists:
        return SurvivorLists(self._home.ledger(), self._differing, int(self.config.minimum))

    def _parameters(self, ctx: AggregationContext, cohort: Sequence[str], number: int, run: str) -> Parameters:
        degrees, encoding = self.degrees(len(cohort)), self.encoding(len(cohort), ctx.layout)
        key = self._home.server_key()
        return Parameters(
            run=run,
            round=ctx.round,
            attempt=number,
            work=work_digest(ctx.work),
            layout=encoding.layout,
            bits=encoding.bits,
            clip=encoding.clip,
            max_weight=encoding.max_weight,
            minimum=self.config.minimum,
            survivors=self.config.minimum,
            neighbours=degrees.neighbours,
            threshold=degrees.threshold,
            mode=self.config.mode,
            cipher=self.config.cipher,
            cohort=tuple(cohort),
            deadline=ctx.deadline or 0.0,
            nonce=ctx.fresh(KEY_BYTES).hex(),
            previous=self._journal.head(),
            config=self._config,
            server="" if key is None else identity_public(key).hex(),
            words=encoding.words,
            levels=encoding.levels,
        )

    def _transcript(self, session: Session) -> Transcript | nullcontext[None]:
        directory = self._home.directory
        if not self.config.transcript or directory is None:
            return nullcontext()
        return Transcript.new(directory / "transcripts", session, self._journal.past(session.parameters.previous))

    def _published(
        self, ctx: AggregationContext, session: Session, survivors: tuple[str, ...], decoded: Decoded
    ) -> Aggregate:
        """Returns the aggregate of a decoded sum; notes clipping and, if `differing` is `warn`, exposed clients."""
        if decoded.clipped:
            ctx.note(
                f"{decoded.clipped} of {counted(len(survivors), 'client')} clipped values or their weight "
                "(aggregator.clip)"
            )
        exposed = self._lists.record(session, survivors)
        if exposed is not None:
            ctx.note(exposed)
        return Aggregate(decoded.arrays, decoded.weight, len(survivors))
