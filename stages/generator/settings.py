"""What sampling needs to be told, for each generator (params.yaml, section `samples`)."""

from pydantic import Field

from stages.core.params import Section


class ArSampling(Section):
    temperature: float = Field(gt=0)
    top_k: int = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    guidance: float = Field(ge=0)


class MaskedSampling(ArSampling):
    steps: int = Field(gt=0, le=1024)
    choice_temperature: float = Field(ge=0)


SETTINGS: dict[str, type[ArSampling]] = {"ar": ArSampling, "masked": MaskedSampling}
