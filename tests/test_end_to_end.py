"""Every stage in DAG order on the toy, twice from nothing: the same bytes.

Run: uv run pytest tests/test_end_to_end.py
"""

import json
import re
import shutil

import pytest
import toy as toys

from stages.core.artifact import images_digest


@pytest.fixture(scope="module")
def two_runs(toy, tmp_path_factory):
    """The shared toy, whose first stages have run, and one from nothing: each run to the end."""
    first, second = shutil.copytree(toy, tmp_path_factory.mktemp("first") / "toy"), tmp_path_factory.mktemp("second")
    toys.write_params(second)
    toys.draw_pictures(second / "pictures")
    commands = list(toys.COMMANDS)
    for root, start in ((first, commands.index(toys.LAST_OF_TOY) + 1), (second, 0)):
        for command in commands[start:]:
            toys.run(command, root)
    return first, second


def test_it_ends_with_a_report_that_shows_both_generators(two_runs):
    page = (two_runs[0] / "reports/index.html").read_text()
    assert "masked" in page and "data:image/png;base64," in page
    assert not re.search(r"""(src|href)=["']https?:""", page)


def test_two_runs_from_nothing_give_the_same_bytes(two_runs):
    first, second = ({**toys.hashes(root / "data"), **toys.hashes(root / "reports")} for root in two_runs)
    assert len(first) > 40
    assert first == second


def test_all_metrics_but_those_of_the_toy_study_say_of_which_images_they_are(two_runs):
    metrics = {path.parent: json.loads(path.read_text()) for path in two_runs[0].glob("reports/**/metrics.json")}
    named = {
        folder.relative_to(two_runs[0] / "reports").as_posix(): one.get("images") for folder, one in metrics.items()
    }
    images = images_digest(two_runs[0] / "data/images")
    assert len(named) >= 15 and named == {**dict.fromkeys(named, images), "pca_vs_lda": None}
    assert "Stale" not in (two_runs[0] / "reports/index.html").read_text()


def test_artifacts_hold_no_path_of_this_machine(two_runs):
    for root in two_runs:
        for path in [*root.glob("data/**/*.json"), *root.glob("reports/**/*.json")]:
            assert str(root) not in path.read_text(), path
