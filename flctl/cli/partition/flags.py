"""The flags of `flctl partition SOURCE`: one line each, because readers and schemes have many options.

Values stay words here; the component that has the option parses and validates them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from flctl.cli.flags import with_parameters

__all__ = ["FLAGS", "SchemeFlag", "with_flags"]

SOURCE, SCHEME, SPLIT, MORE = "Reading the source", "Scheme", "Clients and test rows", "More scheme options"


@dataclass(frozen=True, slots=True)
class SchemeFlag:
    """One flag: the option's name, the placeholder of its value (empty for a switch), its panel and its help."""

    name: str
    takes: str
    panel: str
    help: str

    @property
    def spelling(self) -> str:
        """`--min-size`, or `--shuffle/--no-shuffle` for a switch."""
        words = self.name.replace("_", "-")
        return f"--{words}" if self.takes else f"--{words}/--no-{words}"

    @property
    def parameter(self) -> inspect.Parameter:
        """The flag as a parameter of a command; None where it is not given."""
        option = typer.Option(
            self.spelling,
            metavar=self.takes or None,
            help=self.help,
            rich_help_panel=self.panel,
            show_default=False,
        )
        annotation: Any = Annotated[str | None, option] if self.takes else Annotated[bool | None, option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


FLAGS = (
    SchemeFlag("scheme", "NAME", SCHEME, "Partition scheme. Default: natural with --by, else dirichlet (text: iid)."),
    SchemeFlag("alpha", "NUMBER", SCHEME, "dirichlet: concentration; 0.1 is very skewed, 100 nearly iid. Default 0.5."),
    SchemeFlag("min_size", "ROWS", SCHEME, "Minimum number of rows per client."),
    SchemeFlag("self_balancing", "", SCHEME, "dirichlet: no more rows for clients that reached the mean size."),
    SchemeFlag("classes_per_client", "N", SCHEME, "pathological: number of classes per client."),
    SchemeFlag("shards_per_client", "N", SCHEME, "shard: number of shards per client. Default 2."),
    SchemeFlag("shard_size", "ROWS", SCHEME, "shard: rows per shard."),
    SchemeFlag("sizes", "N,N,...", SCHEME, "sizes: rows of each client, or fractions of all rows."),
    SchemeFlag("matrix", "FILE", SCHEME, "distribution: .csv or .npy, a row per client, a column per class."),
    SchemeFlag("strictness", "NUMBER", SCHEME, "continuous: 0 is iid, 1 is sorted by the feature."),
    SchemeFlag("group_size", "N", SCHEME, "grouped-natural: number of --by values per client."),
    SchemeFlag("top", "N", SCHEME, "natural: keep this many values of --by, those with the most rows."),
    SchemeFlag(
        "missing_group", "WHAT", SCHEME, "natural: rows without a --by value: refuse, client (their own), leave-out."
    ),
    SchemeFlag("clients", "N", SPLIT, "Number of clients. Default 10; natural schemes derive it from the data."),
    SchemeFlag("by", "COLUMN", SPLIT, "Column that identifies each row's client (a site, a person); or file, folder."),
    SchemeFlag(
        "test_fraction", "FRACTION", SPLIT, "Fraction of each client's rows held out for testing, 0 to 1. Default 0.2."
    ),
    SchemeFlag(
        "validation_fraction",
        "FRACTION",
        SPLIT,
        "Fraction of each client's training rows held back for choosing rounds, 0 to below 1. Default 0.",
    ),
    SchemeFlag(
        "test_split", "HOW", SPLIT, "random, last, or auto (last where rows are in order of time). Default auto."
    ),
    SchemeFlag(
        "standardise",
        "HOW",
        SPLIT,
        "feature, channel, unit (pixels / 255), none, or auto (tables by feature, images by channel).",
    ),
    SchemeFlag("seed", "N", SPLIT, "Random seed; equal seeds give identical partitions. Default 0."),
    SchemeFlag("reader", "NAME", SOURCE, "Reader of the source. Default: detected from the file."),
    SchemeFlag("target", "NAME|INDEX", SOURCE, "Column to predict."),
    SchemeFlag("features", "A,B", SOURCE, "Feature columns. Default: all others."),
    SchemeFlag("drop", "A,B", SOURCE, "Columns to leave out."),
    SchemeFlag("categorical", "A,B", SOURCE, "Columns to encode one-hot."),
    SchemeFlag("na", "WORD,WORD", SOURCE, "Words for a missing value, as ?,NA."),
    SchemeFlag("task", "TASK", SOURCE, "classification, binary, regression or auto."),
    SchemeFlag("header", "yes|no", SOURCE, "The first line has column names; --no-header is --header no."),
    SchemeFlag("delimiter", "CHARACTER", SOURCE, "Delimiter between cells. Default: detected automatically."),
    SchemeFlag("decimal", ",|.", SOURCE, "Decimal mark of numbers with separators, currency or per cent signs."),
    SchemeFlag("date", "COLUMN:PART,..", SOURCE, "Date columns and parts: year, month, day, weekday, hour, time ..."),
    SchemeFlag("date_format", "FORMAT", SOURCE, "Format of dates, as '%d.%m.%Y %H:%M'. Default: detected."),
    SchemeFlag("impute", "HOW", SOURCE, "Missing numbers: mean, median, or indicator (mean and a 0/1 feature)."),
    SchemeFlag("test", "FILE", SOURCE, "Tables: file with the source's test rows."),
    SchemeFlag("splits", "auto|none", SOURCE, "none: ignore train, test and val in file names."),
    SchemeFlag("labels", "FILE", SOURCE, "idx: file with the labels."),
    SchemeFlag("label", "fine|coarse", SOURCE, "cifar: label set of CIFAR-100."),
    SchemeFlag("window", "N", SOURCE, "text: characters per example."),
    SchemeFlag("min_characters", "N", SOURCE, "text: leave out speakers with fewer characters."),
    SchemeFlag("image_size", "HxW", SOURCE, "Images: resize to height x width."),
    SchemeFlag("channels", "1|3", SOURCE, "Image folders: grey or colour."),
    SchemeFlag("class_level", "N", SOURCE, "Image folders: folder level that names the class."),
    SchemeFlag("x", "NAME", SOURCE, "npz: the array of examples."),
    SchemeFlag("y", "NAME", SOURCE, "npz: the array of targets."),
    SchemeFlag("layout", "WORD", SOURCE, "npz: nchw, nhwc, keep or auto."),
    SchemeFlag("beta", "NUMBER", SOURCE, "synthetic: heterogeneity of the devices' inputs."),
    SchemeFlag("devices", "N", SOURCE, "synthetic: number of devices."),
    SchemeFlag("dimension", "N", SOURCE, "synthetic: number of features."),
    SchemeFlag("classes", "N", SOURCE, "synthetic: number of classes."),
    SchemeFlag("iid", "", SOURCE, "synthetic: the same true model and inputs for all devices."),
    SchemeFlag("base", "SCHEME", MORE, "feature-*, label-noise: scheme that assigns the rows."),
    SchemeFlag("base_options", "K=V,...", MORE, "feature-*, label-noise: options of that scheme."),
    SchemeFlag("mode", "WORD", MORE, "pathological: choice of classes; grouped-natural: incomplete last group."),
    SchemeFlag("bins", "N", MORE, "Number of quantile bins that turn a real-valued target into labels."),
    SchemeFlag("keep_incomplete", "", MORE, "shard: also assign the last, smaller shard."),
    SchemeFlag("preassigned", "N", MORE, "distribution: rows of each class that every client of the class gets first."),
    SchemeFlag("values", "WORD", MORE, "distribution: class-shares, client-shares or counts."),
    SchemeFlag("growth", "NUMBER", MORE, "exponential: ratio of a client's rows to those of the client before it."),
    SchemeFlag("exponent", "NUMBER", MORE, "power-law: exponent; rows fall with the client's rank to this power."),
    SchemeFlag("sigma", "NUMBER", MORE, "log-normal: standard deviation of log sizes; feature-noise: largest noise."),
    SchemeFlag("mean", "NUMBER", MORE, "log-normal: mean of log sizes."),
    SchemeFlag("feature", "INDEX", MORE, "continuous: feature to sort by. Default: the target."),
    SchemeFlag("shuffle", "", MORE, "grouped-natural: group values in random order."),
    SchemeFlag("shuffle_within", "ROWS", MORE, "temporal: rows may move by fewer positions than this."),
    SchemeFlag("angles", "DEGREES,...", MORE, "feature-rotation: angles, assigned to clients in turn."),
    SchemeFlag("low", "NUMBER", MORE, "feature-scaling: smallest factor."),
    SchemeFlag("high", "NUMBER", MORE, "feature-scaling: largest factor."),
    SchemeFlag("rate", "NUMBER", MORE, "label-noise: fraction of wrong labels."),
    SchemeFlag("growing", "", MORE, "label-noise: rates rise from the first client to the full rate at the last."),
)


def with_flags(command: Callable[..., Any], flags: Iterable[SchemeFlag] = FLAGS) -> Callable[..., Any]:
    """Returns `command` with a keyword parameter for each flag instead of its `**flags`."""
    return with_parameters(command, (flag.parameter for flag in flags))
