"""Roles of a table's columns: target, features, categories, groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from unicodedata import normalize

from flctl.data.options import Impute, TabularOptions
from flctl.errors import ConfigError, DataError, counted, suggest

__all__ = [
    "ColumnPlan",
    "Declared",
    "find_column",
    "named_columns",
    "plan_columns",
    "refuse_duplicates",
    "refuse_other_groups",
]


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """Indices of a table's columns by role. `target` is None for rows to predict; `by` are the group columns."""

    names: tuple[str, ...]
    target: int | None
    features: tuple[int, ...]
    categorical: tuple[int, ...]
    by: tuple[int, ...]
    notes: tuple[str, ...] = ()
    impute: Impute | None = None

    @property
    def numeric(self) -> tuple[int, ...]:
        """The features that are numbers, in order."""
        return tuple(i for i in self.features if i not in self.categorical)

    @property
    def texts(self) -> tuple[int, ...]:
        """The columns that are read as text: the target, the categories and the groups."""
        target = () if self.target is None else (self.target,)
        return tuple(sorted({*target, *self.categorical, *self.by}))

    def within(self, count: int) -> ColumnPlan:
        """The plan for the first `count` columns alone: those that stand in the files."""
        features, categorical, by = (
            tuple(i for i in columns if i < count) for columns in (self.features, self.categorical, self.by)
        )
        return replace(self, features=features, categorical=categorical, by=by)


@dataclass(frozen=True, slots=True)
class Declared:
    """Columns as the file declares them: `nominal` ones, with their `levels` if it lists these, and those that are
    `indices` of rows and not data. The last `paths` columns stand in no file: they are parts of its path.

    `hidden` columns are no features: others are made of them. `parts` are names that stand for several columns: a date
    and its parts, a list and its elements. `formats` are those of columns of dates."""

    nominal: frozenset[int] = frozenset()
    indices: frozenset[int] = frozenset()
    levels: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    paths: int = 0
    hidden: frozenset[int] = frozenset()
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    formats: Mapping[int, str] = field(default_factory=dict)


def plan_columns(
    names: Sequence[str], options: TabularOptions, declared: Declared, where: str, advice: str = ""
) -> ColumnPlan:
    """The plan for columns `names`. An index is a feature only if `--features` names it.

    Raises DataError for a column that is not there, ConfigError if the roles contradict each other.
    """
    table = _Names(names, where, advice, declared.parts)
    if options.target is None:
        raise ConfigError(f"{where}: which column is to be predicted?", hint=f"--target, one of {_listed(names)}")
    target, by = table.find(options.target, "target"), table.find_all(options.by, "by")
    dropped = {target, *by, *table.find_all(options.drop, "drop")}
    asked = table.find_all(options.categorical, "categorical")
    indices = sorted(declared.indices.difference(dropped, asked))
    left = (i for i in range(len(names) - declared.paths) if i not in {*dropped, *indices, *declared.hidden})
    features = table.find_all(options.features, "features") or tuple(left)
    categorical = tuple(i for i in features if i in asked or i in declared.nominal)
    grouped = [names[i] for i in asked if i in by and i not in features]
    notes = [*map(_no_feature, grouped), *([] if options.features else _index_notes(names, indices))]
    plan = ColumnPlan(tuple(names), target, features, categorical, by, tuple(notes), options.impute)
    _refuse_contradictions(plan, asked, where, len(names) - declared.paths)
    return plan


def find_column(names: Sequence[str], word: str, flag: str, where: str) -> int:
    """Returns the index of the column that `word` names or counts. Raises DataError if it is unknown."""
    return _Names(names, where, "", {}).find(word, flag)


def refuse_duplicates(names: Sequence[str], where: str) -> None:
    """Raises DataError where two columns have one name."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            raise DataError(
                f"{where}: columns {first[name]} and {index} are both called '{name}'",
                hint="Rename one; if the first row is data, use --no-header.",
            )
        first[name] = index


def named_columns(options: TabularOptions) -> set[str]:
    """Every column that the options mention by something that is no index."""
    mentioned = (options.target or "", *options.features, *options.drop, *options.categorical, *options.by)
    return {word for word in mentioned if word and not _is_index(word)}


def refuse_other_groups(by: Iterable[str], known: Sequence[str], data: str) -> None:
    """Raises DataError where `by` names a group that the data does not have."""
    for name in by:
        if name not in known:
            given = " and ".join(f"'{k}'" for k in known)
            raise DataError(f"--by {name}: {data} has no such column", hint=f"It has {given or 'none'}.")


@dataclass(frozen=True, slots=True)
class _Names:
    names: Sequence[str]
    where: str
    advice: str
    parts: Mapping[str, tuple[int, ...]]

    def find(self, word: str, flag: str) -> int:
        if word in self.names:
            return list(self.names).index(word)
        # macOS and some exports write accents as letters of their own.
        alike = [i for i, name in enumerate(self.names) if normalize("NFC", name) == normalize("NFC", word)]
        if len(alike) == 1:
            return alike[0]
        bare = _without_blanks(word)
        spaced = [i for i, name in enumerate(self.names) if "," in name and _without_blanks(name) == bare]
        if len(spaced) == 1:
            return spaced[0]
        if _is_index(word) and -len(self.names) <= int(word) < len(self.names):
            return int(word) % len(self.names)
        hint = suggest(word, self.names) or self.advice or f"It has {_listed(self.names)}."
        raise DataError(f"{self.where} has no column '{word}' (--{flag})", hint=hint)

    def find_all(self, words: Sequence[str], flag: str) -> tuple[int, ...]:
        found: dict[int, None] = {}
        start = 0
        while start < len(words):
            stop = self._end_of_name(words, start)
            word = ",".join(words[start:stop])
            several = self.parts.get(word, ()) if flag in ("features", "drop") else ()
            found |= dict.fromkeys(several or (self.find(word, flag),))
            start = stop
        return tuple(found)

    def _end_of_name(self, words: Sequence[str], start: int) -> int:
        """The end of the words that make one name: it may hold commas, and the longest such name wins."""
        bare = {_without_blanks(name) for name in self.names if "," in name}
        ends = range(len(words), start + 1, -1) if bare else ()
        return next((stop for stop in ends if _without_blanks(",".join(words[start:stop])) in bare), start + 1)


def _refuse_contradictions(plan: ColumnPlan, asked: Sequence[int], where: str, in_files: int) -> None:
    names = plan.names
    target = None if plan.target is None else names[plan.target]
    if plan.target is not None and plan.target >= in_files:
        raise ConfigError(f"--target '{target}' is part of a path, not a column of {where}")
    if plan.target in plan.features:
        raise ConfigError(f"'{target}' is the target and cannot be a feature too")
    if not plan.features:
        raise DataError(f"{where}: no feature column is left")
    for index in asked:
        if index == plan.target:
            raise ConfigError(
                f"--categorical names the target '{target}'", hint="Leave it out: the target's classes need no flag."
            )
        if index not in plan.features and index not in plan.by:
            raise ConfigError(f"--categorical names '{names[index]}', which is not a feature")


def _no_feature(name: str) -> str:
    return f"'{name}' is a --by column and therefore not a feature; add it to --features to use it as one"


def _index_notes(names: Sequence[str], indices: Sequence[int]) -> list[str]:
    if not indices:
        return []
    listed = ", ".join(f"'{names[i]}'" for i in indices)
    return [f"not used as a feature, because it numbers the rows or has no name: {listed}; --features adds it"]


def _without_blanks(name: str) -> str:
    return ",".join(part.strip() for part in name.split(","))


def _is_index(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", ... ({counted(len(names), 'column')})" if len(names) > 12 else "")
