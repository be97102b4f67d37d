"""Settings of the classifier, reference, reconstruction and generation stages that fit the counts of toy_pipeline."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

from stages.core import artifact
from stages.core.params import Machine
from stages.core.schemas import Affine, Optim
from stages.evaluate.params import (
    NO_STATISTICS,
    ClassifierParams,
    GenerationParams,
    Inputs,
    ReconstructionParams,
    ReferenceParams,
)

RECONSTRUCTION = ReconstructionParams(decoding_precision="fp32", bootstrap_draws=5, seed=0)
GENERATION = GenerationParams(
    decoding_precision="fp32", kid_subset_size=40, bootstrap_draws=3, fid_counts=3, neighbors_shown=6, seed=0
)
REFERENCE = ReferenceParams(
    max_images=0, prc_neighbors=3, density_neighbors=5, pixel_px=16, extractors={}, compare_with="train",
    statistics=NO_STATISTICS, statistics_by="inception", seed=0,
)  # fmt: skip
CLASSIFIER = ClassifierParams(
    img_px=16,
    widths=[16, 24],
    augment=Affine(degrees=5, scale=0.1, translate=0.05, shear=0.0, hflip=False),
    optim=Optim(total_steps=120, batch_size=32, lr_peak=5e-3, warmup_share=0.083, weight_decay=0.0, beta2=0.99,
                clip_norm=1.0, ema_decay=0.9, eval_share=0.25, precision="fp32", seed=0),
)  # fmt: skip


def write_classifier(images: Path, out: Path, machine: Machine) -> None:
    """What the classifier stage makes of the images; of those without classes, that there is none."""
    from stages.evaluate.classifier_training import train_classifier

    with contextlib.chdir(out.parent):
        train_classifier(images, out, out.with_name("classifier-report"), CLASSIFIER, machine)


def write_reference(images: Path, encoder: Path, classifier: Path, out: Path, machine: Machine, **changes) -> None:
    """The artifact `out`; `changes` are laid over its settings."""
    from stages.evaluate.reference import build_reference

    build_reference(images, encoder, classifier, out, REFERENCE.model_copy(update=changes), machine)


def inputs_of(toy: SimpleNamespace, **changes: Path) -> Inputs:
    """The toy's artifacts as an evaluation reads them."""
    paths = {name: getattr(toy, name) for name in ("images", "encoder", "classifier", "reference")}
    return Inputs(**{**paths, "decoder": toy.root / "decoder", **changes})


def write_decoder(out: Path, num_codes: int, grid: int) -> None:
    """An artifact without a network; tests put a PatchDecoder in its place."""
    config = {"tokenizer": "kmeans", "num_codes": num_codes, "codebooks": 1, "grid": grid, "inputs": {}}
    with artifact.new_artifact(out, "decoder", config):
        pass
