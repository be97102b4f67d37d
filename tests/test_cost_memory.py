"""The memory that `semtok cost` prints is what each stage announces when it starts, and follows its params.

Run: uv run pytest tests/test_cost_memory.py      (announced and measured: docs/log/speed.md)
"""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import toy as toys

from stages.core.params import Machine, load
from stages.cost import Costs
from stages.cost_images import Images

KINDS = {"tokenizers": ["kmeans", "cluster", "vqkd", "vqgan", "fsq"], "decoders": ["onestep", "diffusion"]}
ANNOUNCED = {  # stage -> command of the toy, module that prints
    "data": ("data", "stages.data.writer"),
    "features": ("features", "stages.features.writer"),
    "codebook@kmeans": ("codebook", "stages.codebook.kmeans"),
    "codebook@cluster": ("codebook@cluster", "stages.codebook.cluster"),
    "codebook@vqkd": ("codebook@vqkd", "stages.codebook.vqkd"),
    "codebook@vqgan": ("codebook@vqgan", "stages.codebook.autoencoder_training"),
    "codebook@fsq": ("codebook@fsq", "stages.codebook.autoencoder_training"),
    "tokens@kmeans": ("tokens", "stages.tokens.writer"),
    "decoder@kmeans-onestep": ("decoder", "stages.decoder.training"),
    "decoder@kmeans-diffusion": ("decoder@diffusion", "stages.decoder.training"),
    "generator@kmeans-ar": ("generator@kmeans-ar", "stages.generator.training"),
    "generator@kmeans-masked": ("generator@kmeans-masked", "stages.generator.training"),
    "classifier": ("classifier", "stages.evaluate.classifier_training"),
}


class Said(Exception):
    """Ends a stage once it has announced its memory."""


@pytest.fixture
def root(toy, tmp_path, monkeypatch) -> Path:
    """The toy, in the current folder; its params list every kind."""
    monkeypatch.chdir(shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch")))
    toys.write_params(Path(), KINDS)
    return Path()


def memory_of(stage: str, changes: dict) -> int:
    """Bytes for the toy's own images, with changed params. Stages after it and of other tokenizers are not counted."""
    alone = {"tokenizers": [stage.partition("@")[2].partition("-")[0] or "kmeans"]}
    facts = json.loads(Path("data/images/config.json").read_text())
    images = Images(*(facts["splits"][split]["images"] for split in ("train", "val")), len(facts["classes"]))
    stages = Costs(toys.write_params(Path(), {**KINDS, **alone, **changes}), images).stages()
    return next(cost.memory_bytes for name, cost in stages if name == stage)


@pytest.mark.parametrize("stage", ANNOUNCED)
def test_a_stage_announces_what_semtok_cost_printed(stage, root, monkeypatch):
    command, module = ANNOUNCED[stage]

    def said(name, out, counts, disk_bytes, memory_bytes):
        raise Said(memory_bytes)

    monkeypatch.setattr(import_module(module), "print_cost_estimate", said)
    line = toys.line_of(command).replace(f"pixel_tokenizer/{stage.rpartition('-')[2]}", "pixel_tokenizer/onestep")
    line = line.replace(" --inputs data/inputs/" + stage.partition("@")[2], "")
    with pytest.raises(Said) as announced:
        toys.run_line(line, root)
    assert announced.value.args[0] == pytest.approx(memory_of(stage, {}), rel=0.01)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("generator@kmeans-ar", {"generator": {"ar": {"batch_size": 4096}}}),
        ("generator@kmeans-ar", {"generator": {"model": {"dim": 1024, "heads": 2}}}),
        ("samples@kmeans-masked", {"machine": {"infer_batch_size": 10**5}}),
        ("decoder@kmeans-onestep", {"decoder": {"onestep": {"optim": {"batch_size": 4096}}}}),
        ("codebook@vqkd", {"codebook": {"vqkd": {"encoder": {"dim": 1024, "heads": 2}}}}),
        ("features", {"machine": {"infer_batch_size": 5000}}),
    ],
)
def test_more_work_at_once_takes_more_memory(stage, changes, root):
    assert memory_of(stage, changes) > 1.05 * memory_of(stage, {})


def test_micro_batches_and_processes_share_the_activations(root, monkeypatch):
    large = {"generator": {"ar": {"batch_size": 4096}}}
    whole, parts = (
        memory_of("generator@kmeans-ar", {**large, "machine": {"micro_batch_size": size}}) for size in (0, 1024)
    )
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert parts == memory_of("generator@kmeans-ar", large) < whole
    assert load("machine", Machine).micro_batch_size == 0
