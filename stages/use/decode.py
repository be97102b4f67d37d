"""codes.npz -> a folder of PNG files, in batches."""

from pathlib import Path
from typing import Any

from stages.core import UserError
from stages.core.progress import bar
from stages.decoder.decoder import load_decoder
from stages.use.codes_file import Codes
from stages.use.networks import device_of, first_fitting
from stages.use.outputs import new_folder, save_pngs


def main(
    codes: Codes, files: list[str], decoders: list[Path], out: Path, device: str
) -> tuple[dict[str, Any], list[str]]:
    """Write `out`; what was made, as facts and as lines."""
    chosen = choose(codes, decoders)
    network = load_decoder(chosen, device_of(device))
    if codes.num_patches != network.num_patches:
        raise UserError(f"{codes.path}: {codes.num_patches} codes an image, {chosen} decodes {network.num_patches}")
    with new_folder(out) as folder, bar("decode", len(files), 0, "images") as progress:
        for names, codes_BN in codes.batches():
            save_pngs(folder, files[progress.n : progress.n + len(names)], network.decode(codes_BN))
            progress.update(len(names))
    facts = {"out": str(out), "images": len(files), "decoder": str(chosen)}
    return facts, [f"{out}: {len(files):,} images of {network.config['img_px']} px, decoded by {chosen}"]


def choose(codes: Codes, decoders: list[Path]) -> Path:
    """The first decoder that fits the codes; `UserError` if none does."""
    made_by = codes.config.get("tokenizer")
    if made_by:
        return first_fitting(decoders, made_by["name"], made_by["digest"])
    if len(decoders) != 1:
        raise UserError(f"{codes.path}: does not say which tokenizer made it: expected --decoder")
    return decoders[0]
