"""Params of training and sampling generators, and the registry of their kinds.

generator.model    Model: the transformer that all generators share
generator.<name>   Training, whose `kind` is one of KINDS
samples.draws      SampleDraws: how many samples, of which prompts
samples.<name>     the sampling schema of that kind
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from stages.core.params import Machine, Section, impossible, kind_of, load
from stages.core.progress import BASE_BYTES
from stages.core.schemas import Draws, MaskRatio, MaskSchedule, Optim, TransformerConfig
from stages.generator.guidance import Guidance, guidance_scales

LIKELIHOOD_BATCH = 64  # images per batch, a constant because the masks are drawn per batch
NO_PROMPTS = "data/code/no_folder"  # a path that exists, as DVC needs it
# Names that no generator may have: of the sections beside theirs, and of what metrics.json holds beside their metrics.
RESERVED = ("model", "draws", "images", "tokenizer", "val", "protocol")


class CodeNoise(Section):
    """Codes of the input that training replaces by one of the nearest others."""

    share: float = Field(ge=0, lt=1)
    nearest: int = Field(gt=0)


class Model(TransformerConfig):
    """The transformer of every generator."""

    class_dropout: float = Field(ge=0, lt=1)  # 1 would train no class
    positions: Literal["learned", "rotary", "both"]
    local: int = Field(ge=0)
    kv_heads: int = Field(ge=0)
    norm: Literal["layernorm", "rmsnorm"]
    mlp: Literal["gelu", "swiglu"]
    qk_norm: bool
    code_noise: CodeNoise

    def network(self) -> dict[str, Any]:
        """Those of the arguments of `TokenTransformer` that the codes do not decide."""
        return self.model_dump(exclude={"class_dropout", "label_smoothing", "code_noise"})

    @model_validator(mode="after")
    def parts_fit(self) -> Self:
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads}: expected 0 or a divisor of heads = {self.heads}")
        if self.positions != "learned" and self.dim // self.heads % 4:
            raise ValueError(
                f"positions = {self.positions}: expected a multiple of 4 channels per head, "
                f"dim / heads = {self.dim // self.heads}"
            )
        if self.local and (self.local < 3 or self.local % 2 == 0):
            raise ValueError(f"local = {self.local}: expected 0 or an odd side of at least 3")
        return self


class Training(Optim):
    """Kind, condition and optimization of one generator."""

    kind: str
    condition: Literal["class", "caption"]  # what is given of an image; captions by a text encoder (section captions)


class ClassTraining(Training):
    """The same for kinds that know no captions."""

    condition: Literal["class"]


class MaskedTraining(Training):
    """The same with how many codes are masked."""

    mask_ratio: MaskRatio


class Params(Section):
    """Name, network and training of one generator."""

    name: str
    model: Model
    training: SerializeAsAny[Training]

    def peak_bytes(self, parameters: int, num_patches: int, num_codes: int, images: int) -> int:
        """Memory of training it on so many images at once."""
        logits = max(images, LIKELIHOOD_BATCH) * num_patches * num_codes
        return self.model.peak_bytes(parameters, images, num_patches, logits)


class SampleDraws(Draws):
    """The same with what generators by caption are asked to show."""

    prompts: str  # a file with a caption per line, for generators with condition: caption; NO_PROMPTS: val captions

    @field_validator("prompts")
    @classmethod
    def prompts_are_there(cls, path: str) -> str:
        if path != NO_PROMPTS and not Path(path or "?").is_file():
            raise ValueError(f"{path!r}: expected a file with a caption per line, or {NO_PROMPTS}")
        return path


class Sampling(Section):
    """How a code is drawn from logits."""

    temperature: float = Field(gt=0, description="divides the logits; above 0")
    top_k: int = Field(ge=0, description="draws from the k most probable codes only; 0: from all")
    top_p: float = Field(gt=0, le=1, description="draws from the most probable codes of this total probability; 1: all")
    guidance: Guidance = Field(description="a: (1 - a) unconditional + a conditional logits; 1: none; or a schedule")
    precision: Literal["fp32", "bf16"] = Field(description="number format of the network's products, fp32 or bf16")

    SKIPS_UNGUIDED: ClassVar[bool] = True  # where the guidance scale is 1, the pass without the class is left out

    def passes(self, codes: int) -> float:
        """How often a whole sequence of `codes` runs through the network for one sample; code by code is once."""
        return self.guidance_cost(codes)

    def guidance_cost(self, count: int) -> float:
        """Passes with and without the class per pass with it, from 1 to 2; of `count` positions or steps."""
        guided = [scale != 1 for scale in guidance_scales(self.guidance, count)]
        return 1 + (sum(guided) / count if self.SKIPS_UNGUIDED else any(guided))


class MaskedSampling(Sampling):
    """The same with the steps of MaskGIT."""

    steps: int = Field(gt=0, le=1024, description="forward passes per image")
    choice_temperature: float = Field(ge=0, description="noise in the choice of the codes that a step keeps; 0: none")
    mask_schedule: MaskSchedule = Field(description="how the number of masked codes falls: cosine, linear or arccos")

    def passes(self, codes: int) -> float:
        return self.steps * self.guidance_cost(self.steps)


class BitSampling(Sampling):
    """The same of bits, with the steps of a code: their number, or how many bits each of them sets."""

    SKIPS_UNGUIDED: ClassVar[bool] = False
    bit_steps: Annotated[int, Field(gt=0)] | Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = Field(
        description="steps per code, or a list: how many bits each step sets"
    )


class ParallelSampling(Sampling):
    """The same with the steps of group decoding."""

    SKIPS_UNGUIDED: ClassVar[bool] = False
    steps: int = Field(gt=0, le=65_536, description="forward passes per image, at most one per code")
    schedule: MaskSchedule = Field(description="how the number of codes left falls: cosine, linear or arccos")

    def passes(self, codes: int) -> float:
        """Twice: each code is asked for at its place, and read by later ones."""
        return 2 * self.guidance_cost(codes)


@dataclass(frozen=True)
class Kind:
    """Module, plain sampling and schema of training of one kind of generator.

    The module defines CAUSAL, BOUND, `loss`, `nats` and `sample`, and `network` if its network is no
    `TokenTransformer`. Plain sampling is unfiltered and unguided. Its values are stored in the generator artifact, for
    users who have no samples artifact beside it. What the schema adds to `Training` is given to `loss`. A kind that
    draws some codes around others defines FILLS and `fill`: see editing.py.
    """

    module: str
    plain: Sampling
    training: type[Training] = Training

    def loss_settings(self, training: Training) -> dict[str, Any]:
        """What the kind's own schema adds to `Training`."""
        return training.model_dump(exclude={*Training.model_fields})


PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.0, "precision": "fp32"}
KINDS = {
    "ar": Kind("stages.generator.ar", Sampling(**PLAIN)),
    "masked": Kind(
        "stages.generator.masked",
        MaskedSampling(**PLAIN, steps=8, choice_temperature=4.5, mask_schedule="cosine"),  # MaskGIT's
        MaskedTraining,
    ),
    "ar_bits": Kind("stages.generator.ar_bits", BitSampling(**PLAIN, bit_steps=4), ClassTraining),  # BAR's
    "parallel_ar": Kind(
        "stages.generator.parallel_ar",
        ParallelSampling(**PLAIN, steps=16, schedule="arccos"),  # ARPG's
        ClassTraining,
    ),
}


def load_params(name: str, path: Path = Path("params.yaml")) -> Params:
    """`generator.model` and `generator.<name>`; `UserError` for an unknown kind."""
    section = f"generator.{name}"
    if name in RESERVED:
        raise impossible("generators", name, "this name has another meaning; choose another one")
    schema = KINDS[kind_of(section, KINDS, path)].training
    return Params(name=name, model=load("generator.model", Model, path), training=load(section, schema, path))


def sampling_bytes(
    parameters: int, shape: dict[str, Any], num_patches: int, num_codes: int, kind: str, machine: Machine
) -> int:
    """Memory of drawing samples, guided: weights twice while they are read, logits, and the cache of most kinds.

    Sorting and filters keep 30 bytes of each logit at hand: of one position, or of all. `shape` has `dim` and `depth`
    where there is a cache.
    """
    one, cached = kind in ("ar", "ar_bits"), kind in ("ar", "ar_bits", "parallel_ar")
    cache = num_patches * shape["dim"] * shape["depth"] * 16 if cached else 0
    logits = num_codes * (1 if one else num_patches)
    return BASE_BYTES + 8 * parameters + machine.infer_batch_size * (30 * logits + cache)
