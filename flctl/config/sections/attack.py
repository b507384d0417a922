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
"""The keys that each attack has for itself."""


class AttackConfig(Section):
    """Malicious clients, simulated."""

    name: AttackName = Field(default="none", description="What malicious clients do.")
    fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the clients with training rows that are malicious."
    )
    clients: int | None = Field(default=None, ge=1, description="How many clients are malicious, instead of a share.")
    since: int = Field(default=1, ge=1, description="First round in which they attack.")
    knows: Literal["honest", "own"] = Field(
        default="honest",
        description="alie, ipm, min-max: the updates that malicious clients know, those of the round's honest clients, "
        "or those that they themselves would have sent (own).",
    )
    factor: float = Field(default=4.0, gt=0, description="sign-flip: an update is sent times minus this.")
    std: float = Field(default=1.0, gt=0, description="gaussian: standard deviation of what is sent instead.")
    z: float | None = Field(
        default=None, gt=0, description="alie: deviations from the mean; null: as many as the paper finds unseen."
    )
    epsilon: float = Field(default=0.1, gt=0, description="ipm: the mean of what they know is sent times minus this.")
    direction: Literal["std", "sign", "unit"] = Field(
        default="std", description="min-max: away from the mean, against its deviation, its sign or itself."
    )
    target: int = Field(default=0, ge=0, description="backdoor: the class that rows with the trigger are to have.")
    trigger: int = Field(
        default=3,
        ge=1,
        description="backdoor: side of the trigger, a square in an image's last corner; or number of last features.",
    )
    poisoned: float = Field(default=0.5, gt=0, le=1, description="backdoor: share of their rows with the trigger.")
    boost: float | None = Field(
        default=None, gt=0, description="backdoor: what updates are multiplied by; null: as to replace the model."
    )

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        if self.name == "none":
            return without(tuple(key for key in type(self).model_fields if key != "name"), "with attack none")
        others = {key for keys in OWN.values() for key in keys} - set(OWN.get(self.name, ()))
        share = without(("fraction",), f"with clients {self.clients}") if self.clients else {}
        return {**without(tuple(sorted(others)), f"with attack {self.name}"), **share}
