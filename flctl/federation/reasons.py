"""Reasons for which a site, a hub or a coordinator refuses: a code and one sentence each.

Codes and sentences are all that leaves a site about a refusal: never a value of the data, a path or the text of an
exception. Each code has an anchor in `docs/federation-data-owner.md`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Self

from flctl.errors import FlctlError

__all__ = ["Reason", "Refused"]


class Reason(StrEnum):
    """A code of a refusal, and its sentence.

    >>> Reason.PLAN_REVOKED.value, Reason.PLAN_REVOKED.sentence
    ('plan-revoked', 'The approval of this plan was revoked here.')
    """

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    # 1: the envelope
    ENVELOPE_SIZE = "envelope-size", "The envelope is larger than an envelope may be."
    ENVELOPE_FORM = "envelope-form", "The envelope is not an envelope in canonical form."
    ENVELOPE_SIGNATURE = "envelope-signature", "The signature is not the sender's over this envelope."
    ENVELOPE_SENDER = "envelope-sender", "The sender may not send this: the roster does not list it for that."
    ENVELOPE_RECIPIENT = "envelope-recipient", "The envelope is addressed to another recipient."
    ENVELOPE_FEDERATION = "envelope-federation", "The envelope is from another federation."
    ENVELOPE_EXPIRED = "envelope-expired", "The envelope is no longer valid."
    ENVELOPE_KIND = "envelope-kind", "An envelope of this kind is not expected here."
    # 2: the roster
    ROSTER_SIGNATURE = "roster-signature", "The roster is not signed by the operator of this federation."
    ROSTER_ROLLBACK = "roster-rollback", "The roster is older than one that was accepted before."
    ROSTER_EQUIVOCATION = "roster-equivocation", "Two different rosters have one version."
    ROSTER_OPERATOR = "roster-operator", "The roster is from another operator than the one that was pinned at joining."
    ROSTER_FEDERATION = "roster-federation", "The roster is from another federation."
    ROSTER_FORM = "roster-form", "The roster is not a roster in canonical form."
    ROSTER_PLAN = "roster-plan", "The plan was made for another roster than the one in force."
    ROSTER_MEMBER = "roster-member", "The roster does not list this member, or its membership has ended."
    # 3: the plan and its approval
    PLAN_FORM = "plan-form", "The plan is not a plan in canonical form."
    PLAN_UNKNOWN = "plan-unknown", "No plan with this digest is known here."
    PLAN_FEDERATION = "plan-federation", "The plan is from another federation."
    PLAN_SITES = "plan-sites", "The plan does not list this site."
    PLAN_COORDINATOR = "plan-coordinator", "The plan is from another coordinator than the one that sends the order."
    PLAN_RUN = "plan-run", "The order names another run than the plan."
    PLANS_WAITING = "plans-waiting", "Too many plans of this coordinator wait for a decision here."
    PLAN_UNTIL = "plan-until", "The plan is no longer valid."
    PLAN_NOT_APPROVED = "plan-not-approved", "The plan was not approved here."
    PLAN_DENIED = "plan-denied", "The plan was denied here."
    PLAN_REVOKED = "plan-revoked", "The approval of this plan was revoked here."
    PLAN_EXPIRED = "plan-expired", "The approval of this plan has expired."
    # 4: versions and code
    VERSION_FLCTL = "version-flctl", "The plan names another version of flctl than the one installed here."
    VERSION_TORCH = "version-torch", "The plan names another version of torch than the one installed here."
    VERSION_NUMPY = "version-numpy", "The plan names another version of numpy than the one installed here."
    PLUGIN_MISSING = "plugin-missing", "The plan needs a plugin that is not installed here."
    PLUGIN_CHANGED = "plugin-changed", "A plugin's installed files are not those that the plan names."
    CODE_NOT_APPROVED = "code-not-approved", "The plan uses code that was not approved here."
    CODE_CHANGED = "code-changed", "Approved code was changed after its approval."
    # 5: the schedule
    ROUND_FORM = "round-form", "The order's round, phase or attempt is not one that the plan has."
    ROUND_PAST = "round-past", "The order is for a round before the next one."
    ROUND_SKIPPED = "round-skipped", "The order leaves out a round."
    ROUND_BEYOND = "round-beyond", "The order is for a round beyond the plan's last one."
    ROUND_CHANGED = "round-changed", "The order repeats a step of a round with other content."
    PHASE_ORDER = "phase-order", "The order's phase does not follow the phase before it."
    WORK_CHANGED = "work-changed", "The local training that is asked for is not what the plan says for this round."
    RATE_ROUNDS = "rate-rounds", "More rounds are asked for in an hour than the policy allows."
    RATE_BYTES = "rate-bytes", "More bytes would be moved in a day than the policy allows."
    DISK_FULL = "disk-full", "There is not enough free space for this order."
    RUNS_AT_ONCE = "runs-at-once", "Other runs are in progress, and the policy allows no more at once."
    # 6: the policy
    POLICY_ASK = "policy-ask", "The policy does not allow what is asked for: training, evaluation or statistics."
    POLICY_COORDINATOR = "policy-coordinator", "The policy does not list this coordinator."
    POLICY_STRATEGY = "policy-strategy", "The policy does not allow this strategy."
    POLICY_MODEL = "policy-model", "The policy does not allow this model."
    POLICY_TRANSFORM = "policy-transform", "The policy does not allow one of the transforms."
    POLICY_AGGREGATOR = "policy-aggregator", "The policy does not allow this aggregator."
    POLICY_PLUGIN = "policy-plugin", "The policy does not allow one of the plugins."
    POLICY_PLACE = "policy-place", "The plan names code or a file, which only the site itself may name."
    POLICY_REQUIRED = "policy-required", "The plan lacks a protection that the policy requires, or has a weaker one."
    POLICY_SIMULATION = "policy-simulation", "The plan uses a setting that only a simulation may use."
    POLICY_ROUNDS = "policy-rounds", "The plan has more rounds than the policy allows."
    POLICY_EPOCHS = "policy-epochs", "The plan has more local epochs than the policy allows."
    POLICY_MINUTES = "policy-minutes", "A round of the plan may take longer than the policy allows."
    POLICY_ROWS = "policy-rows", "This site has fewer rows than the policy requires."
    POLICY_SITES = "policy-sites", "The plan has fewer sites than the policy requires."
    POLICY_METRICS = "policy-metrics", "The plan asks for figures of this site that the policy does not share."
    POLICY_EPSILON = "policy-epsilon", "The privacy budget of this site does not allow the plan."
    POLICY_DIFFERING = (
        "policy-differing",
        "The plan differs from an earlier one by few sites: sums would be subtracted.",
    )
    STATISTICS_FLOOR = "statistics-floor", "Statistics are over fewer rows than the floor, or no floor is set."
    STUDY_RANGE = "study-range", "The plan is outside the ranges of the study that was approved."
    STUDY_TOTAL = "study-total", "The study's approved total of runs, rounds or privacy budget is used up."
    # 7: the content
    BLOB_SIZE = "blob-size", "A blob is larger than it may be."
    BLOB_DIGEST = "blob-digest", "A blob's bytes are not those of its digest."
    BLOB_SEALED = "blob-sealed", "A blob cannot be opened: it is sealed to another recipient, or was changed."
    BLOB_SEGMENTS = "blob-segments", "A blob's segments are cut, swapped or appended to."
    BODY_FORM = "body-form", "The content is not a message of the expected kind."
    BODY_LAYOUT = "body-layout", "The content's vectors have another layout than the plan's model."
    BODY_TYPE = "body-type", "The content's vectors have another number type than the plan's model."
    BODY_NOT_FINITE = "body-not-finite", "The content has numbers that are not finite."
    DERIVED_CHANGED = "derived-changed", "Values that follow from the plan come out differently here."
    # 8: the journal
    STEP_CLAIMED = "step-claimed", "This step was begun before and can be answered only once."
    HOME_LOCKED = "home-locked", "Another process of this site is at work."
    # the hub and the coordinator
    DOOR_CERTIFICATE = "door-certificate", "The TLS certificate is missing, expired, or another member's."
    DOOR_SIGNATURE = "door-signature", "The request is not signed by the member that it names."
    DOOR_REPLAY = "door-replay", "The request was seen before."
    DOOR_CLOCK = "door-clock", "The clocks differ by more than 5 minutes."
    DOOR_EPOCH = "door-epoch", "The hub has restarted; sign the request again."
    REQUEST_FORM = "request-form", "The request is not one that the hub understands."
    RUN_OTHER = "run-other", "The run is another coordinator's, or there is no such run."
    BLOB_NAME = "blob-name", "There is no blob of this name for this member."
    BLOB_RANGE = "blob-range", "The range is not one of this blob's missing or stored bytes."
    BLOB_MISSING = "blob-missing", "A blob that the envelope names is not stored."
    DOOR_RATE = "door-rate", "There are too many requests; try again later."
    DOOR_TWICE = "door-twice", "Two agents use one identity."
    INVITE = "invite", "The invitation was used, has expired, or is for another name."
    NAME_FORM = "name-form", "A name may have lower-case letters, digits and hyphens, at most 64."
    TASK_UNKNOWN = "task-unknown", "There is no such task for this member."
    REPLY_SIZE = "reply-size", "The reply is larger than a reply to this task may be."
    REPLY_CHANGED = "reply-changed", "The task has another reply already."
    REPLY_FORM = "reply-form", "The reply is not a reply to this task."
    REPLY_WEIGHT = "reply-weight", "The reply's weight is negative, or above what its site declared."
    QUOTA = "quota", "The store is full for this run."


class Refused(FlctlError):  # noqa: N818 - the word of the design: a refusal is an answer
    """A refusal: its reason, and one sentence.

    The sentence is the reason's own unless another of flctl's own is given, and may be sent to others: it holds no
    value of the data, no path and no exception's text.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, reason: Reason, sentence: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(
            sentence or reason.sentence, hint=hint or f"See docs/federation-data-owner.md, section '{reason.value}'."
        )
        self.reason = reason

    @property
    def sentence(self) -> str:
        """The sentence, which may be sent to others."""
        return self.message
