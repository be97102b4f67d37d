"""An image of which a part is drawn anew: under a mask (`inpaint`), or a random share of its codes (`vary`)."""

from pathlib import Path
from typing import Any

import numpy as np

from stages.core import artifact
from stages.core.code import import_kind
from stages.core.progress import bar
from stages.data.squares import sizes_of
from stages.generator.alternating_params import kind_named
from stages.generator.drawn import Sample
from stages.generator.editing import check_fills, masks_of
from stages.generator.generator import Generator
from stages.use.drawing import open_generator, save
from stages.use.picture import Cell, Sheet

COLUMNS = 6
VEIL, SHARE = np.array([255, 64, 160], np.float32), 0.65  # color over what is drawn anew, and how much it covers


def main(
    image: Path, mask: Path | None, keep: bool, strength: float, generator: Path, decoders: list[Path], n: int,
    seed: int, settings: dict[str, Any], condition: str | None, by_caption: bool, out: Path, device: str,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Write `out`; what was made, as facts and as lines."""
    kind = artifact.read_config(generator, "generator")["kind"]
    check_fills(import_kind(kind_named(kind).module), kind)
    network = open_generator(generator, decoders, settings, device)
    given: dict[str, Any] = {"captions" if by_caption else "classes": [condition] * n, "seed": seed, **settings}
    original = network.tokenizer.prepare(image)[0]
    with bar("draw", n, 0, "images") as progress:
        found, shown = inpainted(network, image, mask, given) if mask else varied(network, original, strength, given)
        progress.update(n)
    images = kept(network, image, mask, found.images) if mask and keep else found.images
    names = [f"{number:06d}.png" for number in range(n)]
    line = save(out, sheet_of(Cell(original, image.name), shown, images), names, images)
    facts = {"out": str(out), "generator": str(generator), "given": condition, "seed": seed}
    return {**facts, "codes": found.codes.tolist()}, [line]


def inpainted(network: Generator, image: Path, mask: Path, given: dict[str, Any]) -> tuple[Sample, Cell]:
    """The results, and the image with color where it is drawn anew."""
    rows = len(given["captions" if network.by_caption else "classes"])
    found = network.inpaint([image] * rows, mask, **given)
    return found, Cell(veiled(network.tokenizer.prepare(image)[0], square_mask(network, image, mask)), "drawn anew")


def varied(network: Generator, original: np.ndarray, strength: float, given: dict[str, Any]) -> tuple[Sample, Cell]:
    """The results, and what the codes of the image decode to."""
    rows = len(given["captions" if network.by_caption else "classes"])
    found = network.vary([original] * rows, strength, **given)
    return found, Cell(network.decoder.decode(network.tokenizer.encode(original))[0], "its codes, decoded")


def square_mask(network: Generator, image: Path, mask: Path) -> np.ndarray:
    """bool [img_px, img_px]: the mask, cropped and resized as the image."""
    return masks_of(mask, sizes_of(image), network.tokenizer.square)[0]


def kept(network: Generator, image: Path, mask: Path, images: np.ndarray) -> np.ndarray:
    """The results uint8 [B, H, W, 3], with the pixels of the image itself where nothing was drawn."""
    return np.where(square_mask(network, image, mask)[..., None], images, network.tokenizer.prepare(image))


def veiled(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image uint8 [H, W, 3] with color over what the mask bool [H, W] marks."""
    return np.where(mask[..., None], (1 - SHARE) * image + SHARE * VEIL, image).round().astype(np.uint8)


def sheet_of(original: Cell, shown: Cell, images: np.ndarray) -> Sheet:
    """The image, what is done to it, and the results."""
    cells = [original, shown, *(Cell(image, f"{number}") for number, image in enumerate(images, 1))]
    return Sheet([cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)], [], [])
