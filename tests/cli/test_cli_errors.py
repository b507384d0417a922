"""How commands end: exit codes, sentences on stderr, one JSON envelope, signals, pipes, and what `--help` imports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Annotated

import pytest
import typer

import flctl.cli
from flctl import errors
from flctl.cli.arguments import take_disabled
from flctl.cli.failures import Terminated
from flctl.cli.output import JsonFlag, emit
from flctl.errors import ConfigError

RAISED: dict[str, BaseException] = {}


def _raise(name: str, as_json: JsonFlag = False) -> None:
    secret_row = "a patient's row"
    if secret_row:
        raise RAISED[name]


def _add(
    numbers: Annotated[list[int], typer.Argument()],
    local_epochs: Annotated[int, typer.Option("--local-epochs")] = 1,
    as_json: JsonFlag = False,
) -> int:
    emit("add", {"sum": sum(numbers)}, as_json=as_json, render=lambda console: console.print(str(sum(numbers))))
    return 7


def _app() -> typer.Typer:
    app = typer.Typer(name="flctl", no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(flctl.cli._root)
    app.command("raise")(_raise)
    app.command("add")(_add)
    group = typer.Typer(no_args_is_help=True)
    group.command("show")(_add)
    group.command("fail")(_raise)
    app.add_typer(group, name="config")
    return app


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command line on a small application: (exit code, stdout, stderr)."""
    monkeypatch.setattr(flctl.cli, "build", lambda disabled: _app())
    monkeypatch.delenv("FLCTL_DEBUG", raising=False)

    def call(*arguments):
        code = flctl.cli.run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def raising(run):
    """Runs a command that raises `error`."""

    def call(error, *arguments):
        RAISED["it"] = error
        return run("raise", "it", *arguments)

    return call


ERRORS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
EXIT_CODES = {
    "ConfigError": 2, "DataError": 2, "PluginError": 2, "IncompatibleError": 3, "ProtocolError": 3, "RoundLostError": 3,
    "PrivacyBudgetError": 4, "MissingExtraError": 5, "IntegrityError": 6,
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_a_sentence_a_hint_and_its_exit_code(raising, kind):
    code, out, err = raising(kind("found 3 [bold]apples[/]", hint="Buy [two] more."))
    assert code == EXIT_CODES.get(kind.__name__, 1)
    assert out == ""
    assert err == "error: found 3 [bold]apples[/]\nhint: Buy [two] more.\n"


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_an_envelope_with_json(raising, kind):
    code, out, err = raising(kind("found 3", hint="Buy."), "--json")
    assert json.loads(out) == {
        "flctl": 1,
        "command": "raise",
        "ok": False,
        "error": {"kind": kind("").kind, "message": "found 3", "hint": "Buy.", "exit_code": code},
    }
    assert err == ""


def test_the_envelope_names_the_subcommand(run):
    RAISED["it"] = ConfigError("no")
    assert json.loads(run("config", "fail", "it", "--json")[1])["command"] == "config fail"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["ad"], "no such command 'ad'", "Did you mean add?"),
        (["zzz"], "no such command 'zzz'", "`flctl --help` shows how to call it."),
        (["config", "shw"], "no such command 'shw'", "Did you mean show?"),
        (["add", "1", "--local-epoch", "3"], "no such option --local-epoch", "Did you mean --local-epochs?"),
        (["add", "1", "--bogus"], "no such option --bogus", "`flctl add --help` shows how to call it."),
        (["--vrsion"], "no such option --vrsion", "Did you mean --version?"),
        (["add"], "Missing argument", "`flctl add --help` shows how to call it."),
        (["add", "x"], "Invalid value for", "`flctl add --help` shows how to call it."),
        (["raise", "x", "y"], "unexpected extra argument", "`flctl raise --help` shows how to call it."),
        (["add", "1", "--local-epochs"], "'--local-epochs' requires an argument", None),
        (["--disable-plugin"], "--disable-plugin needs a name", "`flctl plugins list` shows the names."),
        (["add", "1", "--out", ""], "--out is empty; expected a path", "Write --out PATH, or leave --out out."),
        (["add", "1", "--csv="], "--csv is empty; expected a path", "Write --csv PATH, or leave --csv out."),
    ],
)
def test_a_command_line_that_cannot_be_parsed_exits_with_2(run, arguments, message, hint):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert hint is None or f"hint: {hint}\n" in err


@pytest.mark.parametrize("arguments", [["ad"], ["add"], ["add", "x"], ["--vrsion"], ["--disable-plugin"]])
def test_a_usage_error_is_an_envelope_with_json(run, arguments):
    code, out, err = run(*arguments, "--json")
    told = json.loads(out)
    assert (code, err, told["ok"], told["error"]["exit_code"]) == (2, "", False, 2)
    assert told["error"]["kind"] == ("config" if arguments == ["--disable-plugin"] else "usage")


def test_a_word_after_two_dashes_is_no_flag(run):
    code, out, err = run("raise", "it", "--", "--json")
    assert (code, out) == (2, "")
    assert "unexpected extra argument" in err


@pytest.mark.parametrize(
    ("error", "code"), [(typer.Exit(), 0), (typer.Exit(3), 3), (SystemExit(4), 4), (SystemExit(), 0)]
)
def test_an_exit_is_quiet(raising, error, code):
    assert raising(error) == (code, "", "")


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (KeyboardInterrupt(), 130, "interruption"),
        (Terminated(), 143, "termination"),
        (typer.Abort(), 1, "flctl"),
        (EOFError(), 1, "flctl"),
        (MemoryError(), 1, "flctl"),
        (OSError(28, "No space left on device", "runs/x"), 1, "storage"),
        (PermissionError(13, "Permission denied", "runs/x"), 1, "storage"),
        (ValueError("3 is odd\nand more"), 1, "bug"),
        (OSError("without a number"), 1, "bug"),
    ],
)
def test_foreseen_and_unforeseen_ends(raising, error, code, kind):
    assert raising(error)[0] == code
    again, out, err = raising(error, "--json")
    told = json.loads(out)
    assert (again, told["error"]["kind"], told["error"]["exit_code"], err) == (code, kind, code, "")


def test_a_full_disk_is_named_with_its_path(raising):
    err = raising(OSError(28, "No space left on device", "runs/x"))[2]
    assert err == "error: No space left on device (runs/x)\nhint: Check the path, its permissions and the free space.\n"


def test_an_unforeseen_error_is_one_line_that_says_bug(raising):
    err = raising(ValueError("3 is odd\nand more"))[2]
    assert err.splitlines() == [
        "error: ValueError: 3 is odd",
        "hint: This is a bug in flctl or in a plugin; run it again with FLCTL_DEBUG=1 to see where.",
    ]


def test_the_traceback_is_shown_on_request_and_without_locals(raising, monkeypatch):
    monkeypatch.setenv("FLCTL_DEBUG", "1")
    code, _, err = raising(ValueError("3 is odd"))
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert "in _raise" in err
    assert "a patient's row" not in err


def test_what_a_command_returns_is_no_exit_code(run):
    assert run("add", "1", "2") == (0, "3\n", "")


def test_without_arguments_help_is_printed(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "Usage: flctl" in out
    code, out, err = run("config")
    assert (code, err) == (0, "")
    assert "Usage: flctl config" in out


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"flctl {flctl.__version__}\n", "")


def test_the_package_can_be_run_as_a_module():
    done = subprocess.run([sys.executable, "-m", "flctl", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"flctl {flctl.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "disabled", "rest"),
    [
        (["train", "x"], (), ["train", "x"]),
        (["--disable-plugin", "a", "train"], ("a",), ["train"]),
        (["train", "--disable-plugin=a", "x", "--disable-plugin", "b"], ("a", "b"), ["train", "x"]),
        (["train", "--", "--disable-plugin", "a"], (), ["train", "--", "--disable-plugin", "a"]),
        (["--disable-plugin-x", "a"], (), ["--disable-plugin-x", "a"]),
        ([], (), []),
    ],
)
def test_plugins_are_disabled_anywhere_before_two_dashes(arguments, disabled, rest):
    assert take_disabled(arguments) == (disabled, rest)


@pytest.mark.parametrize("arguments", [["--disable-plugin"], ["--disable-plugin="], ["--disable-plugin", "--json"]])
def test_a_plugin_to_disable_needs_a_name(arguments):
    with pytest.raises(ConfigError, match="needs a name"):
        take_disabled(arguments)


def test_disabling_a_plugin_that_is_not_there_is_an_error():
    done = flctl_process("--disable-plugin", "no-such-plugin", "--help")
    assert done.returncode == 2
    assert "there is no plugin 'no-such-plugin' to disable" in done.stderr


def test_a_command_starts_without_reading_the_parameters_of_the_others(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    read, real = [], typer.main.get_params_from_function
    monkeypatch.setattr(typer.main, "get_params_from_function", lambda f: read.append(f.__name__) or real(f))
    assert flctl.cli.run(["config", "schema"]) == 0
    assert "schema" in read
    assert {"with_signature", "evaluate", "list_runs", "audit"}.isdisjoint(read)
    read.clear()
    assert flctl.cli.run(["--help"]) == 0
    assert {"with_signature", "evaluate"} <= set(read)


# --- whole processes -----------------------------------------------------------------------------------------------


def flctl_process(*arguments, **options):
    code = "from flctl.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


WAITING = """
import time, typer, flctl.cli
def nap(as_json: bool = typer.Option(False, "--json")):
    print("ready", flush=True)
    time.sleep(600)
def build(disabled):
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command()(nap)
    return app
flctl.cli.build = build
flctl.cli.main()
"""


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_a_command_with_its_exit_code(number, code, word):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "nap"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate()
    assert (process.returncode, err) == (code, f"error: {word}\n")


SECOND = """
import signal, flctl.cli
def interrupted(*arguments):
    raise KeyboardInterrupt
flctl.cli._invoke = flctl.cli._tell = interrupted
flctl.cli.main()
"""
DURING_IMPORT = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from flctl.__main__ import main
main()
"""


@pytest.mark.parametrize("program", [SECOND, DURING_IMPORT], ids=["second", "during-import"])
def test_ctrl_c_prints_no_traceback_while_flctl_is_imported_or_reports_the_first(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


PRINTING = """
import typer, flctl.cli
def build(disabled):
    app = typer.Typer()
    app.callback()(lambda: None)
    @app.command()
    def say():
        for _ in range(100_000):
            print("a line of output")
    return app
flctl.cli.build = build
flctl.cli.main()
"""


def test_a_reader_that_goes_away_ends_the_command_quietly():
    process = subprocess.Popen([sys.executable, "-c", PRINTING, "say"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_a_failure():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTING, "say"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


HELP = """
import sys
from flctl.cli import run
code = run(["--help"])
print(code, [name for name in ("torch", "numpy", "pydantic", "yaml", "sklearn", "matplotlib") if name in sys.modules])
"""


def test_help_imports_nothing_heavy_and_lists_the_commands():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "0 []"
    listed = re.findall(r"^\W? ([a-z]+)  ", done.stdout, re.MULTILINE)
    assert tuple(listed[: len(flctl.cli.ORDER)]) == flctl.cli.ORDER


@pytest.mark.parametrize(("words", "expected"), [("flctl con", ["config"]), ("flctl config s", ["show", "schema"])])
def test_the_shell_completes_commands(words, expected):
    environment = {
        **os.environ,
        "_FLCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = flctl_process(env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == set(expected)


def test_the_completion_script_is_printed():
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = flctl_process("--show-completion", "bash", env=environment)
    assert done.returncode == 0
    assert "_FLCTL_COMPLETE=complete_bash" in done.stdout


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_closed_stream_is_no_error(stream, tmp_path):
    """`flctl ... >&-`: the caller wants no output, and gets an exit code."""
    command = f'"{sys.executable}" -m flctl runs list {stream}>&-'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (0, False)


def test_letters_that_the_terminal_lacks_are_escaped(tmp_path):
    (tmp_path / "runs").mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "flctl", "runs", "show", "caf\u00e9"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "caf\\xe9" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("runs list nope", "nope is not a folder", "Name the folder that holds run directories."),
        ("simulate", "no such command 'simulate'", "`flctl --help` shows how to call it."),
        ("trian", "no such command 'trian'", "Did you mean train?"),
        (
            "train d --local-epochs x",
            "Invalid value for '--local-epochs': expected a whole number",
            "flctl train --help",
        ),
        ("partition iris --seed -4 --out x", "--seed -4: expected at least 0", ""),
    ],
)
def test_a_mistake_is_answered_in_plain_words(words, message, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert flctl.cli.run([*words.split(), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert message in error["message"]
    assert hint in str(error["hint"])
