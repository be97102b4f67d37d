"""A small pipeline for tests: 16 px digits, an untrained encoder, codes that are training patches, random samples."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from scoring import write_classifier, write_decoder, write_reference

from stages.core import artifact
from stages.core.params import Machine

if TYPE_CHECKING:
    import torch

MACHINE = Machine(
    device="cpu", num_workers=0, infer_batch_size=100, micro_batch_size=0, shard_above=1e9,
    recompute_activations=False, compile="off", checkpoint_share=0.02, tracker="none",
)  # fmt: skip
NUM_CODES, PATCH_PX = 64, 4


def build(root: Path) -> SimpleNamespace:
    """Artifacts below `root`: 300 images, encoder, classifier, reference, codebook, decoder, samples of `ar`."""
    toy = SimpleNamespace(root=root, images=root / "images", encoder=root / "encoder", codebook=root / "codebook")
    write_images(toy.images)
    write_encoder(toy.encoder)
    toy.patches = write_codebook(toy)
    toy.classifier = root / "classifier"
    write_classifier(toy.images, toy.classifier, MACHINE)
    toy.reference = root / "reference"
    write_reference(toy.images, toy.encoder, toy.classifier, toy.reference, MACHINE)
    toy.samples = root / "samples"
    write_decoder(root / "decoder", NUM_CODES, grid=4)
    write_samples(toy, "ar")
    return toy


def write_images(out: Path, classes: int = 10) -> None:
    """200 train and 100 val images of the digits in scikit-learn; no classes if `classes` is 0."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.repeat(np.repeat(digits.images[:300] * 15.9, 2, 1), 2, 2)[..., None].repeat(3, 3).astype(np.uint8)
    labels = digits.target[:300] if classes else np.full(300, -1)
    write_image_artifact(out, images, labels, [str(one) for one in range(classes)])


def write_image_artifact(out: Path, images: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    """An images artifact made by the data stage itself from files in a folder."""
    import photos
    from PIL import Image

    from stages.data.writer import write_images

    source = out.with_name(f"{out.name}-source")
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = source / classes[label] if classes else source
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    params = photos.params(source, img_px=images.shape[1], val_fraction=0.33, shard_images=1000)
    with contextlib.chdir(out.parent):
        write_images(out, params, MACHINE)


def write_encoder(out: Path) -> None:
    """An untrained two-block network."""
    from safetensors.torch import save_file

    from stages.encoder.vit import build_vit

    shape = {"img_px": 16, "patch_px": PATCH_PX, "dim": 32, "depth": 2, "heads": 2}
    config = {"name": "embedded", "img_px": 16, "precision": "fp32", "patch_px": PATCH_PX, "dim": 32, "depth": 2}
    config |= {"shape": shape, "seed": 0, "mean": [0.5] * 3, "std": [0.5] * 3}
    with artifact.new_artifact(out, "encoder", config) as folder:
        state = build_vit(**shape, seed=0).state_dict()
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "model.safetensors")


def write_codebook(toy: SimpleNamespace) -> np.ndarray:
    """Features of random training patches as codes; returns those patches, uint8 [K, 4, 4, 3]."""
    from safetensors.torch import save_file

    from stages.core.images import to_float
    from stages.data.reader import ImageSplit
    from stages.encoder.encoder import load_encoder

    images = ImageSplit(toy.images, "train").read(range(100))
    feats = load_encoder(toy.encoder)(to_float(images), blocks=[0], final_norm=False)[0].flatten(0, 1)
    patches = images.reshape(100, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, 3)
    chosen = np.random.default_rng(0).choice(len(feats), NUM_CODES, replace=False)
    config = {
        "num_codes": NUM_CODES,
        "dim": 32,
        "dtype": "uint16",
        "normalize": False,
        "blocks": [0],
        "layers": "concat",
        "final_norm": False,
    }
    config |= {
        "kind": "kmeans",
        "name": "kmeans",
        "codebooks": 1,
        "grid": 4,
        "num_patches": 16,
        **{"img_px": 16, "crop": "center", "background": "#ffffff"},
        "inputs": {"encoder": artifact.digest(toy.encoder)},
    }
    with artifact.new_artifact(toy.codebook, "codebook", config) as folder:
        artifact.copy(toy.encoder, folder / "encoder")
        save_file({"vectors": feats[chosen].contiguous()}, folder / "codes.safetensors")
    return patches[chosen]


def write_samples(toy: SimpleNamespace, name: str, labels: np.ndarray | None = None) -> None:
    """Two seeds of 60 samples: codes of val images of the asked class, every tenth code drawn at random."""
    from stages.codebook.tokenizer import load_tokenizer
    from stages.data.reader import ImageSplit

    val, rng = ImageSplit(toy.images, "val"), np.random.default_rng(0)
    order = np.argsort(val.labels, kind="stable")[:60]
    codes = np.stack([load_tokenizer(toy.codebook).encode(val.read(order))] * 2)
    noise = rng.random(codes.shape) < 0.1
    codes[noise] = rng.integers(0, NUM_CODES, noise.sum())
    likelihood = {"bound": "exact", "val_nats_per_code": 2.0, "val_perplexity": 7.4, "val_bits_per_image": 46.0}
    generator = {"name": name, "likelihood": {**likelihood, "unigram_perplexity": 20.0}}
    facts = {"seeds": [0, 1], "labels": "equal", "classes": val.classes, "sampling": {"temperature": 1.0}}
    config = {**facts, "generator": generator}
    with artifact.new_artifact(toy.samples / name, "samples", {**config, "inputs": {}}) as folder:
        np.save(folder / "codes.npy", codes)
        np.save(folder / "labels.npy", val.labels[order] if labels is None else labels)


def pixels_of(toy: SimpleNamespace, count: int) -> torch.Tensor:
    """The first val images as networks take them, float32 [count, 3, 16, 16]."""
    from stages.core.images import to_float
    from stages.data.reader import ImageSplit

    return to_float(ImageSplit(toy.images, "val").read(range(count)))


class PatchDecoder:
    """Puts the training patch of each code in its place."""

    def __init__(self, patches: np.ndarray):
        self.patches = patches

    def decode(self, codes: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """codes [B, 16] -> uint8 [B, 16, 16, 3]."""
        tiles = self.patches[codes].reshape(-1, 4, 4, 4, 4, 3)
        return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 16, 16, 3)
