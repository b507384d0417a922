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

SOURCE, SCHEME, SPLIT, MORE = "Reading the source", "Scheme", "Clients and test rows", "Other options of schemes"


@dataclass(frozen=True, slots=True)
class SchemeFlag:
    """One flag: its option's name, what it takes (empty: a switch), its panel and its help."""

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
    SchemeFlag(
        "scheme", "NAME", SCHEME, "Who gets which rows. Default: natural with --by, else dirichlet (text: iid)."
    ),
    SchemeFlag("alpha", "NUMBER", SCHEME, "dirichlet: concentration; 0.1 is very skewed, 100 nearly iid. Default 0.5."),
    SchemeFlag("min_size", "ROWS", SCHEME, "Fewest rows of any client."),
    SchemeFlag("self_balancing", "", SCHEME, "dirichlet: nothing more for clients that have their share."),
    SchemeFlag("classes_per_client", "N", SCHEME, "pathological: classes that each client has."),
    SchemeFlag("shards_per_client", "N", SCHEME, "shard: shards that each client gets. Default 2."),
    SchemeFlag("shard_size", "ROWS", SCHEME, "shard: rows in a shard."),
    SchemeFlag("sizes", "N,N,...", SCHEME, "sizes: rows of each client, or shares of all rows."),
    SchemeFlag("matrix", "FILE", SCHEME, "distribution: CSV of shares, a line for each client or class."),
    SchemeFlag("strictness", "NUMBER", SCHEME, "continuous: 0 is iid, 1 sorted by the property."),
    SchemeFlag("group_size", "N", SCHEME, "grouped-natural: values of --by for each client."),
    SchemeFlag("top", "N", SCHEME, "natural: keep the values of --by with most rows."),
    SchemeFlag("missing_group", "WHAT", SCHEME, "natural: rows without a value are: refuse, client, leave-out."),
    SchemeFlag("clients", "N", SPLIT, "How many clients. Default 10; natural schemes count for themselves."),
    SchemeFlag("by", "COLUMN", SPLIT, "The column that says whose row it is: a site, a person; file or folder."),
    SchemeFlag(
        "test_fraction", "SHARE", SPLIT, "Share of each client's rows held out for testing, 0 to 1. Default 0.2."
    ),
    SchemeFlag(
        "validation_fraction",
        "SHARE",
        SPLIT,
        "Share of each client's training rows held back to pick rounds and stop by, 0 to below 1. Default 0.",
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
    SchemeFlag("seed", "N", SPLIT, "Equal seeds give equal bytes. Default 0."),
    SchemeFlag("reader", "NAME", SOURCE, "Reader of the source; by default the one that recognises the file."),
    SchemeFlag("target", "NAME|INDEX", SOURCE, "The column to predict."),
    SchemeFlag("features", "A,B", SOURCE, "The columns to learn from. Default: all others."),
    SchemeFlag("drop", "A,B", SOURCE, "Columns to leave out."),
    SchemeFlag("categorical", "A,B", SOURCE, "Columns to encode one-hot."),
    SchemeFlag("na", "WORD,WORD", SOURCE, "Words that mean a missing value, as ?,NA."),
    SchemeFlag("task", "TASK", SOURCE, "classification, binary, regression or auto."),
    SchemeFlag("header", "yes|no", SOURCE, "Whether the first line names the columns; --no-header says no."),
    SchemeFlag("delimiter", "CHARACTER", SOURCE, "Between the cells of a line; by default detected automatically."),
    SchemeFlag("decimal", ",|.", SOURCE, "The decimal mark of numbers with separators, currency or per cent signs."),
    SchemeFlag("test", "FILE", SOURCE, "Tables: the file of the source's own test rows."),
    SchemeFlag("splits", "auto|none", SOURCE, "none: train, test and val in file names mean nothing."),
    SchemeFlag("labels", "FILE", SOURCE, "idx: the file of labels."),
    SchemeFlag("label", "fine|coarse", SOURCE, "cifar: which labels of CIFAR-100."),
    SchemeFlag("window", "N", SOURCE, "text: characters in a row."),
    SchemeFlag("min_characters", "N", SOURCE, "text: leave out speakers who say less."),
    SchemeFlag("image_size", "HxW", SOURCE, "Images: resize to height x width."),
    SchemeFlag("channels", "1|3", SOURCE, "Image folders: grey or colour."),
    SchemeFlag("class_level", "N", SOURCE, "Image folders: which folder level names the class."),
    SchemeFlag("x", "NAME", SOURCE, "npz: the array of examples."),
    SchemeFlag("y", "NAME", SOURCE, "npz: the array of targets."),
    SchemeFlag("layout", "WORD", SOURCE, "npz: nchw, nhwc, keep or auto."),
    SchemeFlag("beta", "NUMBER", SOURCE, "synthetic: how much clients' inputs differ."),
    SchemeFlag("devices", "N", SOURCE, "synthetic: how many devices."),
    SchemeFlag("dimension", "N", SOURCE, "synthetic: how many features."),
    SchemeFlag("classes", "N", SOURCE, "synthetic: how many classes."),
    SchemeFlag("iid", "", SOURCE, "synthetic: one model for all devices."),
    SchemeFlag("base", "SCHEME", MORE, "feature-*, label-noise: the scheme that deals the rows."),
    SchemeFlag("base_options", "K=V,...", MORE, "feature-*, label-noise: that scheme's options."),
    SchemeFlag("mode", "WORD", MORE, "pathological: how classes are chosen; grouped-natural: the last group."),
    SchemeFlag("bins", "N", MORE, "Quantile bins of a real-valued target that counts as labels."),
    SchemeFlag("keep_incomplete", "", MORE, "shard: deal the last, smaller shard too."),
    SchemeFlag("preassigned", "N", MORE, "distribution: rows of each class that each client has for sure."),
    SchemeFlag("values", "WORD", MORE, "distribution: what the matrix holds."),
    SchemeFlag("growth", "NUMBER", MORE, "exponential: ratio of a client's rows to those of the client before it."),
    SchemeFlag("exponent", "NUMBER", MORE, "power-law: rows fall with the client's rank to this power."),
    SchemeFlag("sigma", "NUMBER", MORE, "log-normal: spread of log sizes; feature-noise: most noise."),
    SchemeFlag("mean", "NUMBER", MORE, "log-normal: mean of log sizes."),
    SchemeFlag("feature", "INDEX", MORE, "continuous: the feature to go by; default the target."),
    SchemeFlag("shuffle", "", MORE, "grouped-natural: group values in random order."),
    SchemeFlag("shuffle_within", "ROWS", MORE, "temporal: rows may move by fewer places than this."),
    SchemeFlag("angles", "DEGREES,...", MORE, "feature-rotation: clients take turns."),
    SchemeFlag("low", "NUMBER", MORE, "feature-scaling: least factor."),
    SchemeFlag("high", "NUMBER", MORE, "feature-scaling: largest factor."),
    SchemeFlag("rate", "NUMBER", MORE, "label-noise: share of labels that are wrong."),
    SchemeFlag("growing", "", MORE, "label-noise: from none at the first client to the full rate at the last."),
)


def with_flags(command: Callable[..., Any], flags: Iterable[SchemeFlag] = FLAGS) -> Callable[..., Any]:
    """`command` with a keyword parameter for each flag in place of its `**flags`."""
    return with_parameters(command, (flag.parameter for flag in flags))
