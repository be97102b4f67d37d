"""The pipeline at toy size: 64 pictures of 16 px in four classes, a two-layer encoder, eight codes.

Each stage is called as its command calls it, by `run(stage, root)`, in this process or in a fresh one.
"""

import contextlib
import copy
import multiprocessing
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from unittest import mock

import forks
import numpy as np
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
BOTH = [ROOT, ROOT / "studies"]  # folders with a dvc.yaml and a params.yaml; `stages` is imported by no line here
TEXT = "\n".join((folder / "params.yaml").read_text() for folder in BOTH)  # all sections as if in one file
PARAMS = YAML(typ="safe").load(TEXT)  # read only
OF_STUDIES = set(YAML(typ="safe").load(BOTH[1] / "params.yaml"))
STAGES = {
    name: stage for folder in BOTH for name, stage in YAML(typ="safe").load(folder / "dvc.yaml")["stages"].items()
}
IMAGES, CLASSES, IMG_PX = 64, ("bars", "columns", "dark", "light"), 16

OPTIM = {"total_steps": 12, "batch_size": 8, "warmup_share": 0.17, "eval_share": 0.33, "precision": "fp32"}
CONV = {"widths": [16, 8, 8], "blocks": 1, "perceptual_blocks": [1], "gan": {"start_share": 0.67}, "optim": OPTIM}
RENDER = {"model": {"dim": 32, "depth": 2, "heads": 2}, "optim": OPTIM}
ADDP = {"encoder": {"dim": 32, "depth": 1, "heads": 2}, **RENDER}
CHANGES = {
    "machine": {"device": "cpu", "num_workers": 0, "infer_batch_size": 16, "compile": "off"},
    "data": {"source": "folder", "folder": "pictures", "img_px": IMG_PX, "val_fraction": 0.3, "shard_images": 10},
    "pretrained": ["digits"],
    "alternating_generators": ["addp"],
    "encoder": {"img_px": IMG_PX},
    "features": {"block": 1, "shard_images": 10},
    "codebook": {
        "kmeans": {"num_codes": 8, "iterations": 3},
        "cluster": {"num_codes": 8, "optim": OPTIM},
        "vqkd": {"num_codes": 8, "dim": 4, "encoder": {"dim": 32, "depth": 1, "heads": 2}, "optim": OPTIM},
        "vqgan": {"num_codes": 8, **CONV},
        "fsq": {"levels": [4, 2], **CONV},
    },
    "tokens": {"views": 2},
    "decoder": {"onestep": CONV, "diffusion": CONV, "render_ar": RENDER, "render_masked": RENDER},
    "generator": {"model": {"dim": 32, "depth": 2, "heads": 2}, "ar": OPTIM, "masked": OPTIM, "addp": ADDP},
    "samples": {"draws": {"per_class": 5, "seeds": [0, 1]}, "addp": {"steps": 4}},
    "classifier": {"img_px": 8, "widths": [8, 8], "optim": OPTIM},
    "reference": {"prc_neighbors": 2, "pixel_px": 8},
    "reconstruction": {"bootstrap_draws": 3},
    "generation": {"kid_subset_size": 8, "neighbors_shown": 4},
    "probe": {"block": 1, "shots": 2, "few_draws": 2},
    "code_analysis": {
        "bootstrap_draws": 3,
        "gallery": {"most_used": 2, "others": 2, "patches": 3},
        "tsne": {"features": 60, "perplexity": 5.0, "iterations": 250},
    },
    "ablation": {"num_codes": [4], "dims": [2], "cell": {"iterations": 3, "bootstrap_draws": 3}},
    "layer_probe": {"folds": 2},
    "noise_robustness": {"snrs_db": [20, 0], "seeds": [0, 1]},
    "code_noise_fid": {"decoders": ["onestep"], "grid": {"alphas": [0, 1], "delta_shares": [0.01, 1], "seeds": [0, 1]}},
    "pca_vs_lda": {"noise_sigmas": [0.0, 1.0], "train_samples": 50, "test_samples": 100, "seeds": [0, 1]},
    "decoding_steps": {
        "steps": [1, 2], "seeds": [0, 1], "perceptual_blocks": [1], "bootstrap_draws": 3, "images_shown": 4
    },
    "resolution_transfer": {"scales": [1, 2], "max_images": 12, "bootstrap_draws": 3, "images_shown": 3},
}  # fmt: skip
FEW_STEPS = {**OPTIM, "total_steps": 4, "warmup_share": 0.5, "eval_share": 1.0}
PRETRAIN = {"digits": {"source": "folder", "dim": 32, "depth": 2, "heads": 2, "optim": FEW_STEPS}}


def write_params(root: Path, changes: dict | None = None) -> Path:
    """params.yaml and pretrain.yaml of the repository, with the toy's values and then `changes` laid over them."""
    write_layers(root / "pretrain.yaml", PRETRAIN)
    return write_layers(root / "params.yaml", CHANGES, changes or {})


def write_layers(path: Path, *layers: dict) -> Path:
    """The repository's file of the same name, and the studies' one beside it, with layers laid over them."""
    params = copy.deepcopy(PARAMS) if path.name == "params.yaml" else YAML(typ="safe").load(ROOT / path.name)
    for layer in layers:
        _lay_over(params, layer)
    return write_parts(path, params)


def write_parts(path: Path, params: dict) -> Path:
    """Each section in the file of that name that has it in the repository: `path`, or that in studies/ beside it."""
    studies = OF_STUDIES if path.name == "params.yaml" else set()
    parts = {path: params.keys() - studies, path.parent / "studies" / path.name: studies & params.keys()}
    for part, keys in parts.items():
        if keys or part == path:
            part.parent.mkdir(exist_ok=True)
            with open(part, "w", encoding="utf-8") as file:
                YAML(typ="safe").dump({key: one for key, one in params.items() if key in keys}, file)
    return path


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


LISTS = {  # what the matrices of dvc.yaml run over
    "${pretrained}": ["digits"],
    "${tokenizers}": ["kmeans"],
    "${decoders}": ["onestep"],
    "${generators}": ["ar", "masked"],
    "${alternating_generators}": ["addp"],
    "${text_encoders}": [],
    "${caption_checkers}": [],
    "${recognition_tasks}": [],
    "${recognition_networks}": [],
    "${ablation.num_codes}": [4],
    "${ablation.dims}": [2],
    "${code_noise_fid.decoders}": ["onestep"],
}


def items(stage: dict, lists: dict[str, list]) -> Iterator[dict[str, str]]:
    """{"item.tokenizer": "kmeans", …} of every member of a stage of dvc.yaml."""
    matrix = stage.get("matrix", {})
    for values in product(*(lists[given] for given in matrix.values())):
        yield {f"item.{key}": str(value) for key, value in zip(matrix, values, strict=True)}


def fill(text: str, item: dict[str, str]) -> str:
    """A text of dvc.yaml for one member."""
    return re.sub(r"\$\{([\w.]+)\}", lambda match: item.get(match[1], match[0]), text)


def members(name: str, stage: dict) -> dict[str, str]:
    """{name: what follows `python -m`} of a stage of dvc.yaml; `name@member` where it has several members.

    Of the stage `code`, which has two commands, the second: the first reads the repository's own dvc.yaml.
    """
    command = stage["cmd"] if isinstance(stage["cmd"], str) else stage["cmd"][-1]
    found = {"-".join(item.values()): fill(command, item) for item in items(stage, LISTS)}
    keys = {member: name if len(found) == 1 else f"{name}@{member}" for member in found}
    return {keys[member]: " ".join(line.split()).removeprefix("python -m ") for member, line in found.items()}


def commands() -> dict[str, str]:
    """Every command of dvc.yaml in an order that works: the report reads the studies below it."""
    names = [name for name in STAGES if name != "report" and "cmd" in STAGES[name]] + ["report"]
    return {key: line for name in names for key, line in members(name, STAGES[name]).items()}


COMMANDS = commands()
LAST_OF_TOY = "pixel_tokenizer"  # tokens stand before it


def line_of(command: str) -> str:
    """What follows `python -m`. `codebook@vqgan` and the like are commands of names that the toy does not list."""
    stage, _, name = command.partition("@")
    return COMMANDS.get(command) or COMMANDS[stage].replace("kmeans" if stage == "codebook" else "onestep", name)


def run(command: str, root: Path) -> None:
    """Call a command's main() as `python -m` would, in `root`, in this process."""
    run_line(line_of(command), root)


def run_line(line: str, root: Path) -> None:
    """The same for a line that follows `python -m`, between the checks of `runtime.run`."""
    from importlib import import_module

    from stages.core import code

    module, *arguments = shlex.split(line)
    with contextlib.chdir(root), mock.patch.object(sys, "argv", [module, *arguments]):
        code.begin()
        try:
            import_module(module).main()
            code.check()
        finally:
            code.end()


def run_until_tokens(root: Path) -> None:
    """pictures → images → encoder weights → encoder → features → codebook → pixel tokenizer, tokens."""
    write_params(root)
    draw_pictures(root / "pictures")
    for command in COMMANDS:
        run(command, root)
        if command == LAST_OF_TOY:
            return


@contextlib.contextmanager
def process(command: str, root: Path) -> Iterator[multiprocessing.Process]:
    """The command in a process of its own. What it prints is appended to <command>.log in `root`."""
    with forks.forked(_child, command, str(root)) as child:
        yield child


@contextlib.contextmanager
def process_of_its_own_stages(line: str, root: Path) -> Iterator[multiprocessing.Process]:
    """`python -m <line>` with the `stages` of `root`, not the repository's. What it prints is in said.log."""
    with forks.forked(_child_of_its_own_stages, line, str(root)) as child:
        yield child


def _child(command: str, root: str) -> None:
    import torch

    os.chdir(root)
    torch.set_num_threads(1)
    with open(f"{command}.log", "a") as log, contextlib.redirect_stdout(log):
        run(command, Path(root))


def _child_of_its_own_stages(line: str, root: str) -> None:
    assert "stages" not in sys.modules
    os.chdir(root)
    sys.path.insert(0, root)
    sys.argv = shlex.split(line)
    with open("said.log", "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    from stages.core.artifact import sha256

    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
