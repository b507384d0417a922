"""YAML is read strictly, with places, and within limits; what is written is read back."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flctl.config import yaml_reader, yaml_writer
from flctl.config.problems import Source, refuse
from flctl.config.yaml_reader import parse, plain, read_source
from flctl.errors import ConfigError


def read(text: str):
    node, problems = parse(Source("x.yaml", text, is_file=True))
    assert problems == []
    return plain(node)


def refused(text: str) -> str:
    """The whole message for a text that is refused."""
    with pytest.raises(ConfigError) as caught:
        parse_or_refuse(text)
    return caught.value.message


def parse_or_refuse(text: str) -> None:
    _, problems = parse(Source("x.yaml", text, is_file=True))
    if problems:
        raise refuse(problems)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2", -2),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2020-01-01", "2020-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("nan", "nan"),
        ("1e5x", "1e5x"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text, value):
    found = read(f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_read_as_nan():
    assert math.isnan(read("a: .nan")["a"])


def test_a_number_of_absurd_length_is_text():
    assert isinstance(read("a: " + "9" * 5000)["a"], str)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\n\n", "\ufeff"])
def test_an_empty_document_is_null(text, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    assert plain(parse(read_source(file))[0]) is None


def test_places_are_those_of_keys_and_values():
    node, _ = parse(Source("x.yaml", "a:\n  bc: [10, x]\n", is_file=True))
    entry = node.value["a"].node.value["bc"]
    assert (entry.key.line, entry.key.column, entry.key.width) == (1, 2, 2)
    first, second = entry.node.value
    assert first.place.where == "x.yaml:2:8"
    assert second.place.where == "x.yaml:2:12"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1: duplicate key 'a', first at x.yaml:1:1\n  3 | a: 3\n    | ^"),
        ("a:\n  b: 1\n  'b': 2", "x.yaml:3:3: duplicate key 'b', first at x.yaml:2:3\n  3 |   'b': 2\n    |   ^^^"),
        ("a: {b: 1, b: 2}", "x.yaml:1:11: duplicate key 'b', first at x.yaml:1:5"),
        ("a: !!int 3", "x.yaml:1:4: the tag !!int is not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not allowed"),
        ("a: ! 3", "the tag ! is not allowed"),
        ("a:\n\tb: 1", "x.yaml:2:1: a tab where YAML wants spaces. Indent with spaces."),
        ("a: b: c", "x.yaml:1:5: a ':' that cannot stand here."),
        ("a: [1,\n", "x.yaml:2:1: "),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: a second document in one file."),
        ("a: *b", "x.yaml:1:4: found undefined alias 'b'"),
        ("? [x]\n: 1\n", "x.yaml:1:3: a key must be a single word, not a list or mapping"),
        ("b: &b {c: 1}\na:\n  <<: *b\n", "x.yaml:3:3: merge keys (<<) are not allowed. Write the keys out."),
        ('a: "\\ud800"', "x.yaml:1:4: an escape is half of a surrogate pair"),
        ("a: 1\nb: \x07x", "x.yaml:2:4: the character U+0007 cannot stand in YAML"),
        ("a: 'x\n", "x.yaml:2:1: found unexpected end of stream"),
        ("日本: 1\n日本: 2", "x.yaml:2:1: duplicate key '日本', first at x.yaml:1:1\n  2 | 日本: 2\n    | ^^^^"),
    ],
)
def test_what_is_refused_is_named_with_its_place(text, message):
    assert message in refused(text)


def test_all_duplicates_are_told_at_once():
    message = refused("a: 1\na: 2\nb: 1\nb: 2\n")
    assert message.startswith("2 problems\n")
    assert "x.yaml:2:1: duplicate key 'a'" in message
    assert "x.yaml:4:1: duplicate key 'b'" in message


def test_the_caret_stays_under_the_place_in_a_long_line():
    message = refused("a: {" + ", ".join(f"k{i}: 1" for i in range(100)) + ", k7: 2}")
    _, line, caret = message.splitlines()
    start = caret.index("^")
    assert line[start : start + 2] == "k7"
    assert len(line) < 120


def test_aliases_work():
    assert read("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


def test_an_alias_bomb_is_refused_before_it_grows():
    levels = "abcdefghij"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(levels)
    )
    assert "aliases expand to more than a configuration can hold" in refused(bomb)


def test_an_alias_to_its_own_list_is_refused():
    assert "aliases expand" in refused("a: &a [*a]")


@pytest.mark.parametrize("text", ["[" * 500_000, "{a: " * 200_000, "- " * 400_000, "? " * 400_000])
def test_deep_nesting_is_refused(text):
    assert f"nested deeper than {yaml_reader.MAX_DEPTH} levels" in refused(text)


def test_too_many_values_are_refused():
    assert "more than 10000 values" in refused("".join(f"k{i}: 1\n" for i in range(6_000)))


def test_a_file_above_one_mebibyte_is_refused_unread(tmp_path):
    file = tmp_path / "big.yaml"
    file.write_bytes(b"#" * (yaml_reader.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_source(file)
    file.write_bytes(b"#" * yaml_reader.MAX_BYTES)
    assert len(read_source(file).text) == yaml_reader.MAX_BYTES


def test_a_file_that_is_not_utf_8_is_refused_with_its_first_bad_byte(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"not UTF-8: byte 3 is 0xe9"):
        read_source(file)


@pytest.mark.parametrize(("name", "words"), [("none.yaml", "does not exist"), (".", "is not a file")])
def test_a_missing_file_is_named(tmp_path, name, words):
    with pytest.raises(ConfigError, match=words):
        read_source(tmp_path / name)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_written_is_read_back(tree):
    found = read(yaml_writer.write(tree))
    assert found == (tree or {})
    assert _types(found) == _types(tree)


def _types(value):
    """Types too, because 1 == 1.0 == True."""
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    return [_types(item) for item in value] if isinstance(value, list) else type(value)


def told(text: str) -> str:
    try:
        parse(Source("x.yaml", text, is_file=True))
    except ConfigError as error:
        return error.message
    return "no problem"


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from("ab:- \n\t[]{}'\"#&*!|>%?,~<0.1eUx\\\x85"), max_size=40))
@example('a: "\\UFFFFFFFF"')
@example("%YAML 1.99999\n---\na")
@example("%TAG ! tag:x,1\n---\n!a b")
def test_any_text_is_read_or_refused_with_a_place(text):
    """No exception but ConfigError, and always a place inside the file."""
    assert re.match(r"x\.yaml:\d+:\d+: |no problem", told(text))


def test_comments_stand_in_a_column_and_do_not_change_the_values():
    text = yaml_writer.write({"a": 1, "section": {"key": "word"}}, lambda path: ".".join(path))
    assert text == "a: 1         # a\nsection:\n  key: word  # section.key\n"
    assert read(text) == {"a": 1, "section": {"key": "word"}}


def test_small_numbers_are_numbers_for_yaml_1_1_readers_too():
    assert yaml_writer.write({"eps": 1e-08}) == "eps: 1.0e-08\n"
