"""Parameters of the studies, each the section of studies/params.yaml named like its stage."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stages.core.params import DIFFERENT, Section
from stages.core.schemas import Affine, Draws

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Square = Annotated[list[Pair], Field(min_length=2, max_length=2)]


class Probe(Section):
    """Linear probes of the encoder: images, their augmented copies, and training with `shots` labels per class."""

    block: int
    final_norm: bool
    raw_px: int = Field(gt=0)
    max_images: int = Field(gt=1)
    augmented: Affine
    shots: int = Field(gt=0)
    few_draws: int = Field(ge=2)
    inverse_regularization: float = Field(gt=0)
    seed: Seed


class LayerProbe(Section):
    """Linear probes of every layer of a generator; `folds` parts of the train images decide which layer is the best."""

    max_images: int = Field(gt=1)
    folds: int = Field(ge=2)
    scaling: Literal["all", "columns"]
    inverse_regularization: float = Field(gt=0)
    seed: Seed


class Gallery(Section):
    """gallery.png: rows are the most used codes, then others down to the least used."""

    most_used: int = Field(gt=0)
    others: int = Field(ge=0)
    patches: int = Field(gt=0)
    context: int = Field(ge=0)


class Tsne(Section):
    """tsne.png: how many features, code vectors and classes it shows."""

    features: int = Field(gt=1)
    codes: int = Field(ge=0)
    classes: int = Field(gt=0, le=20)
    perplexity: float = Field(gt=1)
    iterations: int = Field(ge=250)

    @model_validator(mode="after")
    def neighbors_are_there(self) -> Self:
        if self.perplexity >= self.features:
            raise ValueError(f"perplexity = {self.perplexity}: expected less than features = {self.features}")
        return self


class CodeAnalysis(Section):
    """What the codes of a tokenizer mean."""

    max_images: int = Field(gt=1)
    inverse_regularization: float = Field(gt=0)
    ridge: float = Field(ge=0)
    bootstrap_draws: int = Field(ge=2)
    gallery: Gallery
    tsne: Tsne
    seed: Seed


class AblationCell(Section):
    """One cell of the grid of codebook sizes and dimensions."""

    max_images: int = Field(gt=1)
    max_vectors: int = Field(ge=0)
    iterations: int = Field(gt=0)
    inverse_regularization: float = Field(gt=0)
    bootstrap_draws: int = Field(ge=2)
    seed: int = Field(ge=0, lt=2**31)


class Ablation(Section):
    """The whole section. The two lists are the matrix in studies/dvc.yaml; a run of one cell reads `cell` alone."""

    num_codes: list[int] = Field(min_length=1)
    dims: list[int] = Field(min_length=1)
    cell: AblationCell

    @model_validator(mode="after")
    def lists_make_cells(self) -> Self:
        for key, values, least in (("num_codes", self.num_codes, 1), ("dims", self.dims, 0)):
            if min(values) < least or len(set(values)) < len(values):
                raise ValueError(f"{key} = {values}: expected different numbers from {least} up")
        return self


class NoiseRobustness(Section):
    """How codes change under Gaussian noise. Noise fainter than 60 dB would drown in the rounding of float32 pixels."""

    snrs_db: Annotated[list[Annotated[float, Field(ge=-100, le=60)]], Field(min_length=1), DIFFERENT]
    seeds: Annotated[list[int], Field(min_length=2), DIFFERENT]
    max_images: int = Field(gt=0)
    foreground_variance: float = Field(ge=0)
    seed: Seed


class CodeNoiseGrid(Section):
    """How codes are perturbed; `delta_shares` are shares of the codes of one codebook."""

    alphas: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1), DIFFERENT]
    delta_shares: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1), DIFFERENT]
    seeds: Annotated[list[Seed], Field(min_length=2), DIFFERENT]
    decoding_precision: Literal["fp32", "bf16"]
    seed: Annotated[int, Field(ge=0, lt=2**63)]


class CodeNoiseFid(Section):
    """The whole section. `decoders` is a matrix in studies/dvc.yaml; a run of one of them reads `grid` alone."""

    decoders: Annotated[list[str], DIFFERENT]
    grid: CodeNoiseGrid


class Case(Section):
    """Two Gaussian classes in a plane: their means, and one covariance for both."""

    means: Square
    covariance: Square

    @model_validator(mode="after")
    def classes_overlap(self) -> Self:
        (xx, xy), (yx, yy) = self.covariance
        if xy != yx or xx <= 0 or xx * yy <= xy * yx:
            raise ValueError(f"covariance = {self.covariance}: expected a symmetric positive definite matrix")
        if self.means[0] == self.means[1]:
            raise ValueError(f"means = {self.means}: expected two different points")
        return self


class PcaVsLda(Section):
    """The toy: two cases, each under every level of noise."""

    orthogonal: Case
    oblique: Case
    noise_sigmas: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1), DIFFERENT]
    train_samples: int = Field(ge=2)
    test_samples: int = Field(gt=0)
    seeds: Annotated[list[int], Field(min_length=2), DIFFERENT]


class DecodingSteps(Section):
    """Metrics of a decoder at several numbers of decoding steps."""

    steps: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1), DIFFERENT]
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=2), DIFFERENT]
    max_images: int = Field(ge=2)
    decoding_precision: Literal["fp32", "bf16"]
    perceptual_blocks: list[int] = Field(min_length=1)
    bootstrap_draws: int = Field(ge=2)
    images_shown: int = Field(gt=0)
    seed: Seed


class ResolutionTransfer(Section):
    """Convolutional tokenizers and decoders at multiples of the image size that they were trained on."""

    scales: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1), DIFFERENT]
    max_images: int = Field(ge=2)
    decoding_precision: Literal["fp32", "bf16"]
    bootstrap_draws: int = Field(ge=2)
    images_shown: int = Field(gt=0)
    seed: Seed


class SamplingStudy(Section):
    """Samples over grids of sampling settings, {generator: {name of a grid: {setting: values}}}, and edited images."""

    grids: dict[str, dict[str, dict[str, list[Any]]]]
    draws: Draws
    decoding_precision: Literal["fp32", "bf16"]
    edited_images: int = Field(ge=0)
    seed: Seed


SECTIONS: dict[str, type[Section]] = {  # section of studies/params.yaml -> schema; one line per study
    "probe": Probe,
    "layer_probe": LayerProbe,
    "code_analysis": CodeAnalysis,
    "ablation": Ablation,
    "noise_robustness": NoiseRobustness,
    "code_noise_fid": CodeNoiseFid,
    "decoding_steps": DecodingSteps,
    "resolution_transfer": ResolutionTransfer,
    "pca_vs_lda": PcaVsLda,
    "sampling": SamplingStudy,
}
