"""Schemas of the sections `decoder.<name>` and `pixel_tokenizer`, and the registry of decoder kinds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.core import UserError
from stages.core.params import Section, kind_of, load, load_value, shown
from stages.core.schemas import Affine, Gan, HingeLossConfig, Optim, ReconstructionLossConfig, TransformerConfig

PARAMS = Path("params.yaml")
LIKELIHOOD_BATCH = 64  # images per batch; part of the result of kind render, because masks are drawn per batch
FlowPath = Literal["rectified", "cosine"]
FlowOutput = Literal["velocity", "residual"]
StepSpacing = Literal["log", "linear"]
Conditioning = Literal["concat", "adagn"]


class OneStepParams(HingeLossConfig):
    """A convolutional decoder with pixel, perceptual and hinge GAN losses."""

    kind: Literal["onestep"]


class FlowParams(Section):
    """The flow of stages/decoder/flow.py without the variance of the pixels, which is measured."""

    gamma: float = Field(gt=0)
    output: FlowOutput
    residual: float = Field(gt=0, le=1)
    path: FlowPath
    times: Literal["logit-normal", "uniform"]
    time_mean: float
    time_std: float = Field(gt=0)


class FlowSampling(Section):
    """Number and spacing of the sampling steps; stored in the artifact."""

    steps: int = Field(gt=0)
    spacing: StepSpacing


class TrajectoryGan(Gan):
    """The discriminator's input beside the image: its point of the trajectory (x_t, t), or nothing."""

    context: Literal["trajectory", "plain"]
    r1_weight: float = Field(ge=0)


class DiffusionParams(ReconstructionLossConfig):
    """A U-Net that predicts the velocity of a flow from noise to pixels."""

    networks = 2
    kind: Literal["diffusion"]
    conditioning: Conditioning
    flow: FlowParams
    sampling: FlowSampling
    gan: TrajectoryGan


class RenderSampling(Section):
    """How pixel codes are sampled; stored in the artifact."""

    temperature: float = Field(gt=0)
    top_p: float = Field(gt=0, le=1)
    steps: int = Field(gt=0, le=1024)  # method: masked
    choice_temperature: float = Field(ge=0)  # method: masked


class RenderParams(Section):
    """A transformer from the tokenizer's codes to those of a pixel tokenizer."""

    kind: Literal["render"]
    method: Literal["ar", "masked"]
    model: TransformerConfig
    sampling: RenderSampling
    augment: Affine
    optim: Optim

    def peak_bytes(self, parameters: int, given: int, pixels: int, num_codes: int, images: int) -> int:
        """Memory of training it from `given` to `pixels` codes of `num_codes`, on so many images at once."""
        logits = max(images, LIKELIHOOD_BATCH) * pixels * num_codes
        return self.model.peak_bytes(parameters, images, given + pixels, logits)


DecoderParams = OneStepParams | DiffusionParams | RenderParams


@dataclass(frozen=True)
class Kind:
    """One kind of decoder. `fit` is a module with `check` and `fit`, `load` a module with `load`, imported by name.

    `needs_pixel_tokenizer`: decoders of this kind need an entry in the section `pixel_tokenizer`.
    """

    schema: type[DecoderParams]
    fit: str
    load: str
    needs_pixel_tokenizer: bool = False


KINDS = {
    "onestep": Kind(OneStepParams, "stages.decoder.onestep_training", "stages.decoder.onestep"),
    "diffusion": Kind(DiffusionParams, "stages.decoder.diffusion_training", "stages.decoder.diffusion"),
    "render": Kind(RenderParams, "stages.decoder.render_training", "stages.decoder.render", needs_pixel_tokenizer=True),
}


@dataclass(frozen=True)
class Inputs:
    """The artifacts that decoder `name` is made from, and where it is written.

    `encoder` is for perceptual losses. `pixel_tokenizer` is empty for kinds that need none.
    """

    name: str
    images: Path
    encoder: Path
    codebook: Path
    pixel_tokenizer: Path
    out: Path  # decoder artifact to write
    report: Path  # folder for curves, metrics.json and pictures

    @property
    def section(self) -> str:
        """The decoder's section in params.yaml."""
        return f"decoder.{self.name}"


def load_kind(name: str, path: Path = PARAMS) -> Kind:
    """The kind of decoder `name`; `UserError` for an unknown one."""
    return KINDS[kind_of(f"decoder.{name}", KINDS, path)]


def load_params(name: str, path: Path = PARAMS) -> DecoderParams:
    """The section `decoder.<name>`, checked against the schema of its kind."""
    return load(f"decoder.{name}", load_kind(name, path).schema, path)


def load_pixel_tokenizers(path: Path = PARAMS) -> dict[str, str]:
    """{decoder name: name of its pixel tokenizer}, the section `pixel_tokenizer`."""
    found = load_value("pixel_tokenizer", path)
    if not isinstance(found, dict) or not all(isinstance(name, str) for pair in found.items() for name in pair):
        raise UserError(f"{path}: pixel_tokenizer = {shown(found)}: expected {{decoder: tokenizer}}, both names")
    return found
