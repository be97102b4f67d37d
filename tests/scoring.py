"""Settings of the reference and evaluate stages that fit the counts of toy_pipeline."""

from pathlib import Path

from stages.core.params import Machine
from stages.evaluate.score import Params
from stages.reference.build import Params as ReferenceParams

PARAMS = Params(bootstrap_draws=5, kid_subset_size=40, neighbours_shown=6, seed=0)
REFERENCE = ReferenceParams(max_images=0, prc_neighbours=3, pixel_px=16, inception_weights="", seed=0)


def write_reference(images: Path, encoder: Path, judge: Path, out: Path, machine: Machine, **changes) -> None:
    """The artefact `out`; `changes` are laid over its settings."""
    from stages.reference.build import build

    build(images, encoder, judge, out, REFERENCE.model_copy(update=changes), machine)
