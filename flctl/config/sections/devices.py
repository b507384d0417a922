"""The section `devices:` of a configuration."""

from __future__ import annotations

from pydantic import Field

from flctl.config.sections.section import Reasons, Section, without

__all__ = ["DevicesConfig"]

LINK = ("upload", "download")
CLOCK = ("speed", *LINK)


class DevicesConfig(Section):
    """Simulated client devices: how many local steps each completes in a round, and when it answers."""

    stragglers: float | None = Field(
        default=None, ge=0, le=1, description="Fraction of each cohort that stops early (stragglers)."
    )
    speed: float | None = Field(default=None, gt=0, description="Local steps per second of the median device.")
    speed_spread: float = Field(
        default=0.0, ge=0, le=10, description="Standard deviation of log speed between devices."
    )
    speed_jitter: float = Field(
        default=0.0, ge=0, le=10, description="Standard deviation of log speed between the rounds of a device."
    )
    upload: float | None = Field(
        default=None, gt=0, description="Upload rate of the median device, in bytes per second; null: instantaneous."
    )
    download: float | None = Field(
        default=None, gt=0, description="Download rate of the median device, in bytes per second; null: instantaneous."
    )
    network_spread: float = Field(
        default=0.0, ge=0, le=10, description="Standard deviation of both log rates between devices."
    )
    availability: float = Field(
        default=1.0, gt=0, le=1, description="Probability that a selected device is available in a round."
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        description="Simulated seconds after which the server stops waiting; null: it waits for all.",
    )
    over_selection: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Select (1 + this) times `cohort.clients`, and use the first `cohort.clients` to finish.",
    )

    @property
    def clocked(self) -> bool:
        """True if simulated time passes."""
        return any(getattr(self, name) is not None for name in CLOCK)

    @property
    def simulated(self) -> bool:
        """True if any device property is simulated."""
        return self.clocked or self.stragglers is not None or self.availability < 1

    def idle(self) -> Reasons:
        """See `Section.idle`."""
        speed = without(("speed_spread", "speed_jitter"), "without speed") if self.speed is None else {}
        link = self.upload is None and self.download is None
        network = without(("network_spread",), "without upload or download") if link else {}
        if not self.clocked:
            clock = without(("deadline", "over_selection"), "without speed, upload or download")
            return {**speed, **network, **clock}
        named = " and ".join(name for name in CLOCK if getattr(self, name) is not None)
        return {**speed, **network, **without(("stragglers",), f"with {named}, which determine the stragglers")}
