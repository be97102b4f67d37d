"""A bad parameter or input stops its stage before any work, naming the key, the value and what is allowed.

Run: uv run pytest tests/test_params.py
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy as toys
from ruamel.yaml import YAML

from stages.core import UserError
from stages.core.params import Section, load

BAD = [
    # command, what to change, what the message must contain
    ("data", {"data": {"source": "imagenet"}}, ["data.source", "imagenet", "digits", "folder"]),
    ("data", {"data": {"folder": "nowhere"}}, ["data", "nowhere", "folder"]),
    ("data", {"data": {"img_px": 0}}, ["data.img_px = 0", "greater than or equal to 8"]),
    ("data", {"data": {"img_px": "32"}}, ["data.img_px = '32'", "integer"]),
    ("data", {"data": {"val_fraction": 1.0}}, ["data.val_fraction = 1.0", "less than 1"]),
    ("data", {"data": {"color": True}}, ["data.color", "unknown key", "img_px"]),
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
    ("code_analysis", {"code_analysis": {"tsne": {"classes": 21}}}, ["tsne.classes = 21", "less than or equal to 20"]),
    ("code_analysis", {"code_analysis": {"gallery": {"most_used": 0}}}, ["code_analysis.gallery.most_used = 0"]),
    ("ablation", {"ablation": {"cell": {"max_vectors": 3}}}, ["ablation.num_codes = 4", "from 1 to the 3 vectors"]),
    ("ablation", {"ablation": {"cell": {"iterations": 0}}}, ["ablation.cell.iterations = 0"]),
    ("pixel_tokenizer", {"pixel_tokenizer": {"onestep": "kmeans"}},
     ["pixel_tokenizer.onestep = 'kmeans'", "a decoder of its own; kind kmeans has none"]),
    ("pixel_tokenizer", {"pixel_tokenizer": {"onestep": "vqgan"}},
     ["pixel_tokenizer.onestep = 'vqgan'", "one of `tokenizers`: kmeans"]),
    ("pixel_tokenizer", {"pixel_tokenizer": ["kmeans"]}, ["pixel_tokenizer = ['kmeans']", "expected {decoder:"]),
    ("decoder", {"decoder": {"onestep": {"kind": "wizard"}}}, ["decoder.onestep.kind = 'wizard'", "one of onestep"]),
    ("decoder", {"decoder": {"onestep": {"widths": [16, 12, 8]}}}, ["widths = [16, 12, 8]", "multiples of 8"]),
    ("decoder", {"decoder": {"onestep": {"perceptual_blocks": [5]}}}, ["onestep.perceptual_blocks = [5]", "0 to 1"]),
    ("decoder", {"decoder": {"onestep": {"optim": {"lr_peak": float("nan")}}}}, ["optim.lr_peak = nan", "finite"]),
    ("decoder", {"decoder": {"onestep": {"lpips_vgg16": "vgg.pth"}}}, ["vgg.pth", "section weights", ".safetensors"]),
    ("generator@kmeans-ar", {"generator": {"model": {"heads": 3}}}, ["heads = 3", "divisor", "32"]),
    ("generator@kmeans-ar", {"generator": {"ar": {"total_steps": 0}}}, ["generator.ar.total_steps = 0"]),
    ("generator@kmeans-ar", {"generator": {"model": {"dropout": 1.0}}}, ["generator.model.dropout = 1.0"]),
]  # fmt: skip
BAD_SAMPLING = [
    ("samples@kmeans-ar", {"samples": {"ar": {"top_p": 1.5}}}, ["samples.ar.top_p = 1.5", "less than or equal to 1"]),
    ("samples@kmeans-ar", {"samples": {"ar": {"temperature": 0}}}, ["samples.ar.temperature = 0", "greater than 0"]),
    ("samples@kmeans-ar", {"samples": {"draws": {"seeds": [1, 1]}}}, ["seeds: [1, 1]", "different"]),
    ("samples@kmeans-masked", {"samples": {"masked": {"steps": 0}}}, ["samples.masked.steps = 0"]),
]


def call(command: str, root: Path) -> str:
    """What a stage says when it refuses to start."""
    with pytest.raises(UserError) as refusal:
        toys.run(command, root)
    return str(refusal.value)


@pytest.fixture(scope="module")
def workplace(toy, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("params") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    (root / "weights.pt").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    for command in ("generator@kmeans-ar", "generator@kmeans-masked"):
        toys.run(command, root)
    return root


@pytest.mark.parametrize(("command", "changes", "words"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_value_stops_the_stage_at_the_door(command, changes, words, workplace):
    toys.write_params(workplace, changes)
    text = call(command, workplace)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(("command", "changes", "words"), BAD_SAMPLING, ids=lambda value: str(value)[:60])
def test_a_bad_sampling_value_stops_at_the_door(command, changes, words, trained):
    toys.write_params(trained, changes)
    text = call(command, trained)
    assert all(word in text for word in words), text


def test_a_user_sees_one_line_and_status_2(workplace):
    toys.write_params(workplace, {"data": {"img_px": 0}})
    command = [sys.executable, "-m", *shlex.split(toys.COMMANDS["data"])]
    env = {**os.environ, "PYTHONPATH": str(toys.ROOT)}
    done = subprocess.run(command, cwd=workplace, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: params.yaml: data.img_px = 0") and done.stderr.count("\n") == 1


def test_a_missing_key_and_a_missing_section_are_named(workplace):
    path = toys.write_params(workplace)
    params = YAML(typ="safe").load(path)
    del params["codebook"]["kmeans"]["iterations"], params["tokens"]
    with open(path, "w") as file:
        YAML(typ="safe").dump(params, file)
    assert "codebook.kmeans.iterations: missing" in call("codebook", workplace)
    assert "tokens: this section is missing" in call("tokens", workplace)


def test_broken_yaml_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load("data", Section, tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("data: [1, 2")
    with pytest.raises(UserError, match="not valid YAML"):
        load("data", Section, tmp_path / "params.yaml")


def test_every_bad_key_is_named_at_once(workplace):
    toys.write_params(workplace, {"data": {"img_px": -1, "val_fraction": 3.0}})
    text = call("data", workplace)
    assert "data.img_px = -1" in text and "data.val_fraction = 3.0" in text


# Commands that need no artifact, by default or at all.
FIRST = {"code", "data", "encoder", "tokenizer_inputs", "captions", "pixel_tokenizer", "pca_vs_lda", "report"}
UPSTREAM = [name for name in toys.COMMANDS if name not in FIRST]


@pytest.mark.parametrize("command", UPSTREAM)
def test_a_missing_upstream_artifact_is_named_with_what_to_do(command, tmp_path):
    toys.write_params(tmp_path)
    text = call(command, tmp_path)
    assert "no artifact here" in text and "dvc repro" in text, text
