"""Images beside what every pair of a tokenizer and a decoder makes of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.codebook.tokenizer import load_tokenizer
from stages.core import UserError, artifact
from stages.core.metrics import psnr
from stages.core.progress import bar
from stages.decoder.decoder import load_decoder
from stages.use.files import Found, refused_lines
from stages.use.networks import device_of, fits
from stages.use.outputs import save_picture
from stages.use.picture import SIDE_PX, WIDE_PX, Cell, Sheet
from stages.use.reading import read_all


class Shown(NamedTuple):
    """What one pair makes of all images; originals and decoded ones are uint8 [B, H, W, 3]."""

    name: str
    codes: str
    originals: np.ndarray
    decoded: np.ndarray
    psnr_B: np.ndarray


def main(
    images: Found, tokenizer: list[Path], decoder: list[Path], out: Path, device: str
) -> tuple[dict[str, Any], list[str]]:
    """Write `out`; what was made, as facts and as lines."""
    place, pairs = device_of(device), pairs_of(tokenizer, decoder)
    names, shown = list[str](), list[Shown]()
    with bar("reconstruct", len(pairs), 0, "pairs") as progress:
        for codebook, chosen in pairs:
            network = load_tokenizer(codebook, place)
            names, originals = read_all(Found(images.files, refused := [*images.refused]), network.square)
            decoded = load_decoder(chosen, place).decode(network.encode(originals))
            codes = f"{network.num_patches} codes of {network.num_codes:,}"
            shown.append(Shown(title_of(codebook, chosen), codes, originals, decoded, psnr(originals, decoded)))
            progress.update()
    save_picture(out, sheet_of(names, shown).draw())
    scores = {one.name: [round(float(value), 3) for value in one.psnr_B] for one in shown}
    facts = {"out": str(out), "images": names, "psnr_db": scores, "refused": refused}
    means = [f"  {one.name}: PSNR {one.psnr_B.mean():.2f} dB" for one in shown]
    return facts, [f"{out}: {len(names)} images", *means, *refused_lines(refused)]


def pairs_of(tokenizers: list[Path], decoders: list[Path]) -> list[tuple[Path, Path]]:
    """Every tokenizer with every decoder of its codes; `UserError` if none of them fit."""
    found = []
    for tokenizer in tokenizers:
        name, digest = artifact.read_config(tokenizer, "codebook")["name"], artifact.digest(tokenizer)
        found += [(tokenizer, decoder) for decoder in decoders if fits(decoder, name, digest)]
    if not found:
        named = [", ".join(path.name for path in paths) for paths in (tokenizers, decoders)]
        raise UserError(f"no decoder of {named[1]} decodes the codes of a tokenizer of {named[0]}")
    return found


def title_of(tokenizer: Path, decoder: Path) -> str:
    """The name of a pair: that of the decoder, which names its tokenizer too, except one inside a tokenizer."""
    return decoder.name if decoder.name.startswith(f"{tokenizer.name}-") else f"{tokenizer.name}-{decoder.name}"


def sheet_of(names: list[str], shown: list[Shown]) -> Sheet:
    """A block of columns per image: the original and each pair; as many blocks side by side as fit."""
    block = 1 + len(shown)
    blocks = min(len(names), max(1, WIDE_PX // (block * SIDE_PX)))
    strips = [
        [Cell(shown[0].originals[number], Path(name).name)]
        + [Cell(one.decoded[number], f"{one.psnr_B[number]:.1f} dB") for one in shown]
        for number, name in enumerate(names)
    ]
    rows = [sum(strips[start : start + blocks], []) for start in range(0, len(strips), blocks)]
    tops = ["original\n", *(f"{one.name}\n{one.codes}" for one in shown)] * blocks
    return Sheet(rows, tops, [], block)
