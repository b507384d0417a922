"""The section `attack:` of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flctl.config.sections.section import Reasons, Section, without

__all__ = ["AttackConfig", "AttackName"]

AttackName = Literal["none", "label-flip", "sign-flip", "gaussian", "alie", "ipm", "min-max", "backdoor"]
OWN = {
    "sign-flip": ("factor",),
    "gaussian": ("std",),
    "alie": ("knows", "z"),
    "ipm": ("knows", "epsilon"),
    "min-max": ("knows", "direction"),
    "backdoor": ("target", "trigger", "poisoned", "boost"),
}
"""The keys that belong to each attack alone."""


class AttackConfig(Section):
    """Simulated malicious clients."""

    name: AttackName = Field(default="none", description="The attack that malicious clients carry out.")
    fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Fraction of the clients with training rows that are malicious."
    )
    clients: int | None = Field(default=None, ge=1, description="Number of malicious clients, instead of a fraction.")
    since: int = Field(default=1, ge=1, description="First round in which they attack.")
    knows: Literal["honest", "own"] = Field(
        default="honest",
        description="alie, ipm, min-max: updates that malicious clients know: those of the round's honest clients, "
        "or their own honest ones (own).",
    )
    factor: float = Field(
        default=4.0, gt=0, description="sign-flip: malicious clients send minus this times their update."
    )
    std: float = Field(
        default=1.0, gt=0, description="gaussian: standard deviation of the noise sent instead of an update."
    )
    z: float | None = Field(
        default=None,
        gt=0,
        description="alie: standard deviations from the mean; null: the paper's undetected maximum.",
    )
    epsilon: float = Field(
        default=0.1,
        gt=0,
        description="ipm: malicious clients send minus epsilon times the mean of the updates that they know.",
    )
    direction: Literal["std", "sign", "unit"] = Field(
        default="std",
        description="min-max: direction of the perturbation: minus the std, the sign of the mean, or the unit mean.",
    )
    target: int = Field(default=0, ge=0, description="backdoor: class that rows with the trigger should be assigned.")
    trigger: int = Field(
        default=3,
        ge=1,
        description="backdoor: side of the trigger, a square in an image's last corner; or number of last features.",
    )
    poisoned: float = Field(
        default=0.5, gt=0, le=1, description="backdoor: fraction of their rows that get the trigger."
    )
    boost: float | None = Field(
        default=None, gt=0, description="backdoor: factor on updates; null: large enough to replace the model."
    )

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        if self.name == "none":
            return without(tuple(key for key in type(self).model_fields if key != "name"), "with attack none")
        others = {key for keys in OWN.values() for key in keys} - set(OWN.get(self.name, ()))
        share = without(("fraction",), f"with clients {self.clients}") if self.clients else {}
        return {**without(tuple(sorted(others)), f"with attack {self.name}"), **share}
