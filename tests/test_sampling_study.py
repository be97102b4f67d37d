"""The study of sampling settings: its points, its scores beside those of `generation`, what it keeps, its pictures.

Run: uv run pytest tests/test_sampling_study.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy as toys
from PIL import Image

from benchmarks import speed_against_quality as benchmark
from stages.check import check_grids
from stages.core import UserError
from stages.core.params import Machine, load
from stages.generator.params import KINDS
from stages.report import generators
from stages.report.gather import read_reports
from stages.studies import sampling_scores
from stages.studies.params import SamplingStudy
from stages.studies.sampling_grids import Inputs, load_grids, points_of

MASKED, AR = (f"sampling@kmeans-onestep-{name}" for name in ("masked", "ar"))
GUIDANCE = [1.0, {"schedule": "step", "scale": 2.0, "start": 0.5}]
GRIDS = {
    "masked": {"steps": {"steps": [2, 8], "guidance": GUIDANCE}, "real": {"real_codes": [0, 0.5]}},
    "ar": {"real": {"real_codes": [0, 0.25]}},
}


def write(root: Path, grids: dict, **changes) -> None:
    """The toy's params with these grids."""
    draws = {"per_class": 5, "labels": "train", "seeds": [0, 1]}
    study = {"grids": grids, "draws": draws, "edited_images": 3, **changes}
    toys.write_params(root, {"alternating_generators": [], "sampling": study})


@pytest.fixture(scope="module")
def root(toy, tmp_path_factory) -> Path:
    """A toy pipeline with everything that the study reads, and its results."""
    root = tmp_path_factory.mktemp("sampling") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    trained = [f"{stage}@kmeans-{name}" for stage in ("generator", "samples") for name in ("ar", "masked")]
    toys.write_params(root, {"alternating_generators": []})
    for command in ("decoder", "classifier", *trained, "reference", "generation", "reconstruction"):
        toys.run(command, root)
    write(root, GRIDS)
    for command in (MASKED, AR):
        toys.run(command, root)
    return root


def metrics_of(root: Path, name: str) -> dict:
    return json.loads((root / f"reports/sampling/kmeans-onestep-{name}/metrics.json").read_text())


# --- points -----------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_equal_settings_are_one_point():
    own = KINDS["ar"].plain
    grid = points_of("section", {"top_k": [0, 5], "guidance": GUIDANCE}, own)
    assert [changes for changes, _ in grid] == [
        {"top_k": top_k, "guidance": guidance} for top_k in (0, 5) for guidance in GUIDANCE
    ]
    assert grid[0][1].settings == own and len({point.key for _, point in grid}) == 4
    [(_, same)] = points_of("other", {"temperature": [1.0]}, own)
    [(_, real)] = points_of("other", {"real_codes": [0]}, own)
    assert same.key == grid[0][1].key != real.key


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"top_q": [1]}, "sampling.grids.ar.one.top_q = 1: extra .*; the settings are temperature, .*, real_codes"),
        ({"steps": [8]}, "sampling.grids.ar.one.steps = 8: "),
        ({"top_p": [0.5, 2.0]}, "sampling.grids.ar.one.top_p = 2.0: input should be less than or equal to 1"),
        ({"top_p": []}, r"sampling.grids.ar.one.top_p = \[\]: expected one or more different values"),
        ({"top_p": [0.5, 0.5]}, "expected one or more different values"),
        ({"real_codes": [1.0]}, "sampling.grids.ar.one.real_codes = 1.0: expected shares from 0 to less than 1"),
        ({"guidance": [{"schedule": "step", "scale": 2.0}]}, "sampling.grids.ar.one.guidance = .*: field required"),
        ({}, "sampling.grids.ar.one = {}: expected settings with lists of values"),
    ],
)
def test_impossible_grids_are_named_before_any_work(tmp_path, grid, said):
    path = toys.write_params(tmp_path, {"sampling": {"grids": {"ar": {"one": grid}}}})
    with pytest.raises(UserError, match=said):
        load_grids("ar", "ar", path)
    with pytest.raises(UserError, match=said):
        check_grids(path)


def test_grids_of_generators_that_are_not_in_use_block_nothing(tmp_path):
    path = toys.write_params(tmp_path, {"sampling": {"grids": {"other": {"one": {"nonsense": [1]}}}}})
    check_grids(path)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ar", "masked"])
def test_its_own_settings_score_as_in_the_stage_generation(root, name):
    own = metrics_of(root, name)["own"]
    stage = json.loads((root / "reports/generation/kmeans-onestep/metrics.json").read_text())[name]
    assert len(own) >= 10 and own == {key: stage[key] for key in own}


def test_every_point_has_scores_and_a_protocol(root):
    metrics = metrics_of(root, "masked")
    real, steps = metrics["grids"]  # the toy's params are written in the order of the alphabet
    assert [point["passes"] for point in steps["points"]] == [2, 8, 3, 12]
    assert all(0 <= point["metrics"]["class_accuracy"] <= 1 for point in steps["points"])
    assert [point["protocol"] for point in real["points"]] == ["continued"] * 2
    counts = {entry["of"]: entry["count"] for entry in metrics["protocol"]}
    assert counts["samples"] == 20 and counts["continued"] == counts["val"] == metrics["val"]["images"] < 20
    assert not [name for entry in [metrics["val"], *metrics["protocol"]] for name in entry if "kid" in name]


@pytest.mark.parametrize("name", ["ar", "masked"])
def test_samples_with_real_codes_keep_them(root, name, monkeypatch):
    monkeypatch.chdir(root)
    params, folders = load("sampling", SamplingStudy), {"tokens": "tokens/kmeans", "codebook": "codebook/kmeans"}
    folders |= {"decoder": "decoder/kmeans-onestep", "generator": f"generator/kmeans-{name}"}
    names = ("images", "encoder", "classifier", "reference", "decoder", "codebook", "tokens", "generator")
    inputs = Inputs(*(Path("data") / folders.get(one, one) for one in names))
    scorer = sampling_scores.Scorer(inputs, params, load("machine", Machine))
    [(_, point)] = points_of("section", {"real_codes": [0.25]}, KINDS[name].plain)
    val, known = np.load("data/tokens/kmeans/val.npy")[0][scorer.chosen], scorer.known(0.25, seed=0)
    given = known != 8
    assert given.sum(1).tolist() == [4] * len(val) and np.array_equal(known[given], val[given])
    assert given[:, :4].all() if name == "ar" else len(np.unique(given, axis=0)) > 1
    codes = scorer.draw(point.settings, scorer.val_labels, known, 0, 0)
    assert np.array_equal(codes[given[: len(codes)]], val[: len(codes)][given[: len(codes)]])


def test_a_value_added_computes_its_own_points_alone(root, tmp_path, monkeypatch):
    copy, scored, score = shutil.copytree(root, tmp_path / "toy"), [], sampling_scores.Scorer.score
    monkeypatch.setattr(sampling_scores.Scorer, "score", lambda self, one: (scored.append(one), score(self, one))[1])
    before = metrics_of(copy, "masked")
    write(copy, {"masked": {"steps": {"steps": [2, 3, 8], "guidance": [1.0]}}}, edited_images=0)
    toys.run(MASKED, copy)
    assert [point.settings.steps for point in scored] == [3]
    after = metrics_of(copy, "masked")
    assert after["grids"][0]["points"][::2] == before["grids"][1]["points"][:2] and after["own"] == before["own"]
    write(copy, {"masked": {"steps": {"steps": [2]}}}, seed=1)
    toys.run(MASKED, copy)
    assert len(scored) == 3, "another seed: its own settings and the point"


def test_two_runs_give_the_same_bytes(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))
    toys.run(MASKED, copy)
    for name in ("metrics.json", "pictures/edited.png"):
        path = f"reports/sampling/kmeans-onestep-masked/{name}"
        assert (copy / path).read_bytes() == (root / path).read_bytes()


def test_edited_images_have_a_column_for_each_edit(root):
    for name, count in (("masked", 13), ("ar", 5)):
        [edited] = metrics_of(root, name)["edited"]
        assert len(edited["columns"]) == count and len(edited["val_images"]) == 3
        with Image.open(root / f"reports/sampling/kmeans-onestep-{name}/pictures/edited.png") as picture:
            assert picture.size == ((count * 17 - 1) * 4, (3 * 17 - 1) * 4)


def test_by_default_it_does_nothing(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "toy")
    toys.write_params(copy, {"sampling": {"grids": {}, "edited_images": 0}})
    toys.run(MASKED, copy)
    assert set(metrics_of(copy, "masked")) == {"images"}


# --- report -----------------------------------------------------------------------------------------------------------


def test_the_page_has_a_table_and_plots_for_each_grid(root):
    reports = read_reports(root / "reports", toys.ROOT / "dvc.yaml", root / "params.yaml", root / "dvc.lock")
    section, editing = generators.sampling(reports), generators.editing(reports)
    assert section is not None and editing is not None and len(editing.pictures) == 2
    assert [title for title, _ in section.details] == [
        "kmeans-onestep-ar: real", "kmeans-onestep-masked: real", "kmeans-onestep-masked: steps"
    ]  # fmt: skip
    table = section.details[2][1]
    assert table.columns[:4] == ["guidance", "steps", "passes", "class accuracy"]
    assert [row[:3] for row in table.rows][1:3] == [["1.0", "8", "8"], ["step 2.0 0.5", "2", "3"]]
    captions = [picture.caption for picture in section.pictures]
    assert captions[2] == "kmeans-onestep-masked: steps, by guidance, a line per steps"
    assert len(section.tables) == 2, "samples, and real val images, which are fewer"


def test_a_point_of_several_other_settings_is_the_best_of_them():
    points = [
        {"changes": {"a": a, "b": b, "c": c}, "metrics": {"gfid[classifier]": score, "class_accuracy": score}}
        for a, b, c, score in [(1, 1, 1, 5.0), (1, 1, 2, 4.0), (2, 1, 1, 3.0), (2, 1, 2, 6.0)]
    ]
    for metric, expected in (("gfid[classifier]", [4.0, 3.0]), ("class_accuracy", [5.0, 6.0])):
        assert generators.bands_of(metric, points, ["a", "b", "c"], ["1", "2"]) == {"b 1": ([0, 1], expected, [0, 0])}


# --- benchmark --------------------------------------------------------------------------------------------------------


def test_every_combination_is_timed_and_drawn(root, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "curve.png"
    words = f"x {root}/reports/sampling/kmeans-onestep-masked --data {root}/data --batch 2 --rounds 1 --plot {picture}"
    monkeypatch.setattr("sys.argv", [*words.split(), "--metric", "class_accuracy"])
    benchmark.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if "masked: " in line]
    scores = {point["metrics"]["class_accuracy"] for point in metrics_of(root, "masked")["grids"][1]["points"]}
    assert len(rows) == 4 and any("guidance step 2.0 0.5, steps 2" in row for row in rows)
    assert {float(row[1:].split()[1]) for row in rows} == {float(f"{score:.4g}") for score in scores}
    with Image.open(picture) as drawn:
        assert drawn.width > 500


@pytest.mark.parametrize(("less_is_better", "expected"), [(True, "cba"), (False, "cd")])
def test_the_front_holds_what_nothing_is_faster_and_better_than(less_is_better, expected):
    rates = {"a": (1.0, 5.0), "b": (2.0, 6.0), "c": (4.0, 7.0), "d": (3.0, 8.0)}
    found = [benchmark.Combination(name, "", *pair) for name, pair in rates.items()]
    assert "".join(one.generator for one in benchmark.front(found, less_is_better)) == expected
