"""The reader of JSON files: missing, large, damaged and foreign files are refused, each with what to do."""

import pytest

from flctl import IncompatibleError, IntegrityError
from flctl.json_files import JsonFormat

KIND = JsonFormat("flctl-test/2", "Restore it.", limit=64)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "x.json is damaged: not JSON"),
        (b"\xff", "x.json is damaged: not JSON"),
        (b"[" * 60, "x.json is damaged: not JSON"),
        (b'{"format": "flctl-test/2", "a": 1, "a": 2}', r"not JSON \(a key is there twice\)"),
        (b"[]", "x.json is damaged: not a JSON object"),
        (b"{}", "'format' is not 'flctl-test/2'"),
        (b'{"format": "flctl-other/2"}', "'format' is not 'flctl-test/2'"),
        (b'{"format": 2}', "'format' is not 'flctl-test/2'"),
        (b" " * 65, "x.json is too large: at most 64 bytes"),
    ],
)
def test_damage_is_an_integrity_error_with_the_hint_of_the_kind(data, said):
    with pytest.raises(IntegrityError, match=said) as caught:
        KIND.parse(data, "x.json")
    assert caught.value.hint == "Restore it."


@pytest.mark.parametrize("version", [1, 3, 999])
def test_another_version_is_named_and_is_no_damage(version):
    with pytest.raises(IncompatibleError, match=f"format 'flctl-test/{version}'; this version of flctl"):
        KIND.parse(b'{"format": "flctl-test/%d"}' % version, "x.json")


def test_a_file_is_read_up_to_the_limit_and_named_by_its_path(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(IntegrityError, match=r"x\.json is missing"):
        KIND.read(path)
    path.write_bytes(b'{"format": "flctl-test/2", "n": 1}')
    assert KIND.read(path) == {"format": "flctl-test/2", "n": 1}
    path.write_bytes(path.read_bytes() + b" " * 64)
    with pytest.raises(IntegrityError, match="at most 64 bytes are read"):
        KIND.read(path)


def test_a_kind_without_a_version_takes_any_object():
    assert JsonFormat(None, "").parse(b'{"format": "any"}', "x") == {"format": "any"}
