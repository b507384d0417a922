"""The model card: data, skew, metrics, privacy, versions and digests of an exported model, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flctl.config.config import AUTO, DEFAULT_MODELS
from flctl.data.preprocessing import FittedPreprocessing
from flctl.errors import counted
from flctl.evaluation.evaluate import Evaluated
from flctl.metrics import METRICS
from flctl.partition.skew import SkewReport
from flctl.partition.store import Partition
from flctl.prediction.predictor import Predictor

__all__ = ["CardFacts", "model_card"]

SHOWN_CLIENTS = 40
SHOWN_LEVELS = 8
STOPPED = ("target", "patience")
"""Ends of a run that evaluations decide."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that a card says. `partition`, `skew` and `evaluated` are None if the run's partition is gone;
    `files` are the SHA-256 digests of the folder's files by name."""

    predictor: Predictor
    partition: Partition | None
    skew: SkewReport | None
    evaluated: Evaluated | None
    files: Mapping[str, str]


def model_card(facts: CardFacts) -> str:
    """The card's Markdown."""
    parts = (_head, _inputs, _data, _metrics, _privacy, _origin)
    return "\n".join(line for part in parts for line in (*part(facts), "")).rstrip() + "\n"


def _head(facts: CardFacts) -> Iterator[str]:
    predictor, config = facts.predictor, facts.predictor.config
    whose = f"the personal model of client `{_cell(predictor.client)}`" if predictor.client else "one global model"
    yield f"# Model card: {_cell(predictor.directory.path.name)}"
    yield ""
    model = DEFAULT_MODELS[predictor.fitted.task] if config.model.name == AUTO else config.model.name
    yield f"A `{model}` model for {predictor.fitted.task}: {whose}, after round {predictor.round} of"
    yield f"federated training with `{config.strategy.name}`. `python model.py ROWS` predicts; torch and numpy suffice."


def _inputs(facts: CardFacts) -> Iterator[str]:
    fitted = facts.predictor.fitted
    yield "## Inputs and outputs"
    yield ""
    if fitted.inputs is None:
        how = fitted.standardisation.kind
        yield f"Examples of shape {list(fitted.shape)}, raw values of type `{fitted.dtype}`; standardisation: {how}."
    else:
        yield "| column | kind | categories |"
        yield "|---|---|---|"
        for column in fitted.inputs.columns:
            kind = f"{column.kind} ({column.part}, {_cell(column.format)})" if column.part else column.kind
            yield f"| {_cell(column.name)} | {kind} | {_some(column.levels)} |"
    yield ""
    yield _outputs(fitted)


def _outputs(fitted: FittedPreprocessing) -> str:
    if fitted.task == "regression":
        return "The prediction is a number in the target's units."
    what = "The next character, one of" if fitted.task == "next-character" else "Classes:"
    return f"{what} {_some(fitted.classes)} ({len(fitted.classes)})."


def _data(facts: CardFacts) -> Iterator[str]:
    yield "## Training data"
    yield ""
    if facts.partition is None:
        yield "The run's partition was missing when the model was exported, so its data is not described."
        return
    manifest = facts.partition.manifest
    info, rows = manifest.dataset, manifest.rows
    yield f"- `{_cell(info.name)}`: {counted(rows.train, 'training row')} of {counted(manifest.clients, 'client')}"
    yield f"- {counted(rows.central_test, 'test row')}"
    if rows.central_validation:
        yield f"- {rows.central_validation:,} validation rows"
    yield f"- divided by the scheme `{manifest.scheme['name']}`, seed {manifest.seed}"
    yield f"- digest of the data: `{info.digest}`"
    if facts.skew is not None:
        yield from _skew(facts.skew)


def _skew(skew: SkewReport) -> Iterator[str]:
    yield f"- rows of a client: {skew.size_min:,} to {skew.size_max:,}, median {skew.size_median:,.0f}"
    yield f"- size skew, Gini coefficient: {skew.size_gini:.3f}"
    if skew.jensen_shannon is not None:
        value = skew.jensen_shannon
        yield f"- label skew, Jensen-Shannon divergence from all rows: mean {value.mean:.4g}, largest {value.max:.4g}"


def _metrics(facts: CardFacts) -> Iterator[str]:
    yield "## Metrics"
    yield ""
    if facts.evaluated is None:
        final = (facts.predictor.directory.summary() or {}).get("final") or {}
        yield "| metric, last round | value |"
        yield "|---|---:|"
        yield from (f"| {_label(name)} | {_number(value)} |" for name, value in final.items())
        return
    evaluation = facts.evaluated.evaluation
    kind = "the clients' own test rows together" if evaluation.pooled else "the source's test part"
    yield f"On {counted(evaluation.central.rows, 'test row')} ({kind}); test rows were not trained on."
    yield from _picked(facts)
    yield ""
    yield "| metric | value |"
    yield "|---|---:|"
    values = evaluation.central.values
    shown = {name: value for name, value in values.items() if name != "test_loss" or "log_loss" not in values}
    yield from (f"| {_label(name)} | {_number(value)} |" for name, value in shown.items())
    yield ""
    yield from _clients(facts.evaluated)


def _picked(facts: CardFacts) -> Iterator[str]:
    """Returns a sentence on the rows by which rounds were compared."""
    summary = facts.predictor.directory.summary() or {}
    rounds = "Rounds were compared (best round, early stopping)"
    if facts.partition is not None and facts.partition.selection == "validation":
        yield f"{rounds} by {facts.partition.manifest.rows.central_validation:,} validation rows, not by these."
    elif facts.predictor.round == summary.get("best", {}).get("round") or summary.get("status") in STOPPED:
        yield f"{rounds} by these rows, so the scores of the round that was picked are too good."


def _clients(evaluated: Evaluated) -> Iterator[str]:
    if evaluated.withheld:
        yield "Numbers by client are left out: the run's aggregator hides clients."
        return
    scores = evaluated.evaluation.clients
    names = [name for name in METRICS if name in scores.values and name not in ("test_loss", "targets")]
    yield "By client, on its own test rows:"
    yield ""
    yield f"| client | test rows | {' | '.join(map(_label, names))} |"
    yield f"|---|---:|{'---:|' * len(names)}"
    for index in range(min(len(scores.rows), SHOWN_CLIENTS)):
        values = " | ".join(_number(float(scores.values[name][index])) for name in names)
        yield f"| {_cell(str(scores.client_ids[index]))} | {int(scores.rows[index]):,} | {values} |"
    if len(scores.rows) > SHOWN_CLIENTS:
        yield ""
        yield f"The first {SHOWN_CLIENTS} of {counted(len(scores.rows), 'client')}; `flctl eval --csv` writes all."


def _privacy(facts: CardFacts) -> Iterator[str]:
    config = facts.predictor.config
    yield "## Privacy"
    yield ""
    yield from _guarantees(facts)
    yield f"- updates were summed by the aggregator `{config.aggregator.name}`"
    yield "- this folder has no rows. Names of columns, categories, classes and clients come from the source, and each"
    yield "  feature's mean and deviation from all clients' training rows: read them before you share this folder"
    if facts.predictor.client:
        yield "- the model is personal: it was trained on its client's rows more than on others'"


def _guarantees(facts: CardFacts) -> Iterator[str]:
    """The statements of the whole run, also for the weights of an earlier round: the choice of that round used all."""
    transforms = {one.name: None for one in facts.predictor.config.transforms if one.name.startswith("dp")}
    recorded, rounds = _summarised(facts)
    private = transforms | {name: values for name, values in recorded.items() if "epsilon" in values}
    if not private:
        yield "- no differential privacy: the weights may reveal rows that the model was trained on"
        return
    shown = []
    for name, values in private.items():
        if values is None:
            yield f"- differential privacy by `{name}`: the run has no summary of all its rounds, so its epsilon, and"
            yield "  what it covers, are not stated here"
        elif facts.predictor.client and values.get("unit") != "example":
            yield f"- the differential privacy of `{name}` does not cover this personal model: its noise is on updates"
            yield "  alone, and the client's own weights have none of it"
        else:
            shown.append(f"- `{name}`: {_guarantee(values)}")
    yield from shown
    if shown:
        yield f"- this is the guarantee of the whole run ({counted(rounds, 'round')}), for weights of any round;"
        yield "  evaluation and the choice of a round, on validation or test rows, are not covered"


def _guarantee(values: Mapping[str, Any]) -> str:
    """The transform's own statement, which rounds epsilon up; without one, its figures in full."""
    if "statement" in values:
        return _cell(str(values["statement"]))
    return ", ".join(f"{key} {_cell(str(value))}" for key, value in values.items())


def _summarised(facts: CardFacts) -> tuple[dict[str, Mapping[str, Any]], int]:
    """The transforms' entries in the run's summary, and its rounds; nothing if the run went on after the summary."""
    directory = facts.predictor.directory
    summary, lines = directory.summary() or {}, directory.lines()
    if not lines or summary.get("rounds") != lines[-1]["round"]:
        return {}, 0
    return dict(summary.get("transforms") or {}), len(lines)


def _origin(facts: CardFacts) -> Iterator[str]:
    run = facts.predictor.directory.facts
    yield "## Origin"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| versions | {', '.join(f'{name} {value}' for name, value in run['versions'].items())} |"
    yield f"| configuration | `{run['config_digest']}` |"
    yield f"| partition | `{run['partition_digest']}` |"
    yield from (f"| `{name}` | `sha256:{digest}` |" for name, digest in facts.files.items())


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(_cell(name) if name.strip() else repr(name) for name in names[:SHOWN_LEVELS])
    return shown + (f", ... ({len(names)})" if len(names) > SHOWN_LEVELS else "")


def _label(name: str) -> str:
    return METRICS[name].label if name in METRICS else name


def _number(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return _cell(str(value))


def _cell(text: str) -> str:
    """Text from data, without what would break a table or a line."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
