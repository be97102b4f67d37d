"""Images -> codes.npz, in batches: threads read and decode files ahead while the network encodes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.codebook.tokenizer import load_tokenizer
from stages.core.progress import bar
from stages.use.codes_file import new_codes
from stages.use.files import Found, check_any, refused_lines
from stages.use.networks import device_of, facts_of
from stages.use.reading import read_batches


def main(images: Found, tokenizer: Path, out: Path, device: str) -> tuple[dict[str, Any], list[str]]:
    """Write `out`; what was made, as facts and as lines."""
    network = load_tokenizer(tokenizer, device_of(device))
    with (
        new_codes(out, network.num_patches, network.config["dtype"]) as file,
        bar("encode", len(images.files), 0, "images") as progress,
    ):
        for names, squares in read_batches(images, network.square):
            file.add(names, network.encode(squares))
            progress.update(len(names))
        check_any(count := len(file.names), images)
        progress.update(len(images.files) - count)
        file.config = {
            "tokenizer": facts_of(tokenizer), "images": asdict(network.square), "refused": images.refused
        }  # fmt: skip
    summary = f"{out}: {count:,} images, {network.num_patches} codes each, {len(images.refused)} files refused"
    facts = {"out": str(out), "images": count, "tokenizer": str(tokenizer), "refused": images.refused}
    return facts, [summary, *refused_lines(images.refused)]
