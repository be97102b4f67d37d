"""Val images of which a generator draws parts anew: originals, masks and results in one picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stages.codebook.tokenizer import load_tokenizer
from stages.core.distributed import random_subset
from stages.core.hardware import pick_device
from stages.core.params import Machine
from stages.core.results import enlarge, grid, save_png
from stages.data.reader import ImageSplit
from stages.decoder.decoder import load_decoder
from stages.generator.generator import Generator, Sample
from stages.generator.open_network import open_network
from stages.generator.params import Sampling
from stages.studies.params import SamplingStudy
from stages.studies.sampling_grids import Inputs

SEEDS = (0, 1)  # of the results side by side
STRENGTHS = (0.25, 0.5)  # of variations
SHADE = np.array([205, 92, 92])  # of hidden pixels in the picture
Edit = Callable[[int], Sample]


def save_edited(inputs: Inputs, folder: Path, own: Sampling, params: SamplingStudy, machine: Machine) -> dict[str, Any]:
    """Write edited.png: a row per val image of a seeded subset; return what its columns are and the images' numbers."""
    val = ImageSplit(inputs.images, "val", machine.num_workers)
    chosen = random_subset(len(val), params.edited_images, params.seed)
    images, labels = val.read(chosen), [None if one < 0 else int(one) for one in val.labels[chosen]]
    generator = open_generator(inputs, own, params, machine)
    codes = load_tokenizer(inputs.codebook, generator.network.device).encode(images)
    columns = {"original": images, "reconstruction": generator.decoder.decode(codes)}
    columns |= edits(generator, images, labels)
    rows = np.stack([*columns.values()], 1).reshape(-1, *images.shape[1:])
    save_png(folder / "edited.png", grid(rows, len(columns), enlarge(images.shape[1])))
    return {"of": "edited.png", "columns": [*columns], "val_images": chosen.tolist()}


def open_generator(inputs: Inputs, own: Sampling, params: SamplingStudy, machine: Machine) -> Generator:
    """The generator with the settings in params.yaml, whatever samples lie beside it."""
    device = pick_device(machine.device)
    network, config, kind = open_network(inputs.generator, device)
    decoder = load_decoder(inputs.decoder, device, params.decoding_precision)
    return Generator(network, kind, config, decoder, own, inputs.codebook, inputs.generator)


def edits(generator: Generator, images: np.ndarray, labels: list[int | None]) -> dict[str, np.ndarray]:
    """{title of a column: pictures} of the edits that the generator's kind is able to do."""
    px, found = images.shape[1], dict[str, np.ndarray]()
    middle, lower = (np.zeros((px, px), bool) for _ in range(2))
    middle[px // 4 : -(px // 4), px // 4 : -(px // 4)], lower[px // 2 :] = True, True
    masks = {"middle": middle, "lower half": lower}
    if (fills := getattr(generator.kind, "FILLS", "")) != "any":
        masks = {"lower half": lower} if fills else {}
    for title, mask in masks.items():
        found[f"{title} hidden"] = shaded(images, mask)
        found |= drawn(title, lambda seed, mask=mask: generator.inpaint(images, mask, labels, seed))
    if fills == "any":
        found |= outpainted(generator, images, labels)
        for strength in STRENGTHS:
            found[f"{strength:.0%} varied"] = generator.vary(images, strength, labels).images
    return found


def outpainted(generator: Generator, images: np.ndarray, labels: list[int | None]) -> dict[str, np.ndarray]:
    """The left half of the images, extended to the right."""
    px = images.shape[1]
    half, mask = images[:, :, : px // 2], np.zeros((px, px), bool)
    mask[:, px // 2 :] = True
    columns = {"right half missing": shaded(images, mask)}
    return columns | drawn(
        "outpainted", lambda seed: generator.outpaint(half, right=px - px // 2, classes=labels, seed=seed)
    )


def drawn(title: str, edit: Edit) -> dict[str, np.ndarray]:
    """The results of one edit under each seed."""
    return {f"{title}, seed {seed}": edit(seed).images for seed in SEEDS}


def shaded(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The images with the masked pixels in one color."""
    return np.where(mask[..., None], SHADE.astype(np.uint8), images)
