"""User code by its SHA-256: the worker runs the bytes that were hashed, whatever happens on the disk meanwhile."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support import make_run

from flctl.engines.opening import Opening
from flctl.errors import ConfigError, PluginError
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.user_code import MOST_CODE, CodeStore, code_facts, difference
from flctl.plugins.approved_code import approved_module, load_code

CODE = b"import torch\n\n\ndef net(data, width=8):\n    return torch.nn.Linear(data.shape[0], data.outputs)\n"
SHA = hashlib.sha256(CODE).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    return CodeStore(tmp_path / "quarantine", tmp_path / "approved")


def reason_of(store: CodeStore, digest: str) -> Reason:
    with pytest.raises(Refused) as refused:
        store.load(digest)
    return refused.value.reason


def test_code_in_quarantine_is_not_loaded_before_it_is_approved(store: CodeStore) -> None:
    assert store.receive(CODE) == SHA
    assert reason_of(store, SHA) == Reason.CODE_NOT_APPROVED
    store.approve(SHA)
    assert store.load(SHA) == CODE
    assert store.intact() == {SHA}


def test_code_that_was_changed_in_quarantine_is_not_approved(store: CodeStore) -> None:
    store.receive(CODE)
    (store.quarantine / f"{SHA}.py").write_bytes(CODE + b"\n")
    with pytest.raises(Refused) as refused:
        store.approve(SHA)
    assert refused.value.reason == Reason.CODE_CHANGED
    assert not store.approved.exists()


def test_code_that_was_changed_after_its_approval_is_refused(store: CodeStore) -> None:
    store.receive(CODE)
    store.approve(SHA)
    (store.approved / f"{SHA}.py").write_bytes(CODE.replace(b"8", b"9"))
    assert reason_of(store, SHA) == Reason.CODE_CHANGED
    assert store.intact() == frozenset()


def test_code_that_never_arrived_is_an_error_with_the_command_that_adds_it(store: CodeStore) -> None:
    with pytest.raises(ConfigError) as error:
        store.approve(SHA)
    assert "--code FILE" in str(error.value.hint)


def test_a_large_file_is_refused(store: CodeStore) -> None:
    with pytest.raises(Refused) as refused:
        store.receive(b"#" * (MOST_CODE + 1))
    assert refused.value.reason == Reason.BLOB_SIZE


def test_a_file_that_changes_between_hash_and_import_has_no_effect(store: CodeStore) -> None:
    store.receive(CODE)
    store.approve(SHA)
    source = store.load(SHA)
    file = store.approved / f"{SHA}.py"
    file.write_bytes(b"raise SystemExit('another file')\n")
    opened = Opening.read(b"".join(map(bytes, Opening({}, file, file, code=(source,)).message())))
    assert opened.code == (CODE,)
    assert load_code(opened.code[0]) == SHA
    assert approved_module(SHA).net.__code__.co_filename == f"approved/{SHA}.py"


def test_approved_code_makes_the_model_of_a_run_and_code_that_is_not_there_none(toy, tmp_path) -> None:
    load_code(CODE)
    run, _ = make_run(toy, tmp_path / "run", f"model=approved:{SHA}:net", "engine.alone=true")
    assert run.build_model().layout["params"] == 4 * 3 + 3
    with pytest.raises(PluginError, match="not in this process"):
        make_run(toy, tmp_path / "other", f"model=approved:{'0' * 64}:net")


def test_code_that_fails_to_load_leaves_no_module_and_no_text_of_its_exception() -> None:
    source = b"raise ValueError('row 7: 42')\n"
    for _ in range(2):
        with pytest.raises(PluginError) as error:
            load_code(source)
        assert "row 7" not in error.value.message


def test_the_reader_sees_imports_calls_and_what_differs() -> None:
    facts = code_facts(b"import os, socket\nfrom .x import y\n\ndef f():\n    return eval(open('x').read())\n")
    assert facts.imports == (".x", "os", "socket")
    assert facts.calls == ((5, "eval"), (5, "open"))
    assert difference(b"a\nb\n", b"a\nc\n")[-2:] == ["-b", "+c"]
    with pytest.raises(ConfigError):
        code_facts(b"def (")
