"""Parts of params.yaml that several stages share: optimization, augmentation, losses, transformer sizes."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.core.distributed import world_size
from stages.core.params import DIFFERENT, Machine, Section, WeightsFile, impossible
from stages.core.progress import LARGE_BASE_BYTES

# Memory in bytes, measured on a CPU (docs/log/speed.md).
TRAINED = 32  # a parameter in training: weights twice, gradient, two moments, average, copies while they are saved
FP32 = 4  # bytes
BLOCK, PAIR, LOGIT = 60, 8, 12  # a transformer block's channel and position; two positions of a head; a logit
RESIDUAL = 24  # a convolutional residual block's channel and pixel


class Affine(Section):
    """Ranges of a random affine map."""

    degrees: float = Field(ge=0, le=180)  # rotation, either way
    scale: float = Field(ge=0, lt=1)  # size times 1 - scale ... 1 + scale
    translate: float = Field(ge=0, lt=1)  # shift as a fraction of the side, per axis, either way
    shear: float = Field(ge=0, lt=1)  # horizontal shift per unit of height, either way
    hflip: bool  # horizontal flip of half of the images


class Optim(Section):
    """AdamW, a linear warm-up followed by a cosine to zero, and averaged weights (EMA).

    Warm-up and evaluation are shares of `total_steps`, as is the start of a discriminator: one number sets all lengths.
    """

    total_steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr_peak: float = Field(gt=0)
    warmup_share: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    beta2: float = Field(gt=0, lt=1)
    clip_norm: float = Field(gt=0)
    ema_decay: float = Field(ge=0, lt=1)
    eval_share: float = Field(gt=0, le=1)  # between two evaluations
    precision: Literal["fp32", "bf16"]
    seed: int = Field(ge=0)

    @property
    def warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return self.steps_of(self.warmup_share)

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations."""
        return max(1, round(self.eval_share * self.total_steps))

    def steps_of(self, share: float) -> int:
        """A share below 1 of all steps, rounded; at least one step is left after it."""
        return min(round(share * self.total_steps), self.total_steps - 1)

    def images_at_once(self, machine: Machine) -> int:
        """Images of one process whose activations are in memory together."""
        share = -(-self.batch_size // world_size())
        return min(share, machine.micro_batch_size or share)


class Gan(Section):
    """A discriminator and the weight of its loss; weight 0 trains without one."""

    weight: float = Field(ge=0)
    start_share: float = Field(ge=0, lt=1)  # of optim.total_steps that are over when the discriminator starts
    width: int = Field(ge=8, multiple_of=8)
    lr: float = Field(gt=0)
    disc_loss_floor: float = Field(ge=0)

    @property
    def reads_features(self) -> bool:
        """Whether the discriminator reads features of the encoder instead of pixels."""
        return False


class HingeGan(Gan):
    """VQGAN: weighting adaptive. LlamaGen: weighting fixed and a late start."""

    weighting: Literal["adaptive", "fixed"]
    max_adaptive: float = Field(gt=0)
    discriminator: Literal["patch", "features"]

    @property
    def reads_features(self) -> bool:
        return self.discriminator == "features"


class ReconstructionLossConfig(Section):
    """Loss = pixel_weight * L1|L2 + perceptual_weight * feature distance + gan.weight * adversarial loss."""

    widths: list[int] = Field(min_length=1)  # channels per level, each level doubling the side; the last at img_px
    blocks: int = Field(gt=0)  # residual blocks per level
    pixel: Literal["l1", "l2"]
    pixel_weight: float = Field(ge=0)
    perceptual_weight: float = Field(ge=0)
    perceptual_blocks: list[int] = Field(min_length=1)
    lpips_vgg16: WeightsFile
    augment: Affine
    gan: Gan
    optim: Optim
    networks: ClassVar[int] = 1  # convolutional networks of these widths that are trained

    @property
    def gan_start(self) -> int:
        """The step at which the discriminator starts, counted from 0."""
        return self.optim.steps_of(self.gan.start_share)

    def peak_bytes(self, widths: list[int], img_px: int, encoder: dict[str, int], batch: int) -> int:
        """Memory of a training; `encoder`: config of the frozen network in whose features distances are measured.

        `batch`: images whose activations are in memory together. VGG-16 is not counted.
        """
        weights = sum(18 * self.blocks * width**2 for width in widths)
        values = sum((img_px >> level) ** 2 * width * self.blocks for level, width in enumerate(reversed(widths)))
        features = encoder_bytes(encoder, batch) if self.perceptual_weight else 0
        return LARGE_BASE_BYTES + self.networks * (TRAINED * weights + RESIDUAL * batch * values) + features

    @model_validator(mode="after")
    def values_fit(self) -> Self:
        if any(width < 8 or width % 8 for width in self.widths):
            raise ValueError(f"widths = {self.widths}: expected positive multiples of 8")
        vgg16 = Path(self.lpips_vgg16)
        if self.lpips_vgg16 and self.perceptual_weight and not (vgg16.suffix == ".safetensors" and vgg16.is_file()):
            convert = "vgg16-397923af.pth from download.pytorch.org/models, converted with safetensors.torch.save_file"
            wanted = f"expected '' or torchvision's VGG-16 weights as .safetensors ({convert})"
            raise ValueError(f"lpips_vgg16 = {self.lpips_vgg16!r}: {wanted}")
        return self


class HingeLossConfig(ReconstructionLossConfig):
    """The loss of one-pass decoders and autoencoders: a hinge discriminator."""

    gan: HingeGan


class TransformerConfig(Section):
    """Size and regularization of a transformer over codes."""

    dim: int = Field(ge=8)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    label_smoothing: float = Field(ge=0, lt=1)

    def peak_bytes(self, parameters: int, images: int, positions: int, logits: int) -> int:
        """Memory of training the transformer on so many `images` at once of so many `positions`."""
        activations = images * positions * self.depth * (BLOCK * self.dim + PAIR * self.heads * positions)
        return LARGE_BASE_BYTES + TRAINED * parameters + activations + LOGIT * logits

    @model_validator(mode="after")
    def heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self


def maps_of(config: dict[str, Any]) -> list[tuple[int, int]]:
    """(patches per side, values per patch) of every block of an encoder; `config` is its own."""
    if "maps" in config:
        return [(side, dim) for side, dim in config["maps"]]
    return [(config["img_px"] // config["patch_px"], config["dim"])] * config["depth"]


def encoder_bytes(config: dict[str, Any], images: int) -> int:
    """Memory of the activations of a frozen encoder through which gradients pass; `config` is its own."""
    values = sum(side**2 * dim for side, dim in maps_of(config))
    return images * (config["activations"]["all"] * FP32 if "activations" in config else values * BLOCK)


MaskSchedule = Literal["cosine", "linear", "arccos"]  # of how many codes are masked after each step of sampling
MaskRatio = Literal["cosine", "truncated-normal"]  # of how many codes are masked in training


class Draws(Section):
    """Samples per class on average, or in all without classes, for each seed."""

    per_class: int = Field(gt=0)
    labels: Literal["train", "equal"]  # train: in proportion to each class's train images
    seeds: Annotated[list[int], Field(min_length=1), DIFFERENT]


def check_shares(section: str, optim: Optim) -> None:
    """`UserError` if the batch of `section` does not divide evenly among the processes."""
    if optim.batch_size % (processes := world_size()):
        raise impossible(f"{section}.batch_size", optim.batch_size, f"expected a multiple of the {processes} processes")


def check_perceptual(section: str, config: ReconstructionLossConfig, depth: int) -> None:
    """`UserError` if a part of the loss reads blocks that an encoder of `depth` blocks does not have."""
    perceptual = config.perceptual_weight > 0 and not config.lpips_vgg16
    if perceptual or (config.gan.weight > 0 and config.gan.reads_features):
        check_blocks(f"{section}.perceptual_blocks", config.perceptual_blocks, depth)


def check_blocks(key: str, blocks: list[int], depth: int) -> None:
    """`UserError` for numbers under `key` that are no block's, counted from 0."""
    if bad := [block for block in blocks if not 0 <= block < depth]:
        raise impossible(key, bad, f"expected block numbers from 0 to {depth - 1}")
