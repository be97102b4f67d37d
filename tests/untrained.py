"""A folder data/ with all that the commands of stages/use/ read, of networks with random weights: 16 px, 16 codes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from toy_pipeline import write_encoder

from stages.codebook.quantizers import VECTORS
from stages.core import artifact
from stages.core.code import import_kind
from stages.core.networks import save_tensors
from stages.decoder import onestep
from stages.generator.params import KINDS
from stages.generator.transformer import build_network

PX, GRID, NUM_CODES, DIM = 16, 4, 8, 32
CODES = {"num_codes": NUM_CODES, "codebooks": 1, "grid": GRID}
MODEL = {"dim": 16, "depth": 1, "heads": 2, "dropout": 0.0}


def write_data(data: Path, classes: tuple[str, ...] = ("one", "two", "three")) -> Path:
    """Tokenizer kmeans, decoders onestep and other, generators ar, masked and parallel_ar."""
    data.mkdir()
    write_codebook(data / "codebook/kmeans")
    for seed, name in enumerate(("onestep", "other")):
        write_decoder(data, name, seed)
    for kind in ("ar", "masked", "parallel_ar"):
        write_generator(data, kind, list(classes))
    return data


def write_codebook(out: Path) -> None:
    """Random vectors over the features of an untrained encoder."""
    write_encoder(out.parents[1] / "encoder")
    config = {
        "kind": "kmeans", "name": "kmeans", **CODES, "dim": DIM, "dtype": "uint16", "normalize": False,
        "num_patches": GRID**2, "blocks": [1], "layers": "concat", "final_norm": True, "img_px": PX,
        "crop": "center", "background": "#ffffff", "inputs": {},
    }  # fmt: skip
    with artifact.new_artifact(out, "codebook", config) as folder:
        artifact.copy(out.parents[1] / "encoder", folder / "encoder")
        vectors = torch.randn(NUM_CODES, DIM, generator=torch.Generator().manual_seed(0))
        save_tensors(folder / VECTORS, {"vectors": vectors})


def write_decoder(data: Path, name: str, seed: int) -> None:
    """Kind onestep."""
    made_from = {"codebook": artifact.digest(data / "codebook/kmeans")}
    config = {"kind": "onestep", "name": name, "tokenizer": "kmeans", **CODES, "img_px": PX, "inputs": made_from}
    config |= {"widths": [8, 8, 8], "blocks": 1}
    torch.manual_seed(seed)
    with artifact.new_artifact(data / f"decoder/kmeans-{name}", "decoder", config) as folder:
        save_tensors(folder / "model.safetensors", onestep.build(torch.randn(NUM_CODES, DIM), config).state_dict())


def write_generator(data: Path, kind: str, classes: list[str]) -> None:
    """Of three classes; its name is that of its kind."""
    module = import_kind(KINDS[kind].module)
    shape = {"num_codes": NUM_CODES, "num_patches": GRID**2, "grid": GRID, "num_classes": len(classes), **MODEL}
    shape |= {"causal": module.CAUSAL, "local": 0}
    config = {
        "kind": kind, "name": kind, "tokenizer": "kmeans", "classes": classes, "class_dropout": 0.1, "shape": shape,
        "sampling": KINDS[kind].plain.model_dump(), "inputs": {"codebook": artifact.digest(data / "codebook/kmeans")},
    }  # fmt: skip
    torch.manual_seed(0)
    with artifact.new_artifact(data / f"generator/kmeans-{kind}", "generator", config) as folder:
        save_tensors(folder / "model.safetensors", build_network(module, shape).state_dict())


def write_pictures(folder: Path) -> None:
    """Image files of many kinds, and three that cannot be used: broken, cut, of another type."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    (folder / "deep/er").mkdir(parents=True)
    noise.save(folder / "plain.png")
    noise.convert("P").save(folder / "palette.png")
    noise.convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(rng.integers(0, 65536, (20, 20)).astype(np.uint16)).save(folder / "sixteen.png")
    noise.convert("RGBA").rotate(45).save(folder / "deep/transparent.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise.save(folder / "deep/turned.jpg", exif=turned)
    noise.save(folder / "deep/er/moving.gif", save_all=True, append_images=[noise.rotate(90)])
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:300])
    (folder / "notes.pdf").write_bytes(b"%PDF")
