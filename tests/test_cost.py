"""`semtok cost` counts what trainings really compute; of render decoders, only that they have a cost.

Run: uv run pytest tests/test_cost.py
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy as toys
from torch.utils.flop_counter import FlopCounterMode

from pipeline import cost as table
from pipeline import params_check
from pipeline.errors import PipelineError
from stages import cost
from stages.core import UserError
from stages.core.train import StepBatches
from stages.cost import Cost, Costs
from stages.cost_images import Images, images_of
from stages.data.params import Params as Data
from stages.studies.decoding_variants import PACKED_PRODUCTS

STEPS = (3, 5)
FIRST, STOP = 1, 3  # as many steps, whose operations are counted
EVERY = {  # all kinds beside each other
    "tokenizers": ["kmeans", "cluster", "vqkd", "vqgan", "fsq"],
    "decoders": ["onestep", "diffusion", "render_ar", "render_masked"],
}
PLAYING = {"gan": {"weight": 0.5, "start_share": 0.0}}  # the discriminator from the first step on
OF_FEATURES = {"gan": {"weight": 0.5, "start_share": 0.0, "discriminator": "features"}}
HOLDS = {"tokenizer": "codebook", "decoder": "decoder"}  # list -> section of its members
TRAININGS = [  # stage, command of the toy, section whose total_steps changes, other changes of it, tolerance
    ("codebook@cluster", "codebook", "codebook.cluster", {}, 0.05),
    ("codebook@vqkd", "codebook", "codebook.vqkd", {}, 0.1),
    ("codebook@vqgan", "codebook", "codebook.vqgan", {}, 0.1),
    ("codebook@vqgan", "codebook", "codebook.vqgan", PLAYING, 0.15),
    ("codebook@fsq", "codebook", "codebook.fsq", {}, 0.1),
    ("decoder@kmeans-onestep", "decoder", "decoder.onestep", {}, 0.1),
    ("decoder@kmeans-onestep", "decoder", "decoder.onestep", PLAYING, 0.15),
    ("decoder@kmeans-onestep", "decoder", "decoder.onestep", OF_FEATURES, 0.15),
    ("decoder@kmeans-diffusion", "decoder", "decoder.diffusion", {}, 0.1),
    ("generator@kmeans-ar", "generator@kmeans-ar", "generator.ar", {}, 0.05),
    ("generator@kmeans-masked", "generator@kmeans-masked", "generator.masked", {}, 0.1),
    ("alternating_generator@kmeans-addp", "alternating_generator", "generator.addp", {}, 0.1),
    ("classifier", "classifier", "classifier", {}, 0.15),
]

BUILT_ON = {"alternating_generator": ("decoder", "generator@kmeans-masked", "frozen_networks")}


@pytest.fixture(autouse=True)
def project(toy, workdir):
    """What the toy's params name: a folder of images, an embedded encoder."""
    (workdir / "pictures").mkdir()
    shutil.copytree(toy / "weights", workdir / "weights")


def costs_of(changes: dict, images: Images | None = None) -> Iterator[tuple[str, Cost]]:
    """The costs of the toy with changed params, as params.yaml of the working directory."""
    return Costs(toys.write_params(Path(), changes), images or Images(30, 10, 4)).stages()


def cost_of(stage: str, changes: dict, images: Images | None = None) -> Cost:
    """That of one stage; those after it are not counted."""
    return next(found for name, found in costs_of(changes, images) if name == stage)


def changes_of(section: str, steps: int, more: dict) -> dict:
    """The section a.b with other steps, which evaluates at its end alone; a discriminator plays only if `more` says."""
    optim = {"total_steps": steps, "eval_share": 1.0}
    name, _, kind = section.partition(".")
    values = (
        optim
        if section in ("generator.ar", "generator.masked")
        else {"optim": optim, **({"gan": {"weight": 0.0}} if has_gan(section) else {})}
    )
    return {name: {kind: {**values, **more}} if kind else {**values, **more}}


def has_gan(section: str) -> bool:
    return section.endswith(("vqgan", "fsq", "onestep", "diffusion"))


@pytest.mark.parametrize(("stage", "command", "section", "more", "tolerance"), TRAININGS)
def test_a_training_computes_as_much_per_step_as_was_announced(
    stage, command, section, more, tolerance, toy, tmp_path, monkeypatch
):
    kind = section.rpartition(".")[2]
    line = toys.COMMANDS[command]
    if kind == "diffusion":
        line = line.replace("onestep", kind).replace(f"pixel_tokenizer/{kind}", "pixel_tokenizer/onestep")
    if command == "codebook":
        line = line.replace("kmeans", kind).replace(f"--inputs data/inputs/{kind} ", "")
    changes, announced = {}, []
    for steps in STEPS:
        changes = changes_of(section, steps, more)
        changes |= {f"{one}s": [kind] for one in ("tokenizer", "decoder") if section.startswith(HOLDS[one])}
        announced.append(cost_of(stage, changes).flops)
    root = shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))
    toys.write_params(root, changes)
    for first in BUILT_ON.get(command, ()):
        toys.run(first, root)
    assert announced[1] - announced[0] == pytest.approx(counted_in_steps(line, root, monkeypatch), rel=tolerance)


class Counted(Exception):
    """Ends a training whose operations are known."""


def counted_in_steps(line: str, root: Path, monkeypatch) -> int:
    """The operations of the steps from FIRST to STOP, at which the training ends."""
    counter, batch_at = FlopCounterMode(display=False, custom_mapping=PACKED_PRODUCTS), StepBatches.__getitem__

    def count(batches: StepBatches, step: int):
        if step == FIRST:
            counter.__enter__()
        if step == STOP:
            counter.__exit__(None, None, None)
            raise Counted
        return batch_at(batches, step)

    monkeypatch.setattr(StepBatches, "__getitem__", count)
    with pytest.raises(Counted):
        toys.run_line(line, root)
    return counter.get_total_flops()


@pytest.mark.parametrize(("stage", "command"), [("features", "features"), ("tokens@kmeans", "tokens")])
def test_what_passes_all_images_through_a_network_computes_as_much_as_was_announced(stage, command, toy, tmp_path):
    shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))
    facts = json.loads((toy / "data/images/config.json").read_text())["splits"]
    images = Images(*(facts[split]["images"] for split in ("train", "val")), classes=4)
    shutil.rmtree(tmp_path / "toy/data" / command)
    with FlopCounterMode(display=False) as counter:
        toys.run(command, tmp_path / "toy")
    assert cost_of(stage, {}, images).flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_causal_transformer_has_the_operations_of_its_formula():
    found = cost_of("generator@kmeans-ar", {"generator": {"model": {"dim": 64, "depth": 3, "heads": 4}}})
    section = toys.CHANGES["generator"]["ar"]
    codes, positions, dim, depth = toys.CHANGES["codebook"]["kmeans"]["num_codes"], 16, 64, 3
    block = 2 * 12 * dim**2 * positions + 4 * positions**2 * dim
    forward = depth * block + 2 * positions * dim * codes
    assert found.flops == 3 * section["total_steps"] * section["batch_size"] * forward


def test_every_kind_has_a_cost_and_twice_the_steps_cost_twice_as_much():
    once = dict(costs_of(EVERY))
    assert len(once) == 2 + 5 * (2 + 3 * 2) + 2 + 3 * 20
    assert all(cost.flops > 0 for name, cost in once.items() if name != "data")
    steps = {"codebook": {"vqgan": {"optim": {"total_steps": 24}}}}
    assert cost_of("codebook@vqgan", EVERY | steps).flops == pytest.approx(2 * once["codebook@vqgan"].flops, rel=1e-3)


def test_scenes_are_counted_without_being_drawn(tmp_path):
    params = toys.write_params(tmp_path, {"data": {"source": "scenes", "scenes": {"count": 200_000}}})
    data = Data(**{**toys.YAML(typ="safe").load(params)["data"], "folder": "data/code/no_folder"})
    assert (images := images_of(data)).train + images.val == 200_000


def test_the_table_has_a_line_per_stage_and_a_sum(capsys, monkeypatch):
    costs = {"data": {"what": "5 images", "flops": 0, "disk_bytes": 2_000_000, "memory_bytes": 3 * 10**9}}
    costs |= {"features": {"what": "5 images", "flops": 4 * 10**15, "disk_bytes": 10**9, "memory_bytes": 2 * 10**9}}
    printed = json.dumps({"peak_flops": 1e12, "stages": costs})
    monkeypatch.setattr(table, "ask", lambda module, secs: (printed, []))
    monkeypatch.setattr(params_check, "find_errors", lambda: [])
    Path("scratch/durations").mkdir(parents=True)
    Path("scratch/durations/data.json").write_text('{"seconds": 61.2}')
    for gpu, time in (("H100", "12 s"), (None, "3.4 h")):
        assert table.main(gpu, None) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split() for line in lines[:4]] == [
            ["stage", "work", "operations", "data", "memory", "time", "took"],
            ["data", "5", "images", "2.0", "MB", "3.0", "GB", "61", "s"],
            ["features", "5", "images", "4.0", "PFLOP", "1.0", "GB", "2.0", "GB", *time.split()],
            ["sum", "4.0", "PFLOP", "1.0", "GB", "3.0", "GB", *time.split()],
        ]
    assert "1.0 TFLOP/s of this processor, just measured" in lines[-3]
    with pytest.raises(PipelineError, match="--gpu h999: expected one of b200"):
        table.main("h999", None)


def test_impossible_params_are_refused_before_anything_is_counted(monkeypatch):
    monkeypatch.setattr(params_check, "find_errors", lambda: ["params.yaml: one", "params.yaml: two"])
    with pytest.raises(PipelineError, match="one\nparams.yaml: two"):
        table.main(None, None)


@pytest.mark.parametrize(
    ("changes", "images", "said"),
    [
        ({}, [0, 1, 1], "--images 0 1 1: expected 1 or more train and val images"),
        ({"encoder": {"name": "convnext_tiny"}}, None, "square grid of features"),
        ({"encoder": {"name": "vit_foo"}}, None, "neither in weights/ nor in timm"),
        ({"tokenizers": ["vqkd"], "codebook": {"vqkd": {"encoder": {"dim": 48}}}}, None, "cannot be built: ValueError"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_the_reason(changes, images, said):
    with pytest.raises(UserError, match=said):
        cost.costs_of(toys.write_params(Path(), changes), images or [30, 10, 4])


def test_features_of_its_own_block_are_read_not_computed_and_inception_counts():
    once, same, other = (
        cost_of("codebook@kmeans", {"codebook": {"kmeans": {"blocks": blocks}}}) for blocks in ([], [1], [0])
    )
    assert same == once != other
    Path("inception.safetensors").touch()
    own, more = (
        cost_of(
            "reference", {"alternating_generators": [], "weights": files, "reference": {"extractors": chosen}}
        ).flops
        for chosen, files in (({}, {}), ({"inception": "mine"}, {"mine": "inception.safetensors"}))
    )
    assert (more - own) / 40 == pytest.approx(11.4e9, rel=0.02)
