"""The section `devices:` of a configuration."""

from __future__ import annotations

from pydantic import Field

from flctl.config.sections.section import Reasons, Section, without

__all__ = ["DevicesConfig"]

LINK = ("upload", "download")
CLOCK = ("speed", *LINK)


class DevicesConfig(Section):
    """How far clients' devices get in a round, simulated."""

    stragglers: float | None = Field(
        default=None, ge=0, le=1, description="Share of a cohort that stops before its work is done, wherever it is."
    )
    speed: float | None = Field(default=None, gt=0, description="Local steps a second; the median device's.")
    speed_spread: float = Field(
        default=0.0, ge=0, le=10, description="Between devices: standard deviation of the speed's logarithm."
    )
    speed_jitter: float = Field(
        default=0.0, ge=0, le=10, description="Between a device's rounds: standard deviation of the speed's logarithm."
    )
    upload: float | None = Field(
        default=None, gt=0, description="Bytes a second from a device, the median one's; null: takes no time."
    )
    download: float | None = Field(
        default=None, gt=0, description="Bytes a second to a device, the median one's; null: takes no time."
    )
    network_spread: float = Field(
        default=0.0, ge=0, le=10, description="Between devices: standard deviation of both rates' logarithm."
    )
    availability: float = Field(
        default=1.0, gt=0, le=1, description="Probability that a device that is asked is there in a round."
    )
    deadline: float | None = Field(
        default=None, gt=0, description="Simulated seconds after which the server takes no more; null: it waits."
    )
    over_selection: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Ask `cohort.clients` times one plus this, and take the first to be done.",
    )

    @property
    def clocked(self) -> bool:
        """Whether simulated time passes."""
        return any(getattr(self, name) is not None for name in CLOCK)

    @property
    def simulated(self) -> bool:
        """Whether there is anything to simulate."""
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
        return {**speed, **network, **without(("stragglers",), f"with {named}: they say who is late")}
