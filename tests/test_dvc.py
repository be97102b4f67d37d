"""What `dvc repro` reruns after a change, on the toy pipeline. Slow: every stage is a process.

Run: uv run pytest -m slow tests/test_dvc.py
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import toy as toys

from pipeline.graph import name_of
from pipeline.seeds import replicates

pytestmark = pytest.mark.slow


def repro(root, **env: str) -> tuple[list[str], str]:
    """The stages whose commands ran, and all that was printed."""
    env = {**os.environ, **env, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run(["dvc", "repro"], cwd=root, env=env, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    return [*map(name_of, re.findall(r"Running stage '([^']+)'", text))], text


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the repository with toy params, run once."""
    root = tmp_path_factory.mktemp("dvc") / "project"
    shutil.copytree(toys.ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "studies").mkdir()
    for name in ("dvc.yaml", ".dvcignore", "studies/dvc.yaml"):
        shutil.copy(toys.ROOT / name, root / name)
    text = (root / "dvc.yaml").read_text().replace("    frozen: true\n", "")
    (root / "dvc.yaml").write_text(text)
    toys.write_params(root)
    toys.draw_pictures(root / "pictures")
    subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=root, check=True)
    ran, _ = repro(root)
    listed = subprocess.run(
        ["dvc", "stage", "list", "--all", "--name-only"], cwd=root, capture_output=True, text=True, check=True
    )
    assert sorted(ran) == sorted(map(name_of, listed.stdout.split()))
    return root


STUDIES = {"code_noise_fid", "decoding_steps", "resolution_transfer", "sampling"}
ADDP = {"frozen_networks", "alternating_generator", "alternating_samples", "alternating_layer_probe"}
AFTER_DECODER = {"decoder", "reconstruction", "generation", *STUDIES, *ADDP, "report"}
OWN_AR, OWN_MASKED = {"sampling@kmeans-onestep-ar"}, {"sampling@kmeans-onestep-masked", "layer_probe@kmeans-masked"}
AFTER_CODEBOOK = AFTER_DECODER | {
    "codebook", "pixel_tokenizer", "tokens", "code_analysis", "noise_robustness", "generator", "samples",
    "layer_probe",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"codebook": {"kmeans": {"num_codes": 6}}}, AFTER_CODEBOOK),
        ({"samples": {"ar": {"temperature": 0.8}}}, {"samples@kmeans-ar", "generation", *OWN_AR, "report"}),
        (
            {"generator": {"masked": {"seed": 3}}},
            {
                "generator@kmeans-masked",
                "samples@kmeans-masked",
                "layer_probe@kmeans-masked",
                "generation",
                *OWN_MASKED,
                *ADDP,
                "report",
            },
        ),
        ({"decoder": {"onestep": {"blocks": 2}}}, AFTER_DECODER),
        ({"machine": {"num_workers": 1, "infer_batch_size": 7, "checkpoint_share": 0.5}}, set()),
    ],
    ids=lambda value: str(value),
)
def test_a_change_reruns_its_dependents_alone_and_changing_back_runs_nothing(project, changes, expected):
    toys.write_params(project, changes)
    ran, _ = repro(project)
    assert {name if name in expected else name.split("@")[0] for name in ran} == expected
    toys.write_params(project)
    ran, text = repro(project)
    assert ran == [], text
    assert repro(project)[0] == []


def test_more_processes_give_the_same_features_and_tokens_and_rerun_nothing(project):
    expected = toys.hashes(project / "data/features") | toys.hashes(project / "data/tokens")
    for name in ("features", "tokens"):
        shutil.rmtree(project / "data" / name)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", "features", "tokens"], cwd=project,
        env={**os.environ, "NPROC": "2", "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert toys.hashes(project / "data/features") | toys.hashes(project / "data/tokens") == expected
    assert repro(project, NPROC="1")[0] == []


def test_metrics_plots_and_experiments_show_the_same_numbers(project):
    def dvc(*arguments: str) -> str:
        return subprocess.run(["dvc", *arguments], cwd=project, capture_output=True, text=True, check=True).stdout

    metrics = dvc("metrics", "show")
    assert "reports/reconstruction/kmeans-onestep/metrics.json" in metrics and "class_accuracy" in metrics
    dvc("plots", "show")
    assert (project / "dvc_plots/index.html").is_file()


CHOICES = {"pixel_tokenizer@onestep", "frozen_networks@kmeans-addp"}  # copies of what is there; under a second


def test_one_more_tokenizer_reruns_nothing_that_exists_except_choices_among_what_is_there(project):
    toys.write_params(project, {"tokenizers": ["kmeans", "cluster"]})
    ran, text = repro(project)
    assert {name for name in ran if "cluster" not in name} == {"code", "report", *CHOICES}, text
    assert {
        "codebook@cluster",
        "generator@cluster-ar",
        "reconstruction@cluster-onestep",
        "noise_robustness@cluster",
    } < {*ran}
    assert repro(project)[0] == []


@pytest.mark.parametrize(
    ("section", "again"),
    [
        ("codebook.kmeans", {"code", "report", *CHOICES}),
        ("decoder.onestep", {"code", "frozen_networks@kmeans-addp", "report"}),
        ("generator.ar", {"code", "captions", "frozen_networks@kmeans-addp", "generation@kmeans-onestep", "report"}),
    ],
)
def test_a_seed_reruns_no_training_no_tokens_and_no_samples_that_exist(project, section, again):
    path = toys.write_params(project)
    repro(project)  # without what the test before this one added
    params = toys.YAML(typ="safe").load(path)
    copies = json.loads(json.dumps(replicates(params, section, [1])))  # of a class that `semtok set` knows
    toys.write_params(project, copies)
    ran, text = repro(project)
    assert {name for name in ran if "_s1" not in name} == again, text
    assert len(ran) > len(again) and repro(project)[0] == []
