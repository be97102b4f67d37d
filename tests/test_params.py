"""A bad parameter or input stops its stage within three seconds of CPU, naming the key, the value and what is allowed.

Run: uv run pytest tests/test_params.py
"""

import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy as toys
from ruamel.yaml import YAML

from stages.core.errors import UserError
from stages.core.params import Section, load

BAD = [
    # command, what to change, what the message must contain
    ("data", {"data": {"source": "imagenet"}}, ["data.source", "imagenet", "digits", "folder"]),
    ("data", {"data": {"folder": "nowhere"}}, ["data", "nowhere", "folder"]),
    ("data", {"data": {"img_px": 0}}, ["data.img_px = 0", "greater than or equal to 8"]),
    ("data", {"data": {"img_px": "32"}}, ["data.img_px = '32'", "integer"]),
    ("data", {"data": {"val_fraction": 1.0}}, ["data.val_fraction = 1.0", "less than 1"]),
    ("data", {"data": {"colour": True}}, ["data.colour", "unknown key", "img_px"]),
    ("data", {"machine": {"device": "tpu"}}, ["machine.device = 'tpu'"]),
    ("encoder", {"encoder": {"img_px": 18}}, ["encoder.img_px = 18", "multiple", "4"]),
    (
        "encoder",
        {"encoder": {"name": "vit_base_patch14_reg4_dinov2.lvd142m", "img_px": 225}},
        ["encoder.img_px = 225", "14"],
    ),
    ("encoder", {"encoder": {"precision": "fp8"}}, ["encoder.precision = 'fp8'", "bf16"]),
    ("encoder", {"encoder": {"name": "vit_tiny_patch16_224", "weights": "gone.safetensors"}}, ["gone.safetensors"]),
    ("encoder", {"encoder": {"name": "vit_tiny_patch16_224", "weights": "weights.pt"}}, ["weights.pt", ".safetensors"]),
    ("features", {"features": {"block": 2}}, ["features.block = 2", "2 blocks", "-2", "1"]),
    ("features", {"features": {"block": -3}}, ["features.block = -3"]),
    ("features", {"features": {"final_norm": 1}}, ["features.final_norm = 1", "boolean"]),
    ("codebook", {"codebook": {"kmeans": {"num_codes": 0}}}, ["codebook.kmeans.num_codes = 0", "greater than 0"]),
    ("codebook", {"codebook": {"kmeans": {"num_codes": 10**6}}}, ["codebook.kmeans.num_codes = 1000000", "vectors"]),
    ("codebook", {"codebook": {"kmeans": {"num_codes": 20, "max_vectors": 10}}}, ["num_codes = 20", "10 vectors"]),
    ("codebook", {"codebook": {"kmeans": {"init": "best"}}}, ["codebook.kmeans.init = 'best'", "kmeans++"]),
    ("codebook", {"codebook": {"kmeans": {"kind": "vqvae"}}}, ["codebook.kmeans.kind = 'vqvae'", "one of kmeans"]),
    ("tokens", {"tokens": {"views": 0}}, ["tokens.views = 0"]),
    ("tokens", {"tokens": {"augment": {"scale": 1.5}}}, ["tokens.augment.scale = 1.5", "less than 1"]),
    ("anatomy", {"anatomy": {"tsne": {"perplexity": 60.0}}}, ["anatomy.tsne.perplexity = 60.0", "than the 60 rows"]),
    ("anatomy", {"anatomy": {"tsne": {"classes": 21}}}, ["anatomy.tsne.classes = 21", "less than or equal to 20"]),
    ("anatomy", {"anatomy": {"gallery": {"most_used": 0}}}, ["anatomy.gallery.most_used = 0"]),
    ("ablation", {"ablation": {"cell": {"max_vectors": 3}}}, ["ablation.num_codes = 4", "from 1 to the 3 vectors"]),
    ("ablation", {"ablation": {"cell": {"iterations": 0}}}, ["ablation.cell.iterations = 0"]),
    ("palette", {"palette": {"onestep": "kmeans"}}, ["palette.onestep = 'kmeans'", "vqgan or fsq", "of kind kmeans"]),
    ("palette", {"palette": {"onestep": "vqgan"}}, ["palette.onestep = 'vqgan'", "one of `tokenizers`: kmeans"]),
    ("palette", {"palette": ["kmeans"]}, ["palette = ['kmeans']", "a tokenizer's name for each decoder"]),
    ("decoder", {"decoder": {"onestep": {"kind": "wizard"}}}, ["decoder.onestep.kind = 'wizard'", "one of onestep"]),
    ("decoder", {"decoder": {"onestep": {"widths": [16, 12, 8]}}}, ["widths = [16, 12, 8]", "multiples of 8"]),
    ("decoder", {"decoder": {"onestep": {"perceptual_blocks": [5]}}}, ["onestep.perceptual_blocks = [5]", "0 to 1"]),
    ("decoder", {"decoder": {"onestep": {"optim": {"lr_peak": float("nan")}}}}, ["optim.lr_peak = nan", "finite"]),
    ("decoder", {"decoder": {"onestep": {"lpips_vgg16": "vgg.pth"}}}, ["vgg.pth", ".safetensors", "download"]),
    ("ar", {"generator": {"model": {"heads": 3}}}, ["heads = 3", "divisor", "32"]),
    ("ar", {"generator": {"ar": {"total_steps": 0}}}, ["generator.ar.total_steps = 0"]),
    ("ar", {"generator": {"model": {"dropout": 1.0}}}, ["generator.model.dropout = 1.0"]),
]  # fmt: skip
BAD_SAMPLING = [
    ("samples-ar", {"samples": {"ar": {"top_p": 1.5}}}, ["samples.ar.top_p = 1.5", "less than or equal to 1"]),
    ("samples-ar", {"samples": {"ar": {"temperature": 0}}}, ["samples.ar.temperature = 0", "greater than 0"]),
    ("samples-ar", {"samples": {"draws": {"seeds": [1, 1]}}}, ["seeds: [1, 1]", "different"]),
    ("samples-masked", {"samples": {"masked": {"steps": 0}}}, ["samples.masked.steps = 0"]),
]


def call(command: str, root: Path) -> tuple[int, str, float]:
    """Exit status, what it printed and how many seconds of CPU it took, as a user sees it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PYTHONPATH": str(toys.ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(toys.COMMANDS[command])], cwd=root, env=env, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    secs = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout + done.stderr, secs


@pytest.fixture(scope="module")
def workplace(toy, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("params") / "toy"
    shutil.copytree(toy, root)
    (root / "weights.pt").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "toy"
    shutil.copytree(toy, root)
    for command in ("ar", "masked"):
        toys.run(command, root)
    return root


@pytest.mark.parametrize(("command", "changes", "words"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_value_stops_the_stage_at_the_door(command, changes, words, workplace):
    toys.write_params(workplace, changes)
    status, text, secs = call(command, workplace)
    assert status == 2 and "Traceback" not in text, text
    assert all(word in text for word in words), text
    assert secs < 3


@pytest.mark.parametrize(("command", "changes", "words"), BAD_SAMPLING, ids=lambda value: str(value)[:60])
def test_a_bad_sampling_value_stops_at_the_door(command, changes, words, trained):
    toys.write_params(trained, changes)
    status, text, secs = call(command, trained)
    assert status == 2 and all(word in text for word in words), text
    assert secs < 3


def test_a_missing_key_and_a_missing_section_are_named(workplace):
    path = toys.write_params(workplace)
    params = YAML(typ="safe").load(path)
    del params["codebook"]["kmeans"]["iterations"], params["tokens"]
    with open(path, "w") as file:
        YAML(typ="safe").dump(params, file)
    assert "codebook.kmeans.iterations: missing" in call("codebook", workplace)[1]
    assert "tokens: this section is missing" in call("tokens", workplace)[1]


def test_broken_yaml_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load("data", Section, tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("data: [1, 2")
    with pytest.raises(UserError, match="not valid YAML"):
        load("data", Section, tmp_path / "params.yaml")


def test_every_bad_key_is_named_at_once(workplace):
    toys.write_params(workplace, {"data": {"img_px": -1, "val_fraction": 3.0}})
    text = call("data", workplace)[1]
    assert "data.img_px = -1" in text and "data.val_fraction = 3.0" in text


@pytest.mark.parametrize(
    "command",
    [
        "features",
        "codebook",
        "tokens",
        "decoder",
        "ar",
        "samples-ar",
        "stability",
        "reference",
        "evaluate",
        "anatomy",
        "ablation",
        "sweep",
        "resolution",
    ],
)
def test_a_missing_upstream_artefact_is_named_with_what_to_do(command, tmp_path):
    toys.write_params(tmp_path)
    status, text, _ = call(command, tmp_path)
    assert status == 2 and "no artefact here" in text and "dvc repro" in text, text


@pytest.mark.parametrize("module", [command.split()[0] for command in toys.COMMANDS.values()])
def test_help_says_how_to_run(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=toys.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Run:" in done.stdout and "Expect:" in done.stdout


def test_importing_any_command_or_loader_imports_nothing_heavy():
    modules = sorted({command.split()[0] for command in toys.COMMANDS.values()})
    packages = sorted({module.rsplit(".", 1)[0] for module in modules})
    code = (
        f"import sys, importlib\nfor name in {modules + packages}: importlib.import_module(name)\n"
        "heavy = ('torch', 'timm', 'faiss', 'sklearn', 'matplotlib', 'scipy', 'numpy', 'PIL')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toys.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
