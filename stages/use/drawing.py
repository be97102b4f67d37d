"""What `sample`, `inpaint` and `vary` share: the generator, and how images are written."""

from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact
from stages.generator.generator import Generator, load_generator
from stages.generator.neighbors import sampling_of
from stages.generator.settings import changed
from stages.use.networks import device_of, first_fitting
from stages.use.outputs import new_folder, save_picture, save_pngs
from stages.use.picture import Sheet


def open_generator(folder: Path, decoders: list[Path], settings: dict[str, Any], device: str) -> Generator:
    """The generator with its decoder; sampling settings and the device are checked before it is loaded."""
    place, config = device_of(device), artifact.read_config(folder, "generator")
    changed(sampling_of(folder, config), settings)
    decoder = first_fitting(decoders, config["tokenizer"], config["inputs"].get("codebook"))
    return load_generator(folder, decoder, place)


def save(out: Path, sheet: Sheet, names: list[str], images: np.ndarray) -> str:
    """Write the labeled picture, or, to a name without ending, uint8 [B, H, W, 3] as files; what to say of it."""
    if out.suffix:
        save_picture(out, sheet.draw())
        return f"{out}: {len(images)} images of {images.shape[1]} px"
    with new_folder(out) as folder:
        save_pngs(folder, names, images)
    return f"{out}: {len(images)} files of {images.shape[1]} px"
