"""The whole data set -> codes: one uint16 array a split, train with augmented views.

Run:    dvc repro tokens          (more processes: torchrun --nproc-per-node=8 -m stages.tokens.encode …)
Expect: digits: 8 views of 1,500 images, 1.6 MB, 20 s on two cores. ImageNet: 1.28 M x 256 codes = 656 MB a view.

Finished parts survive a kill: the same command goes on behind them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.core import artefact, distributed, runtime
from stages.core.augment import Affine, own_maps, warp
from stages.core.params import Machine, Section, load
from stages.core.plan import print_plan
from stages.data.reader import ImageSplit, image_facts

if TYPE_CHECKING:
    import numpy as np

    from stages.codebook.model import Tokenizer

PART_IMAGES = 1000


class Params(Section):
    views: int = Field(gt=0)
    augment: Affine
    seed: int = Field(ge=0)


def encode(images: Path, codebook: Path, out: Path, params: Params, machine: Machine) -> None:
    """Write the tokens artefact `out`; every process of a torchrun makes its share."""
    from stages.codebook.model import load_tokenizer
    from stages.core.device import pick_device
    from stages.core.progress import bar
    from stages.core.scratch import scratch

    book, facts = artefact.read_config(codebook, "codebook"), image_facts(images)
    parts = plan_parts(facts, params.views)
    with distributed.process_group(), scratch(f"tokens-{out.name}", params, [images, codebook]) as work:
        announce(out, work, parts, book, machine)
        tokenizer = load_tokenizer(codebook, pick_device(machine.device))
        sources = {split: ImageSplit(images, split, machine.num_workers) for split in ("train", "val")}
        own = parts[distributed.rank() :: distributed.world_size()]
        with bar("tokens", len(own), 0, "part") as progress:
            for part in own:
                encode_part(part_path(work, part), part, sources[part[0]], tokenizer, params, machine.infer_batch_size)
                progress.update()
        distributed.barrier()
        if distributed.rank() == 0:
            config = {key: book[key] for key in ("num_codes", "dtype", "num_patches")}
            inputs = {"images": artefact.digest(images), "codebook": artefact.digest(codebook)}
            config |= {"classes": facts["classes"], "views": params.views, "inputs": inputs}
            publish(work, out, parts, {split: source.labels for split, source in sources.items()}, config)
        distributed.barrier()


Part = tuple[str, int, int, int]  # split, view, first image, end


def announce(out: Path, work: Path, parts: list[Part], book: dict[str, Any], machine: Machine) -> None:
    """Print the plan: every code is written twice, in a part and in the joined array; finished parts are there."""
    codes = sum(stop - start for _, _, start, stop in parts) * book["num_patches"]
    done = sum(path.stat().st_size for path in work.glob("*.npy"))
    print_plan(
        "tokens", out, {"images and views": codes // book["num_patches"], "codes": codes},
        disk_bytes=max(0, 2 * codes * int(book["dtype"].removeprefix("uint")) // 8 - done),
        memory_bytes=900 * 2**20 + machine.infer_batch_size * book["num_patches"] * book["dim"] * 80,
    )  # fmt: skip


def plan_parts(facts: dict[str, Any], views: int) -> list[Part]:
    """Every view of every image, cut into runs of at most PART_IMAGES; val has the plain view alone."""
    return [
        (split, view, start, min(start + PART_IMAGES, facts["splits"][split]["images"]))
        for split, num_views in (("train", views), ("val", 1))
        for view in range(num_views)
        for start in range(0, facts["splits"][split]["images"], PART_IMAGES)
    ]


def part_path(work: Path, part: Part) -> Path:
    """Where a finished part waits."""
    split, view, start, _ = part
    return work / f"{split}-{view:03d}-{start:09d}.npy"


def encode_part(
    path: Path, part: Part, source: ImageSplit, tokenizer: Tokenizer, params: Params, batch_size: int
) -> None:
    """Write the codes [images, N] of one part, unless they are there."""
    import io

    import numpy as np
    import torch

    if path.is_file():
        return
    _, view, start, stop = part
    batches = [range(i, min(i + batch_size, stop)) for i in range(start, stop, batch_size)]
    with torch.inference_mode():
        codes = [
            tokenizer.encode_pixels(view_pixels(source, batch, view, params, tokenizer)).cpu().numpy()
            for batch in batches
        ]
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(codes).astype(tokenizer.config["dtype"]))
    artefact.write_atomically(path, buffer.getvalue())


def view_pixels(source: ImageSplit, batch: range, view: int, params: Params, tokenizer: Tokenizer) -> Any:
    """float [B, 3, H, W]: view 0 is the image, the others a random map seeded by (view, image) alone."""
    from stages.core.pixels import to_float
    from stages.core.rng import seed_of

    pixels = to_float(source.read(batch), tokenizer.codebook.vectors.device)
    if view == 0:
        return pixels
    return warp(pixels, own_maps([seed_of("tokens", params.seed, view, image) for image in batch], params.augment))


def publish(work: Path, out: Path, parts: list[Part], labels: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Join the parts to one array [views, images, N] a split, without holding it in memory."""
    import numpy as np

    with artefact.new_artefact(out, "tokens", config) as folder:
        for split, split_labels in labels.items():
            shape = (max(view for s, view, _, _ in parts if s == split) + 1, len(split_labels), config["num_patches"])
            joined = np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.dtype(config["dtype"]), shape)
            for part in parts:
                if part[0] == split:
                    joined[part[1], part[2] : part[3]] = np.load(part_path(work, part))
            joined.flush()
            np.save(folder / f"{split}.labels.npy", split_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="images artefact")
    parser.add_argument("--codebook", type=Path, required=True, help="codebook artefact")
    parser.add_argument("--out", type=Path, required=True, help="tokens artefact to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    params, machine = load("tokens", Params, args.params), load("machine", Machine, args.params)
    for needed in (args.images, args.codebook):
        artefact.find(needed)
    encode(args.images, args.codebook, args.out, params, machine)


if __name__ == "__main__":
    runtime.run(main, parallel=True)
