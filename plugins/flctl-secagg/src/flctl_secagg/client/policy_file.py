"""Client's own policy, a TOML file in the directory of its keys. A run's options can only tighten it."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flctl import ConfigError
from flctl_secagg.client.local_bounds import MOST_CLASS_RATIO, LocalBounds
from flctl_secagg.client.policy import FLOOR, Differing, Policy
from flctl_secagg.crypto.masks import Ciphers
from flctl_secagg.encoding.packing import WIDTHS
from flctl_secagg.protocol.degrees import Mode

__all__ = ["POLICY", "OwnPolicy", "policy_text", "read_policy"]

POLICY = "policy.toml"
_MOST_BYTES = 1 << 16
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Range = tuple[float, float]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
                raise ValueError(f"{name} is [{value[0]:g}, {value[1]:g}], expected the smaller value first")
        return self


class _Local(_Section):
    lr: Range = Field((1e-6, 10.0), description="Smallest and largest learning rate.")
    batch_size: Range = Field((0, 1 << 20), description="Smallest and largest number of rows per step; 0: all rows.")
    epochs: Range = Field((1, 1000), description="Smallest and largest number of epochs.")
    steps: Range = Field((1, 1_000_000), description="Smallest and largest number of steps, if `steps` is set.")
    weight_decay: float = Field(1.0, ge=0, description="Largest weight decay.")
    drop_last: bool = Field(False, description="Allow `drop_last`, which leaves out incomplete batches.")
    class_weights: float = Field(
        MOST_CLASS_RATIO, ge=1, le=MOST_CLASS_RATIO, description="Largest ratio of two class weights; 1: no weights."
    )

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        for name in ("epochs", "steps"):
            if getattr(self, name)[0] < 1:
                raise ValueError(f"{name} begin at {getattr(self, name)[0]:g}, expected at least 1 step")
        return self


class _File(_Section):
    mode: Mode = Field(
        "hbc", description="active: refuse sessions in hbc mode, which trust the server to follow the protocol."
    )
    minimum: int = Field(5, ge=FLOOR, description="Minimum number of clients in a sum.")
    threshold: int = Field(2, ge=2, description="Minimum number of shares that recover a secret.")
    corrupt: float = Field(0.1, ge=0, lt=0.5, description="Fraction of clients that may collude with the server.")
    dropped: float = Field(0.1, ge=0, lt=0.5, description="Fraction of clients that may drop out of a session.")
    clip_floor: float = Field(1e-3, gt=0, description="Smallest clipping bound of a coordinate.")
    clip: float = Field(1e3, gt=0, description="Largest clipping bound of a coordinate.")
    clipped: float = Field(0.05, ge=0, lt=0.5, description="Largest fraction of coordinates that may reach the bound.")
    bits: tuple[int, ...] = Field(WIDTHS, min_length=1, description="Accepted word sizes.")
    ciphers: tuple[Ciphers, ...] = Field(("aes-128-ctr", "aes-256-ctr"), min_length=1, description="Accepted ciphers.")
    max_weight: float = Field(1024.0, gt=0, description="Largest weight; 1: equal weights.")
    rounds: int = Field(1_000_000, ge=1, description="Last round in which the client takes part.")
    differing: Differing = Field(
        "warn", description="refuse: open no shares for survivor lists that reveal one client's update."
    )
    session_seconds: float = Field(86_400.0, gt=0, description="Seconds after which a session expires.")
    run: str = Field("", description="Name of the run that the roster is for; empty: any run.")
    operator: Hex | Literal[""] = Field("", description="Operator's public key; empty: the key in operator.pub.")
    server: Hex | Literal[""] = Field("", description="Public key that signs the server's messages; empty: any.")
    accept_zeros: bool = Field(
        False, description="Allow an update of zero: under differential privacy, a diverged client sends zeros."
    )
    local: _Local = Field(_Local.model_validate({}), description="Bounds of local training.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.clip < self.clip_floor:
            raise ValueError(f"clip is {self.clip:g}, below clip_floor {self.clip_floor:g}")
        if unknown := sorted(set(self.bits) - set(WIDTHS)):
            raise ValueError(f"bits has {unknown[0]}, expected some of {', '.join(map(str, WIDTHS))}")
        return self


@dataclass(frozen=True, slots=True)
class OwnPolicy:
    """A client's policy, and the operator's public key that it pins (None: the one in `operator.pub`).

    `origins` gives the origin of each key's value: the file's name, or "default".
    """

    policy: Policy
    operator: bytes | None
    origins: Mapping[str, str]


def read_policy(path: Path) -> OwnPolicy:
    """Reads a policy from a file; the defaults if the file does not exist. Raises ConfigError, which names the key, the
    value found and the expected one, if the file is not a valid policy."""
    found = _File.model_validate({}) if not path.exists() else _validated(path)
    plain = found.model_dump(exclude={"local", "operator", "run"})
    policy = Policy(**plain, run=found.run or None, local=LocalBounds(**found.local.model_dump()))
    operator = bytes.fromhex(found.operator) if found.operator else None
    return OwnPolicy(policy, operator, dict(_origins(found, path.name)))


def policy_text(values: Mapping[str, Any] | None = None) -> str:
    """Returns the text of a policy file: every key, its description, and its value in `values` or its default."""
    found = _File.model_validate(values or {})
    lines = ["# Conditions under which this client takes part. A run's options can only tighten them.", ""]
    lines += _described(found, leave_out="local")
    return "\n".join([*lines, "", "[local]", *_described(found.local)]) + "\n"


def _validated(path: Path) -> _File:
    hint = f"Move it away, and write a new one: flctl secagg policy init {shlex.quote(str(path.parent))}"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than {_MOST_BYTES} bytes", hint=hint)
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return _File.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc'])) or 'policy'}: {one['msg']}" for one in error.errors()]
        raise ConfigError(f"{path}: {'; '.join(problems)}", hint=f"{hint}, which has every key.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a policy: {error}", hint=hint) from error


def _origins(found: _File, name: str) -> list[tuple[str, str]]:
    sections = ((found, ""), (found.local, "local."))
    return [
        (prefix + key, name if key in section.model_fields_set else "default")
        for section, prefix in sections
        for key in type(section).model_fields
        if key != "local"
    ]


def _described(section: _Section, leave_out: str = "") -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        if name != leave_out:
            lines += [f"# {field.description}", f"{name} = {_toml(getattr(section, name))}"]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
