"""The tokens artifact: the codes of all views of all images, encoded in parts and joined."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import artifact, distributed
from stages.core.distributed import seed_of
from stages.core.hardware import barrier, pick_device, process_group
from stages.core.images import seeded_maps, to_float, warp
from stages.core.params import Machine
from stages.core.progress import bar, print_cost_estimate
from stages.core.scratch import read_hashed, scratch, write_hashed
from stages.data.reader import ImageSplit, image_facts
from stages.tokens.params import Params, peak_bytes

PART_IMAGES = 250  # of which all views are encoded before the part is written
Part = tuple[str, int, int]  # split, first image, end


def write_tokens(images: Path, codebook: Path, out: Path, params: Params, machine: Machine) -> None:
    """Write the tokens artifact `out`; every process of a torchrun encodes its share of the parts."""
    artifact.check_made_from(codebook, f"codebook@{codebook.name}", images=images)
    book, facts = artifact.read_config(codebook, "codebook"), image_facts(images)
    parts, views = split_into_parts(facts), {"train": params.views, "val": 1}
    with process_group(), scratch(out, params, [images, codebook], meet=barrier) as work:
        weights, values = tokenizer_bytes(codebook), facts["img_px"] ** 2 * book.get("widths", [3])[-1]
        memory = peak_bytes(weights, book["num_patches"] * book["dim"], values, machine)
        print_estimate(out, work, sum((stop - start) * views[split] for split, start, stop in parts), book, memory)
        tokenizer = load_tokenizer(codebook, pick_device(machine.device))
        sources = {split: ImageSplit(images, split, machine.num_workers) for split in views}
        own = parts[distributed.rank() :: distributed.world_size()]
        with bar("tokens", len(own), 0, "part") as progress:
            for part in own:
                encode = view_encoder(sources[part[0]], tokenizer, views[part[0]], params)
                encode_part(part_path(work, part), part, encode, machine.infer_batch_size)
                progress.update()
        barrier()
        if distributed.rank() == 0:
            config = {key: book[key] for key in ("num_codes", "dtype", "grid", "num_patches")}
            inputs = {"images": artifact.digest(images), "codebook": artifact.digest(codebook)}
            config |= {"tokenizer": book["name"], "classes": facts["classes"], "views": params.views, "inputs": inputs}
            publish(work, out, parts, {split: source.labels for split, source in sources.items()}, views, config)
        barrier()


def print_estimate(out: Path, work: Path, count: int, book: dict[str, Any], memory_bytes: int) -> None:
    """Print what the stage will cost: each code is written twice, in a part and in the joined array.

    Parts that an earlier attempt left need no more space.
    """
    codes = count * book["num_patches"]
    done = sum(path.stat().st_size for path in work.glob("*.npy"))
    print_cost_estimate(
        "tokens",
        out,
        {"images and views": count, "codes": codes},
        disk_bytes=max(0, 2 * codes * int(book["dtype"].removeprefix("uint")) // 8 - done),
        memory_bytes=memory_bytes,
    )


def tokenizer_bytes(codebook: Path) -> int:
    """Size of the weights that encode: the tokenizer's own, or those of the frozen encoder inside."""
    files = [*codebook.glob("*.safetensors"), *codebook.glob("encoder/*.safetensors")]
    return sum(path.stat().st_size for path in files)


def split_into_parts(facts: dict[str, Any]) -> list[Part]:
    """All images in parts of at most PART_IMAGES."""
    counts = {split: facts["splits"][split]["images"] for split in ("train", "val")}
    return [
        (split, start, min(start + PART_IMAGES, count))
        for split, count in counts.items()
        for start in range(0, count, PART_IMAGES)
    ]


def part_path(work: Path, part: Part) -> Path:
    """The file of a finished part."""
    split, start, stop = part
    return work / f"{split}-{start:09d}-{stop:09d}.npy"


def encode_part(path: Path, part: Part, encode: Callable[[range], np.ndarray], batch_size: int) -> None:
    """Write the codes [views, images, N] of one part, unless they are there."""
    if read_hashed(path) is not None:
        return
    _, start, stop = part
    batches, content = [range(i, min(i + batch_size, stop)) for i in range(start, stop, batch_size)], io.BytesIO()
    np.save(content, np.concatenate([encode(batch) for batch in batches], 1))
    write_hashed(path, content.getvalue())


def view_encoder(source: ImageSplit, tokenizer: Tokenizer, views: int, params: Params) -> Callable[[range], np.ndarray]:
    """Numbers of B images -> codes of their views, [views, B, N]; each image is read and decoded once."""

    @torch.inference_mode()
    def encode(batch: range) -> np.ndarray:
        pixels = to_float(source.read(batch), tokenizer.device)
        codes = [tokenizer.encode_pixels(view_of(pixels, batch, view, params)) for view in range(views)]
        return torch.stack(codes).cpu().numpy().astype(tokenizer.config["dtype"])

    return encode


def view_of(pixels: torch.Tensor, batch: range, view: int, params: Params) -> torch.Tensor:
    """float [B, 3, H, W]: view 0 is the image, the others a random map seeded by (view, image) alone."""
    if view == 0:
        return pixels
    return warp(pixels, seeded_maps([seed_of("tokens", params.seed, view, image) for image in batch], params.augment))


def publish(
    work: Path,
    out: Path,
    parts: list[Part],
    labels: dict[str, np.ndarray],
    views: dict[str, int],
    config: dict[str, Any],
) -> None:
    """Join the parts to one array [views, images, N] per split, without holding it in memory."""
    with artifact.new_artifact(out, "tokens", config) as folder:
        for split, split_labels in labels.items():
            shape = (views[split], len(split_labels), config["num_patches"])
            joined = np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.dtype(config["dtype"]), shape)
            for part in parts:
                if part[0] == split:
                    joined[:, part[1] : part[2]] = np.load(part_path(work, part))
            joined.flush()
            np.save(folder / f"{split}.labels.npy", split_labels)
