"""Edits that cannot be: every answer is one line with the key and what is allowed; facts at hand count if they fit.

Run: uv run pytest tests/test_refused_edits.py        (through the command `semtok set`: -m slow)
"""

import json
from pathlib import Path

import pytest
import toy as toys
from ruamel.yaml import YAML

from benchmarks import edits
from pipeline.edit import read_arguments
from pipeline.errors import PipelineError
from pipeline.params_file import lay_over, parse, render
from stages import at_hand
from stages.check import errors_in, notes_on, refusals
from stages.core import UserError

TEXT = toys.TEXT


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the facts that a run of the default params leaves: 1,500 + 297 digits with features."""
    root, params = tmp_path_factory.mktemp("prepared"), YAML(typ="safe").load(TEXT)
    lock = {
        "stages": {name: {"params": {"params.yaml": {name: params[name]}}} for name in ("data", "encoder", "features")}
    }
    with (root / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump(lock, file)
    train = {"images": 1500, "per_class": {str(digit): 150 for digit in range(10)}}
    write_config(root / "data/images", splits={"train": train})
    write_config(root / "data/features", dim=128, num_patches=64, splits={"train": {"images": 1500}})
    return root


def write_config(folder: Path, **facts: object) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(facts))


@pytest.fixture
def project(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    return prepared


def answers(edit: str, root: Path) -> list[str]:
    """What `semtok set` refuses the edit with, one line per value."""
    old, new = parse(TEXT, "params.yaml"), parse(TEXT, "params.yaml")
    try:
        lay_over(new, read_arguments([edit], old))
    except PipelineError as error:
        return str(error).splitlines()
    path = root / "params.yaml"
    path.write_text(render(old, new, TEXT))
    try:
        return errors_in(path) or [line for check in at_hand.checks(path) for line in refusals(check)]
    except UserError as error:
        return str(error).splitlines()


SOME = [*edits.EDITS][::7]
EACH = [pytest.param(edit, marks=() if edit in SOME else pytest.mark.slow) for edit in edits.EDITS]


@pytest.mark.parametrize("edit", EACH)
def test_an_edit_that_cannot_be_has_one_line_that_names_the_key_and_what_is_allowed(edit, project):
    [line] = answers(edit, project)
    assert edits.EDITS[edit] in line and edit.partition("=")[0].rpartition(".")[2] in line.replace("_", " ") + line


def test_facts_of_other_data_or_features_refuse_nothing(project):
    edit = "codebook.kmeans.num_codes=100000"
    assert len(answers(edit, project)) == 1
    lock = project / "dvc.lock"
    kept = lock.read_text()
    for old, new in (("img_px: 32", "img_px: 64"), ("\n  features:", "\n  other:")):
        lock.write_text(kept.replace(old, new))
        assert answers(edit, project) == [], new
    lock.write_text(kept)


def test_what_the_images_are_too_few_for_is_a_note(project):
    path = project / "params.yaml"
    path.write_text(TEXT)
    assert at_hand.notes(path) == notes_on(path) == []
    path.write_text(TEXT.replace("kid_subset_size: 200", "kid_subset_size: 501").replace("shots: 10", "shots: 151"))
    kid, shots = at_hand.notes(path)
    assert "generation.kid_subset_size = 501: more than 500, so KID will be left out" in kid
    assert "probe.shots = 151" in shots and "the smallest has 150" in shots


@pytest.mark.slow
def test_the_command_refuses_them_too(monkeypatch):
    """On the repository's own default run; the seconds that it prints are no part of the test."""
    monkeypatch.chdir(toys.ROOT)
    for edit in [*edits.EDITS][::4]:
        edits.refused(edit, edits.EDITS[edit])
