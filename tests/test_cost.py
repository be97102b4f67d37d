"""`semtok cost` counts the operations that trainings really compute, for every kind, and scales measured times by them.

Run: uv run pytest tests/test_cost.py
"""

import json
import shutil
from pathlib import Path

import pytest
import toy as toys
from torch.utils.flop_counter import FlopCounterMode

from pipeline import cost as table
from pipeline.errors import PipelineError
from stages.cost import Costs, Images, images_of
from stages.data.params import Params as Data

STEPS = (4, 8)
EVERY = {  # all kinds beside each other
    "tokenizers": ["kmeans", "cluster", "vqkd", "vqgan", "fsq"],
    "decoders": ["onestep", "diffusion", "render_ar", "render_masked"],
}
TRAININGS = {  # stage -> command of the toy, section whose total_steps changes
    "decoder@kmeans-onestep": ("decoder", "decoder.onestep.optim"),
    "generator@kmeans-ar": ("generator@kmeans-ar", "generator.ar"),
    "classifier": ("classifier", "classifier.optim"),
}


@pytest.fixture(autouse=True)
def project(toy, workdir):
    """What the toy's params name: a folder of images, an embedded encoder."""
    (workdir / "pictures").mkdir()
    shutil.copytree(toy / "weights", workdir / "weights")


def costs_of(changes: dict, images: Images | None = None) -> dict:
    """The costs of the toy with changed params, as params.yaml of the working directory."""
    return dict(Costs(toys.write_params(Path(), changes), images or Images(30, 10, 4)).stages())


def changes_of(section: str, steps: int) -> dict:
    """{"a": {"b": {"total_steps": steps, …}}} for the section a.b, which evaluates at its end alone."""
    values: dict = {"total_steps": steps, "eval_every": 1000}
    for name in reversed(section.split(".")):
        values = {name: values}
    return values


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_training_computes_as_much_per_step_as_was_announced(stage, toy, tmp_path):
    command, section = TRAININGS[stage]
    counted, announced = [], []
    for steps in STEPS:
        changes = changes_of(section, steps)
        announced.append(costs_of(changes)[stage].flops)
        root = tmp_path / str(steps)
        shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
        toys.write_params(root, changes)
        with FlopCounterMode(display=False) as counter:
            toys.run(command, root)
        counted.append(counter.get_total_flops())
    assert announced[1] - announced[0] == pytest.approx(counted[1] - counted[0], rel=0.15)


@pytest.mark.parametrize(("stage", "command"), [("features", "features"), ("tokens@kmeans", "tokens")])
def test_what_passes_all_images_through_a_network_computes_as_much_as_was_announced(stage, command, toy, tmp_path):
    shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))
    facts = json.loads((toy / "data/images/config.json").read_text())["splits"]
    images = Images(*(facts[split]["images"] for split in ("train", "val")), classes=4)
    shutil.rmtree(tmp_path / "toy/data" / command)
    with FlopCounterMode(display=False) as counter:
        toys.run(command, tmp_path / "toy")
    assert costs_of({}, images)[stage].flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_causal_transformer_has_the_operations_of_its_formula():
    found = costs_of({"generator": {"model": {"dim": 64, "depth": 3, "heads": 4}}})["generator@kmeans-ar"]
    section = toys.CHANGES["generator"]["ar"]
    codes, positions, dim, depth = toys.CHANGES["codebook"]["kmeans"]["num_codes"], 16, 64, 3
    block = 2 * 12 * dim**2 * positions + 4 * positions**2 * dim
    forward = depth * block + 2 * positions * dim * codes
    assert found.flops == 3 * section["total_steps"] * section["batch_size"] * forward


def test_every_kind_has_a_cost_and_twice_the_steps_cost_twice_as_much():
    once = costs_of(EVERY)
    assert len(once) == 2 + 5 * (2 + 2 * 2) + 2 + 3 * 20
    assert all(cost.flops > 0 for name, cost in once.items() if name != "data")
    steps = {"codebook": {"vqgan": {"optim": {"total_steps": 24}, "gan": {"start_step": 16}}}}
    assert costs_of(EVERY | steps)["codebook@vqgan"].flops == pytest.approx(2 * once["codebook@vqgan"].flops, rel=1e-3)


def test_scenes_are_counted_without_being_drawn(tmp_path):
    params = toys.write_params(tmp_path, {"data": {"source": "scenes", "scenes": {"count": 1_000_000}}})
    data = Data(**{**toys.YAML(typ="safe").load(params)["data"], "folder": "data/code/no_folder"})
    assert sum((images := images_of(data)).__dict__.values()) - images.classes == 1_000_000


def test_times_scale_with_operations_else_with_items_and_new_stages_take_the_median_rate():
    then, now = {"flops": 100, "items": 5}, {"flops": 300, "items": 7}
    assert table.scaled(now, then, 2.0, []) == 6
    assert table.scaled({"flops": 0, "items": 10}, {"flops": 0, "items": 5}, 2.0, []) == 4
    assert table.scaled(now, None, None, [10.0, 30.0, 1000.0]) == 10
    assert table.scaled({"flops": 0, "items": 1}, None, None, [10.0]) is None
    assert table.scaled(now, None, None, []) is None
    assert table.on_gpu({"a": {"flops": 989e12}, "b": {"flops": 0}}, "h200") == {"a": 1 / 0.33, "b": None}


def test_the_table_has_a_line_per_stage_and_a_sum(capsys, monkeypatch):
    costs = {"data": {"what": "5 images", "items": 5, "flops": 0, "disk_bytes": 2_000_000}}
    costs |= {"features": {"what": "5 images", "items": 5, "flops": 4 * 10**15, "disk_bytes": 10**9}}
    monkeypatch.setattr(table, "ask", lambda path, images: costs)
    assert table.main("H100", None) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["stage", "work", "operations", "disk", "time"],
        ["data", "5", "images", "2.0", "MB", "?"],
        ["features", "5", "images", "4.0", "PFLOP", "1.0", "GB", "12", "s"],
        ["sum", "4.0", "PFLOP", "1.0", "GB", "12", "s"],
    ]
    assert "989 TFLOP/s * 0.33" in lines[-1]
    with pytest.raises(PipelineError, match="--gpu h999: expected one of b200"):
        table.main("h999", None)


def test_impossible_params_are_refused_with_the_value(tmp_path, monkeypatch):
    toys.write_params(tmp_path, {"codebook": {"kmeans": {"num_codes": 0}}})
    monkeypatch.setenv("PYTHONPATH", str(toys.ROOT))
    with pytest.raises(PipelineError, match="num_codes = 0"):
        table.ask(Path("params.yaml"))
