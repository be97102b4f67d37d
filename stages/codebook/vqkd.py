"""vqkd: an encoder trained from scratch whose codes must tell what a frozen teacher sees (VQ-KD; papers, 2.1).

Loss = mean (1 - cos(D(z_q), teacher)) + commitment * mean (z - sg(z_q))², unit vectors; D decodes features, no pixels.
The teacher is the pipeline's encoder, at the block and norm of the features artefact, on the same augmented images.
The codes are unit vectors that follow the mean of their rows (code_decay), started by k-means on the first batch.
Putting dead ones back among the rows (reanchor) is ours: VQ-KD does not; false is as published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stages.codebook.sources import Sources
from stages.codebook.usage import count_usage, write_usage
from stages.core import artefact
from stages.core.augment import Affine
from stages.core.choice import evenly
from stages.core.loop import Optim
from stages.core.loop import fit as train
from stages.core.params import Machine, Section, impossible
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.codebook.frozen import FrozenRows
    from stages.codebook.student import Distiller

WATCHED = 256  # images of each split behind the curves


class Width(Section):
    """The student, a vision transformer; its patches are those of the teacher."""

    dim: int = Field(ge=32)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)

    @model_validator(mode="after")
    def heads_divide_it(self) -> Width:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads}: expected a divisor of dim = {self.dim}")
        return self


class Params(Section):
    kind: Literal["vqkd"]
    num_codes: int = Field(gt=1, le=2**32)
    dim: int = Field(gt=1)
    code_decay: float = Field(ge=0, lt=1)
    commitment: float = Field(ge=0)
    reanchor: bool
    student: Width
    decoder_depth: int = Field(gt=0)
    augment: Affine
    optim: Optim


def student_shape(sources: Sources, params: Params) -> dict[str, Any]:
    """What build_vit takes: as many patches a side as the teacher has."""
    teacher, img_px = artefact.read_config(sources.encoder, "encoder"), image_facts(sources.images)["img_px"]
    patch_px = img_px // (teacher["img_px"] // teacher["patch_px"])
    return {"img_px": img_px, "patch_px": patch_px, **params.student.model_dump(), "seed": params.optim.seed}


def check(section: str, sources: Sources, params: Params) -> None:
    """Patches that the student cannot have, and a first batch too small to start the codes from, are errors."""
    num_patches = artefact.read_config(sources.features, "features")["num_patches"]
    shape, side = student_shape(sources, params), round(num_patches**0.5)
    patch_px = shape["patch_px"]
    if patch_px < 2 or patch_px & (patch_px - 1) or shape["img_px"] != side * patch_px:
        why = f"the teacher has {side} patches a side: expected {side} times a power of two for kind vqkd"
        raise impossible("data.img_px", shape["img_px"], why)
    if shape["dim"] % (8 * patch_px):
        why = f"expected a multiple of {8 * patch_px}, 8 for each of a patch's {patch_px} px"
        raise impossible(f"{section}.student.dim", shape["dim"], why)
    if (rows := params.optim.batch_size * num_patches) < params.num_codes:
        why = f"expected at most the {rows:,} patches of a batch, from which the codes start; or raise batch_size"
        raise impossible(f"{section}.num_codes", params.num_codes, why)


def fit(sources: Sources, out: Path, report: Path, params: Params, machine: Machine) -> None:
    """Write the codebook artefact `out`, curves and usage figures to the folder `report`."""
    import torch

    from stages.core.batches import Batches
    from stages.core.curves import Curves
    from stages.core.device import pick_device
    from stages.core.scratch import scratch

    shape, curves, optim = student_shape(sources, params), Curves(), params.optim
    announce(out, shape, params)
    device = pick_device(machine.device)
    torch.manual_seed(optim.seed)
    teacher = open_teacher(sources, device)
    model = build(shape, params, teacher.encoder.dim).to(device)
    splits = {split: ImageSplit(sources.images, split, machine.num_workers) for split in ("train", "val")}
    with scratch(f"codebook-{out.name}", params, [sources.images, sources.encoder, sources.features]) as work:
        moved = Batches("vqkd", splits, params.augment, optim, device)
        with torch.no_grad():
            model.quantiser.start_from(model.student(moved.batch_at(0)).flatten(0, 1))
        train(
            model, optim, moved.batch_at, loss_fn(teacher, params, device),
            watch(out.name, teacher, splits, machine, device), curves, work=work,
            checkpoint_secs=machine.checkpoint_secs, device=device, name=f"codebook {out.name}",
            batch_keys=moved.batch_keys,
        )  # fmt: skip
        usage, losses = {}, {}
        for split, images in splits.items():
            usage[split], losses[split] = measure(model, teacher, images, machine, device)
        curves.write(report)
        write_usage(report, usage, cosine_loss=losses)
        publish(out, sources, model, {"tokenizer": params.kind, "shape": shape})


def announce(out: Path, shape: dict[str, Any], params: Params) -> None:
    """Print the plan: weights, average and two moments, twice on disk for a moment and once as artefact; some 30
    activations of 4 bytes a value and block of student and feature decoder."""
    rows = params.optim.batch_size * (shape["img_px"] // shape["patch_px"]) ** 2
    blocks = shape["depth"] + params.decoder_depth
    weights = 12 * shape["dim"] ** 2 * (blocks + 1) * 4
    activations = rows * shape["dim"] * blocks * 120 + min(rows * params.num_codes, 2**26) * 8
    counts = {"steps": params.optim.total_steps}
    print_plan("codebook", out, counts, disk_bytes=9 * weights, memory_bytes=10**9 + 6 * weights + activations)


def open_teacher(sources: Sources, device: torch.device) -> FrozenRows:
    """The frozen encoder at the block whose features are stored."""
    from stages.codebook.frozen import FrozenRows
    from stages.encoder.model import load_encoder

    features = artefact.read_config(sources.features, "features")
    return FrozenRows(load_encoder(sources.encoder, device), [features["block"]], features["final_norm"])


def build(shape: dict[str, Any], params: Params, teacher_dim: int) -> Distiller:
    """The network with its initial weights."""
    from stages.codebook.ema import EmaVq
    from stages.codebook.student import Distiller, FeatureDecoder, Student

    num_patches = (shape["img_px"] // shape["patch_px"]) ** 2
    sizes = {"width": shape["dim"], "depth": params.decoder_depth, "heads": shape["heads"]}
    decoder = FeatureDecoder(params.dim, num_patches, **sizes, dim_out=teacher_dim)
    quantiser = EmaVq(params.num_codes, params.dim, params.code_decay, params.reanchor)
    return Distiller(Student(shape, params.dim), quantiser, decoder, params.commitment)


def loss_fn(teacher: FrozenRows, params: Params, device: torch.device) -> Any:
    """(model, pixels, step) -> loss, scalars; the teacher in its own precision, cosines and codes in fp32."""
    import torch

    from stages.core.device import compute

    def loss(model: Distiller, pixels: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            wanted = teacher(pixels)
        with compute(device, params.optim.precision):
            return model(pixels, wanted)

    return loss


def watch(
    name: str, teacher: FrozenRows, splits: dict[str, ImageSplit], machine: Machine, device: torch.device
) -> Any:  # fmt: skip
    """(step, averaged model) -> cosine loss on evenly spread plain images of each split; warns of collapse."""
    from stages.codebook.anchor import REANCHOR, warn_of_collapse

    def evaluate(step: int, model: Distiller) -> dict[str, float]:
        warn_of_collapse(
            name,
            float(model.quantiser.live_fraction()),
            f"{REANCHOR}, lower commitment, dim or num_codes, or train longer",
        )
        return {
            f"{split}/cosine_loss": measure(model, teacher, images, machine, device, WATCHED)[1]
            for split, images in splits.items()
        }

    return evaluate


def measure(
    model: Distiller, teacher: FrozenRows, images: ImageSplit, machine: Machine, device: torch.device, limit: int = 0
) -> tuple[dict[str, float], float]:
    """Usage figures and cosine loss on plain images, at most `limit` of them, evenly spread (0: all)."""
    from stages.codebook.student import cosine_loss
    from stages.core.pixels import to_float

    shown, losses = evenly(len(images), limit or len(images)), []

    def codes_of() -> Iterator[Tensor]:
        for start in range(0, len(shown), machine.infer_batch_size):
            pixels = to_float(images.read(shown[start : start + machine.infer_batch_size]), device)
            quantised, codes, _ = model.quantiser(model.student(pixels))
            losses.append(float(cosine_loss(model.decoder(quantised), teacher(pixels))) * len(pixels))
            yield codes

    return count_usage(codes_of(), len(model.quantiser.vectors)), sum(losses) / len(shown)


def publish(out: Path, sources: Sources, model: Distiller, facts: dict[str, Any]) -> None:
    """The codebook artefact: the student and its codes; the feature decoder has done its work."""

    from stages.core.codes import code_dtype

    vectors, grid = model.quantiser.unit_vectors(), facts["shape"]["img_px"] // facts["shape"]["patch_px"]
    inputs = {name: artefact.digest(getattr(sources, name)) for name in ("images", "encoder", "features")}
    config = {
        **facts, "rows": "student", "num_codes": len(vectors), "dim": vectors.shape[1], "normalise": True,
        "dtype": code_dtype(len(vectors)), "grid": grid, "num_patches": grid**2, "inputs": inputs,
    }  # fmt: skip
    with artefact.new_artefact(out, "codebook", config) as folder:
        artefact.save_tensors(folder / "codes.safetensors", {"vectors": vectors})
        artefact.save_tensors(folder / "student.safetensors", model.student.state_dict())
