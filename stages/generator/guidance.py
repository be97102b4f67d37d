"""Classifier-free guidance in params.yaml: one scale, or a schedule over the sequence or the steps."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from stages.core.params import Section


class LinearGuidance(Section):
    """Guidance that grows from 1 towards `scale`, over the sequence or the steps."""

    schedule: Literal["linear"]
    scale: float = Field(ge=0)

    def at(self, share: float) -> float:
        return 1 + (self.scale - 1) * share


class PowerCosineGuidance(Section):
    """Guidance that grows from 1 towards `scale` along a cosine, the later the larger `power` is (RAR)."""

    schedule: Literal["power-cosine"]
    scale: float = Field(ge=0)
    power: float = Field(gt=0)

    def at(self, share: float) -> float:
        return 1 + (self.scale - 1) * (1 - math.cos(math.pi * share**self.power)) / 2


class StepGuidance(Section):
    """No guidance before the share `start` of the sequence or the steps, `scale` from there on (GigaTok)."""

    schedule: Literal["step"]
    scale: float = Field(ge=0)
    start: float = Field(ge=0, le=1)

    def at(self, share: float) -> float:
        return self.scale if share >= self.start else 1.0


def _schedule_of(guidance: Any) -> Any:
    found = guidance.get("schedule") if isinstance(guidance, dict) else getattr(guidance, "schedule", "constant")
    return found if isinstance(found, str) else "constant"


Guidance = Annotated[  # classifier-free guidance: one number, or a schedule
    Annotated[float, Field(ge=0), Tag("constant")]
    | Annotated[LinearGuidance, Tag("linear")]
    | Annotated[PowerCosineGuidance, Tag("power-cosine")]
    | Annotated[StepGuidance, Tag("step")],
    Discriminator(_schedule_of),
]


def guidance_scales(guidance: Guidance, count: int) -> list[float]:
    """The scale of guidance at each of `count` positions or steps, of which a schedule sees the share before."""
    if isinstance(guidance, int | float):
        return [float(guidance)] * count
    return [guidance.at(place / count) for place in range(count)]
