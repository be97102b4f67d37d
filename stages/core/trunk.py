"""How large a transformer over codes is."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.core.params import Section


class Trunk(Section):
    """`dim` wide, `depth` blocks of `heads` heads, and what holds it back from learning by heart."""

    dim: int = Field(ge=8)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    label_smoothing: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def heads_divide(self) -> Trunk:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self
