"""`flctl secagg`: keys, rosters, policies, costs of sessions, verification of transcripts, speed of masking."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.atomic import write_file

if TYPE_CHECKING:
    from flctl_secagg.identity.roster import Roster

__all__ = ["register"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON envelope on stdout.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of keys (aggregator.keys).")]

app = typer.Typer(no_args_is_help=True, help="Secure aggregation: keys, rosters, costs and transcripts.")
keys = typer.Typer(no_args_is_help=True, help="Identity keys of clients and of the operator.")
roster = typer.Typer(no_args_is_help=True, help="Signed list of the participating clients.")
policy = typer.Typer(no_args_is_help=True, help="Policy of clients: conditions under which they take part.")
app.add_typer(keys, name="keys")
app.add_typer(roster, name="roster")
app.add_typer(policy, name="policy")


def register(root: typer.Typer) -> None:
    """Adds the command to flctl's."""
    root.add_typer(app, name="secagg")


@keys.command("init")
def init(
    directory: Directory,
    clients: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Clients to create keys for.")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="Also create the operator's key.")] = False,
    server: Annotated[bool, typer.Option("--server", help="Create the key that signs the server's messages.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Create private keys, readable only by their owner; existing keys are never overwritten."""
    from flctl import ConfigError
    from flctl_secagg.identity.ids import key_file, require_ids
    from flctl_secagg.identity.keys import identity_public, write_private
    from flctl_secagg.storage import CLIENTS, OPERATOR, SERVER

    wanted = list(clients or [])
    if not wanted and not operator and not server:
        raise ConfigError("no client was named", hint="Name clients, or use --operator or --server.")
    require_ids(wanted)
    made = {}
    for client in wanted:
        made[client] = identity_public(write_private(key_file(directory / CLIENTS, client))).hex()
    if operator:
        made["operator"] = identity_public(write_private(directory / "operator.key")).hex()
        write_file(directory / OPERATOR, made["operator"].encode() + b"\n")
    if server:
        made["server"] = identity_public(write_private(directory / SERVER)).hex()
    _tell("secagg keys init", {"directory": str(directory), "public": made}, _lines(made), as_json=as_json)


@keys.command("export")
def export(directory: Directory, as_json: JsonFlag = False) -> None:
    """Print each client's public key, one `ID HEX` per line, for the operator who signs the roster."""
    found = _public_keys(directory)
    _tell("secagg keys export", {"public": found}, _lines(found), as_json=as_json)


@roster.command("sign")
def sign(
    directory: Directory,
    run: Annotated[str, typer.Option("--run", metavar="NAME", help="Name of the run that the roster is for.")],
    public: Annotated[
        Path | None,
        typer.Option(
            "--public", metavar="FILE", help="Public keys, `ID HEX` a line. Default: those of the keys in DIR."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign the roster of a run's clients, with the operator's key in DIR."""
    from flctl import ConfigError
    from flctl_secagg.identity.keys import read_private
    from flctl_secagg.identity.roster import ROSTER, make_roster

    found = _public_keys(directory) if public is None else _listed(public)
    if not run or not found:
        raise ConfigError(
            "a roster needs the name of a run, and at least one client", hint="Use --run NAME, and create keys first."
        )
    made = make_roster(
        run, {client: bytes.fromhex(key) for client, key in found.items()}, read_private(directory / "operator.key")
    )
    made.check()
    write_file(directory / ROSTER, made.text().encode())
    _tell("secagg roster sign", *_described(made), as_json=as_json)


@roster.command("verify")
def check(directory: Directory, as_json: JsonFlag = False) -> None:
    """Check the roster's signature, keys and ids against the operator's key that is pinned in DIR.

    Prints the run and the number of clients; exit code 6 if it is not valid.
    """
    from flctl_secagg.storage import KeysHome

    data, lines = _described(KeysHome(directory).roster())
    valid = f"valid: signed by the operator whose key is pinned in {directory}"
    _tell("secagg roster verify", {"valid": True, **data}, [valid, *lines], as_json=as_json)


@policy.command("init")
def init_policy(directory: Directory, as_json: JsonFlag = False) -> None:
    """Write the policy of the clients in DIR with all keys, descriptions and defaults; never overwrites one."""
    from flctl import ConfigError
    from flctl_secagg.client.policy_file import POLICY, policy_text

    path = directory / POLICY
    if path.exists():
        raise ConfigError(f"{path} exists", hint="Edit it, or move it to another folder.")
    write_file(path, policy_text().encode())
    _tell("secagg policy init", {"path": str(path)}, [str(path)], as_json=as_json)


@policy.command("show")
def show_policy(
    directory: Directory,
    option: Annotated[
        list[str] | None,
        typer.Option("-o", "--option", metavar="KEY=VALUE", help="An option of aggregator.* in the run."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the effective policy of the clients in DIR and the origin of each value; exit code 2 if it is not valid.

    With -o, tightened by a run's options; exit code 3 if the policy refuses them.
    """
    from flctl_secagg.planning.own_policy import effective

    data = effective(directory, _options(option or []))
    width = max(map(len, data))
    lines = [f"{name:{width}}  {one['value']!s:24} {one['origin']}" for name, one in data.items()]
    _tell("secagg policy show", {"policy": data}, lines, as_json=as_json)


@app.command("plan")
def plan(
    clients: Annotated[int, typer.Option("--clients", metavar="N", min=3, help="Clients in a session.")],
    parameters: Annotated[int, typer.Option("--parameters", metavar="N", min=1, help="Parameters of the model.")],
    option: Annotated[
        list[str] | None,
        typer.Option("-o", "--option", metavar="KEY=VALUE", help="An option of aggregator.*, for example bits=20."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the costs of a session before a run: k, t, precision, bytes, seconds, and the dropouts it tolerates."""
    from flctl_secagg.planning.costs import measure, plan_lines
    from flctl_secagg.planning.options import planned

    found = planned(clients, parameters, _options(option or []), measure())
    _tell("secagg plan", dataclasses.asdict(found), plan_lines(found), as_json=as_json)


@app.command("verify")
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or one transcript.")],
    operator: Annotated[
        Path | None,
        typer.Option("--operator", metavar="FILE", help="Public key of the operator, which signed the roster."),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="DIR", help="A client's keys: its memory of the past has to agree.")
    ] = None,
    sessions_only: Annotated[
        bool, typer.Option("--sessions-only", help="Do not compare models with sums; works without the partition.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Replay recorded sessions: check signatures, ids, masks, sums, and the models that follow from the sums.

    The transcripts of a run are one hash chain, compared with its journal,
    metrics, summary, checkpoints and ledger. Only --keys detects that the last
    session was removed from all of them. The model of each checkpoint is
    computed again from the sums, which needs the run's partition.

    Needs a run with aggregator.transcript=true. Exit code 6 if a check fails.
    """
    from flctl import ConfigError
    from flctl_secagg.cli.verdicts import model_lines, session_lines, unchecked_lines
    from flctl_secagg.storage import LEDGER, pinned_operator
    from flctl_secagg.transcripts.models import verify_models
    from flctl_secagg.transcripts.run_verifier import verify_run
    from flctl_secagg.transcripts.verifier import verify as verdict_on

    pinned = None if operator is None else pinned_operator(operator)
    verdicts = (
        [verdict_on(run, pinned)] if run.is_file() else verify_run(run, pinned, None if keys is None else keys / LEDGER)
    )
    if not verdicts:
        raise ConfigError(f"{run} has no transcripts", hint="Train with -o aggregator.transcript=true.")
    models = None if run.is_file() or sessions_only else verify_models(run, verdicts)
    data = {
        "sessions": [dataclasses.asdict(v) for v in verdicts],
        "chain": not run.is_file(),
        "models": None if models is None else dataclasses.asdict(models),
        "operator_pinned": pinned is not None,
    }
    lines = [*session_lines(verdicts), *([] if models is None else model_lines(models))]
    lines += unchecked_lines(chain=not run.is_file(), models=models is not None, pinned=pinned is not None)
    _tell("secagg verify", data, lines, as_json=as_json)


@app.command("bench")
def bench(
    length: Annotated[int, typer.Option("--length", min=1000, help="Words of a vector.")] = 1_000_000,
    streams: Annotated[int, typer.Option("--streams", min=1, help="Number of masks to add.")] = 10,
    as_json: JsonFlag = False,
) -> None:
    """Print the rate of adding masks and this machine's AES rate, on one core."""
    from flctl_secagg.planning.costs import measure

    speed = measure(length, streams)
    lines = [
        f"AES-128-CTR      {speed.aes / 1e9:.2f} GB/s",
        f"masks            {speed.masks / 1e9:.2f} GB/s, {speed.rho:.2f} of it",
        f"encode           {speed.encode * 1e9:.1f} ms for a million values",
        f"agree            {speed.agree * 1e6:.0f} us for a pair",
    ]
    _tell("secagg bench", dataclasses.asdict(speed), lines, as_json=as_json)


def _public_keys(directory: Path) -> dict[str, str]:
    from flctl_secagg.identity.keys import identity_public, read_private
    from flctl_secagg.storage import CLIENTS

    paths = sorted((directory / CLIENTS).glob("*.key"))
    return {path.name.removesuffix(".key"): identity_public(read_private(path)).hex() for path in paths}


def _listed(path: Path) -> dict[str, str]:
    from flctl import ConfigError

    found: dict[str, str] = {}
    try:
        lines = [line.rpartition(" ") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for client, _, key in lines:
            if not client or client in found or len(bytes.fromhex(key)) != 32:
                raise ValueError(f"the line of '{client}'")
            found[client] = key
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a list of public keys: {error}", hint="Write ID HEX on each line.") from error
    return found


def _options(pairs: Sequence[str]) -> dict[str, str]:
    from flctl import ConfigError

    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"-o {pair} is not KEY=VALUE", hint="Write for example -o bits=20.")
    return {key.removeprefix("aggregator."): value for key, _, value in (pair.partition("=") for pair in pairs)}


def _described(made: Roster) -> tuple[dict[str, Any], list[str]]:
    data = {"run": made.run, "clients": len(made.keys), "operator": made.operator.hex(), "digest": made.digest.hex()}
    return data, [f"{name:9} {value}" for name, value in data.items()]


def _lines(found: Mapping[str, str]) -> list[str]:
    return [f"{client} {key}" for client, key in found.items()]


def _tell(command: str, data: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Prints the result on stdout, in flctl's JSON envelope or as lines."""
    text = json.dumps({"flctl": 1, "command": command, "ok": True, "data": data}) if as_json else "\n".join(lines)
    typer.echo(text)
