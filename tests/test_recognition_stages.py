"""Recognition as stages: the commands on the toy, and values that are refused at the door.

Run: uv run pytest tests/test_recognition_stages.py
"""

import json
import shutil

import pytest
import toy as toys

from stages import check
from stages.data.dvc_folder import NO_FOLDER

SHORT = {"total_steps": 4, "batch_size": 4, "warmup_share": 0.25, "eval_share": 0.5, "precision": "fp32"}


def test_the_commands_work_on_the_toy(toy, scenes, tmp_path):
    root = shutil.copytree(toy, tmp_path / "toy", ignore=shutil.ignore_patterns("scratch"))
    path = toys.write_params(root, {"recognition": {"segmentation": {"optim": SHORT}}})
    (root / "data/generator").mkdir()
    toys.run_line("stages.recognition.collect --name random --encoder data/encoder --codebooks data/codebook "
                  "--generators data/generator --out data/recognition_network/random", root)  # fmt: skip
    toys.run_line(f"stages.recognition.train --task segmentation --name random --images {scenes} "
                  "--network data/recognition_network/random --report reports/it", root)  # fmt: skip
    found = json.loads((root / "reports/it/metrics.json").read_text())
    assert found["protocol"][0]["grid"] == 4 and path.is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recognition_networks": ["addp"]}, "recognition_network.addp.generator = 'addp': expected a member of"),
        ({"recognition_tasks": ["data"]}, "recognition_tasks = 'data': the section recognition.data is no task"),
        ({"recognition": {"data": {"detection": "nowhere"}}}, "detection = 'nowhere': expected a folder"),
        ({"recognition": {"finetune": {"optim": {"batch_size": 5}}}, "recognition_tasks": ["finetune"]}, "an even"),
        (
            {"recognition": {"detection": {"anchors_px": [8, 4]}}, "recognition_tasks": ["detection"]},
            "from the smallest",
        ),
        (
            {
                "recognition_network": {"encoder": {"blocks": [0, 1]}},
                "recognition_networks": ["encoder"],
                "recognition_tasks": ["detection"],
                "data": {"source": "scenes", "folder": NO_FOLDER},
            },
            "recognition.detection takes 1, or 3",
        ),
        ({"recognition_tasks": ["segmentation"]}, "segmentation on data.source: folder needs a folder"),
        ({"recognition_network": {"pixels": {"patch_px": 5}}, "recognition_networks": ["pixels"]}, "patch_px = 5"),
        ({"recognition_network": {"encoder": {"blocks": [7]}}, "recognition_networks": ["encoder"]}, "blocks = 7"),
    ],
)
def test_impossible_values_are_named_before_any_work(changes, said, workdir):
    (workdir / "pictures").mkdir()
    path = toys.write_params(workdir, {"alternating_generators": [], **changes})
    assert [line for line in check.errors_in(path) if said in line], check.errors_in(path)
