"""The pipeline at toy size: 64 pictures of 16 px in four classes, a two-layer encoder, eight codes.

Each stage is called as its command calls it, by `run(stage, root)`, in this process or in a fresh one.
"""

import contextlib
import multiprocessing
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
IMAGES, CLASSES, IMG_PX = 64, ("bars", "columns", "dark", "light"), 16

OPTIM = {"total_steps": 12, "batch_size": 8, "warmup_steps": 2, "eval_every": 4, "precision": "fp32"}
PAINTER = {"widths": [16, 8, 8], "blocks": 1, "perceptual_blocks": [1], "gan": {"start_step": 8}, "optim": OPTIM}
RENDERER = {"model": {"dim": 32, "depth": 2, "heads": 2}, "optim": OPTIM}
CHANGES = {
    "machine": {"device": "cpu", "num_workers": 0, "infer_batch_size": 16, "checkpoint_secs": 1e9},
    "data": {"source": "folder", "folder": "pictures", "img_px": IMG_PX, "val_fraction": 0.3, "shard_images": 10},
    "pretrained": ["digits"],
    "pretrain": {
        "digits": {"source": "folder", "dim": 32, "depth": 2, "heads": 2, "optim": {**OPTIM, "total_steps": 4}}
    },
    "encoder": {"img_px": IMG_PX},
    "probe": {"block": 1, "few_labels": 2, "few_draws": 2},
    "features": {"block": 1, "shard_images": 10},
    "codebook": {
        "kmeans": {"num_codes": 8, "iterations": 3},
        "cluster": {"num_codes": 8, "optim": OPTIM},
        "vqkd": {"num_codes": 8, "dim": 4, "student": {"dim": 32, "depth": 1, "heads": 2}, "optim": OPTIM},
        "vqgan": {"num_codes": 8, **PAINTER},
        "fsq": {"levels": [4, 2], **PAINTER},
    },
    "tokens": {"views": 2},
    "anatomy": {
        "bootstrap_draws": 3,
        "gallery": {"most_used": 2, "others": 2, "patches": 3},
        "tsne": {"rows": 60, "perplexity": 5.0, "iterations": 250},
    },
    "ablation": {"num_codes": [4], "dims": [2], "cell": {"iterations": 3, "bootstrap_draws": 3}},
    "decoder": {"onestep": PAINTER, "diffusion": PAINTER, "render_ar": RENDERER, "render_masked": RENDERER},
    "generator": {"model": {"dim": 32, "depth": 2, "heads": 2}, "ar": OPTIM, "masked": OPTIM},
    "samples": {"draws": {"per_class": 5, "seeds": [0, 1]}},
    "stability": {"snrs_db": [20, 0], "seeds": [0, 1]},
    "projection": {"noise_sigmas": [0.0, 1.0], "train_samples": 50, "test_samples": 100, "seeds": [0, 1]},
    "judge": {"img_px": 8, "widths": [8, 8], "optim": OPTIM},
    "sweep": {"steps": [1, 2], "seeds": [0, 1], "perceptual_blocks": [1], "bootstrap_draws": 3, "images_shown": 4},
    "resolution": {"scales": [1, 2], "max_images": 12, "bootstrap_draws": 3, "images_shown": 3},
    "reference": {"prc_neighbours": 2, "pixel_px": 8},
    "evaluate": {"bootstrap_draws": 3, "kid_subset_size": 8, "neighbours_shown": 4},
}


def write_params(root: Path, changes: dict | None = None) -> Path:
    """params.yaml of the repository, with the toy's values and then `changes` laid over it."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for layer in (CHANGES, changes or {}):
        _lay_over(params, layer)
    with open(root / "params.yaml", "w") as file:
        YAML(typ="safe").dump(params, file)
    return root / "params.yaml"


def _lay_over(base: dict, layer: dict) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _lay_over(base[key], value)
        else:
            base[key] = value


def draw_pictures(folder: Path) -> None:
    """Noisy stripes, columns, dark and light squares, as PNG files by class."""
    rng = np.random.default_rng(0)
    stripes = np.arange(IMG_PX) % 8 < 4
    plain = {"bars": stripes[:, None] * 255, "columns": stripes[None] * 255, "dark": 30, "light": 220}
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES // len(CLASSES)):
            picture = np.broadcast_to(plain[name], (IMG_PX, IMG_PX))[..., None] + rng.normal(0, 25, (IMG_PX, IMG_PX, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


COMMANDS = {
    "data": "stages.data.prepare --out data/images",
    "pretrain": "stages.pretrain.train --name digits --images data/images --out weights/digits"
    " --curves reports/pretrain/digits",
    "encoder": "stages.encoder.fetch --embedded weights --out data/encoder",
    "probe": "stages.probe.linear --images data/images --encoder data/encoder --report reports/probe",
    "features": "stages.features.extract --images data/images --encoder data/encoder --out data/features",
    "codebook": "stages.codebook.fit --name kmeans --images data/images --encoder data/encoder --features data/features"
    " --out data/codebook/kmeans --report reports/codebook/kmeans",
    "tokens": "stages.tokens.encode --images data/images --codebook data/codebook/kmeans --out data/tokens/kmeans",
    "anatomy": "stages.anatomy.dissect --images data/images --codebook data/codebook/kmeans"
    " --report reports/anatomy/kmeans",
    "ablation": "stages.ablation.cell --num-codes 4 --dim 2 --images data/images --features data/features"
    " --report reports/ablation/4-2",
    "palette": "stages.palette.pick --name onestep --codebooks data/codebook --out data/palette/onestep",
    "decoder": "stages.decoder.train --name onestep --images data/images --encoder data/encoder"
    " --codebook data/codebook/kmeans --palette data/palette/onestep"
    " --out data/decoder/kmeans-onestep --report reports/decoder/kmeans-onestep",
    "ar": "stages.generator.train --name ar --tokens data/tokens/kmeans --out data/generator/kmeans-ar"
    " --report reports/generator/kmeans-ar",
    "masked": "stages.generator.train --name masked --tokens data/tokens/kmeans --out data/generator/kmeans-masked"
    " --report reports/generator/kmeans-masked",
    "samples-ar": "stages.samples.draw --generator data/generator/kmeans-ar --out data/samples/kmeans/ar",
    "samples-masked": "stages.samples.draw --generator data/generator/kmeans-masked --out data/samples/kmeans/masked",
    "stability": "stages.stability.measure --images data/images --codebook data/codebook/kmeans"
    " --report reports/stability/kmeans",
    "projection": "stages.projection.compare --report reports/projection",
    "judge": "stages.judge.train --images data/images --out data/judge --report reports/judge",
    "reference": "stages.reference.build --images data/images --encoder data/encoder --judge data/judge"
    " --out data/reference",
    "evaluate": "stages.evaluate.score --images data/images --encoder data/encoder --judge data/judge"
    " --reference data/reference --codebook data/codebook/kmeans --decoder data/decoder/kmeans-onestep"
    " --samples data/samples/kmeans --report reports/evaluate/kmeans-onestep",
    "sweep": "stages.sweep.measure --images data/images --encoder data/encoder --judge data/judge"
    " --codebook data/codebook/kmeans --decoder data/decoder/kmeans-onestep --report reports/sweep/kmeans-onestep",
    "resolution": "stages.resolution.measure --images data/images --codebook data/codebook/kmeans"
    " --decoder data/decoder/kmeans-onestep --report reports/resolution/kmeans-onestep",
    "report": "stages.report.build --reports reports --out reports/index.html",
}


def run(command: str, root: Path) -> None:
    """Call a command's main() as `python -m` would, in `root`, in this process."""
    run_line(COMMANDS[command], root)


def run_line(line: str, root: Path) -> None:
    """The same for a line that follows `python -m`."""
    from importlib import import_module

    module, *arguments = shlex.split(line)
    with contextlib.chdir(root), mock.patch.object(sys, "argv", [module, *arguments]):
        import_module(module).main()


def run_until_tokens(root: Path) -> None:
    """pictures → images → encoder weights → encoder → features → codebook → palette, tokens."""
    write_params(root)
    draw_pictures(root / "pictures")
    for command in ("data", "pretrain", "encoder", "features", "codebook", "palette", "tokens"):
        run(command, root)


@contextlib.contextmanager
def process(command: str, root: Path) -> Iterator[multiprocessing.Process]:
    """The command in a process of its own, forked from a server that has the slow imports behind it.

    What it prints is appended to <command>.log in `root`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "torch._dynamo", "dvclive", "toy"])
    child = context.Process(target=_child, args=(command, str(root)))
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def _child(command: str, root: str) -> None:
    import torch

    os.chdir(root)
    torch.set_num_threads(1)
    with open(f"{command}.log", "a") as log, contextlib.redirect_stdout(log):
        run(command, Path(root))


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    from stages.core.artefact import sha256

    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
