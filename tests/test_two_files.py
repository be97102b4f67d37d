"""A second dvc.yaml with its params.yaml and dvc.lock, as studies/ has them: `semtok` works with both as with one.

Run: uv run pytest tests/test_two_files.py
"""

import contextlib
import shutil
from pathlib import Path

import pytest
import tiny
import toy as toys

from pipeline import cleanup, lockfile, repair
from pipeline.cli import find_root
from pipeline.dvc_status import read_status
from pipeline.errors import PipelineError
from stages.check import errors_in
from stages.core import UserError
from stages.core.params import file_of, impossible, load_sections, load_value

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
DVC_YAML = """\
vars: [../params.yaml]
stages:
  four:
    desc: a study
    wdir: ..
    matrix: {name: "${names}", by: "${ways}"}
    cmd: mkdir -p data/four && cp data/three/${item.name} data/four/${item.name}-${item.by}
    deps: [data/three]
    params: [second.low, {studies/params.yaml: [four]}]
    outs: ["data/four/${item.name}-${item.by}"]
"""
PARAMS = "ways: [x]         # how\n\nfour: {seed: 0}   # of the study\n"
FOUR = ["four@p-x", "four@q-x"]
LOCK = Path("studies/dvc.lock")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The tiny project with a study, all of which has run."""
    root = tiny.project(tmp_path_factory, tmp_path_factory.mktemp("two") / "project")
    (root / "studies").mkdir()
    (root / "studies/dvc.yaml").write_text(DVC_YAML)
    (root / "studies/params.yaml").write_text(PARAMS)
    tiny.repro(root, "studies/dvc.yaml:four")
    return root


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    root = shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(root)
    return root


def text_of(root: Path, *names: str) -> list[str]:
    return [(root / name).read_text() for name in names]


def test_a_stage_has_a_short_name_an_address_for_dvc_and_the_keys_of_both_files(project):
    status = read_status()
    assert {*FOUR} < {*status.nodes} and not status.reasons
    node = status.nodes["four@p-x"]
    assert node.address == "studies/dvc.yaml:four@p-x" and node.upstream == ("three",)
    assert status.params["four@p-x"] == ["second.low", "four"]
    assert find_root(project / "studies") == find_root(project) == project


def test_set_writes_each_value_to_the_file_that_has_its_section_and_lists_the_stages_by_their_short_names(project):
    (project / "preset.yaml").write_text("first: {seed: 5}\nfour: {seed: 3}\nways: [x, y]\n")
    printed = tiny.semtok(project, "set", "@preset.yaml", "second.low=0.25")
    assert "first.seed  0 -> 5" in printed and "four.seed  0 -> 3" in printed and "ways  [x] -> [x, y]" in printed
    assert tiny.stages_in(printed)[-4:] == ["four@p-x", "four@p-y", "four@q-x", "four@q-y"]
    main, studies = text_of(project, "params.yaml", "studies/params.yaml")
    assert main == tiny.PARAMS.replace("{seed: 0, rate", "{seed: 5, rate").replace("low: 0.5", "low: 0.25")
    assert studies == PARAMS.replace("[x]   ", "[x, y]").replace("seed: 0", "seed: 3")
    assert "four.seed 0 -> 3" in tiny.semtok(project, "status")
    back = ("second.low=0.5", "first.seed=0", "four.seed=0", "ways=[x]")
    assert "No stage reruns for this." in tiny.semtok(project, "set", *back)
    assert text_of(project, "studies/params.yaml") == [PARAMS] and not read_status().reasons


def test_set_refuses_a_section_in_both_files_and_names_similar_keys_of_both(project):
    printed = tiny.semtok(project, "set", "fuor.seed=1", status=2)
    assert "fuor.seed: the params have no such key; they have four.seed" in printed and "first.seed" in printed
    (project / "studies/params.yaml").write_text(PARAMS + "first: {seed: 0}\n")
    printed = tiny.semtok(project, "set", "four.seed=1", status=2)
    assert printed == "error: studies/params.yaml: first: also in params.yaml; remove one of the two\n"


def test_an_impossible_value_changes_neither_file_and_nothing_is_left(project):
    tiny.add_check(project)
    printed = tiny.semtok(project, "set", "first.seed=-1", "four.seed=1", status=2)
    assert printed.startswith("error: params.yaml and studies/params.yaml: not changed, since this is impossible:\n")
    assert text_of(project, "params.yaml", "studies/params.yaml") == [tiny.PARAMS, PARAMS]
    assert not [path for path in (project / ".dvc/tmp/semtok").rglob("*") if path.is_file()]


def test_a_cut_lock_file_of_either_is_repaired_from_its_copy(project):
    texts = text_of(project, "dvc.lock", str(LOCK))
    lockfile.keep_copies()
    for name, text in zip(("dvc.lock", str(LOCK)), texts, strict=True):
        (project / name).write_text(text[:100])
        with pytest.raises(PipelineError, match=f"^{name} is cut off or corrupt: a DVC process was killed"):
            read_status()
        assert repair.fix_issues() == [
            f"{name} is cut off or corrupt: replaced by the copy of the last run. The old file is "
            f".dvc/tmp/semtok/{name}.broken."
        ]
    assert text_of(project, "dvc.lock", str(LOCK)) == texts and tiny.stale(project) == {}


def test_outputs_and_checkpoints_of_a_study_are_known_by_its_lock_file(project):
    assert "data/four/p-x" in repair.outputs()
    md5 = lockfile.recorded_outputs(LOCK.read_text())["data/four/p-x"]
    work = project / "scratch/data-four-p-x/key"
    work.mkdir(parents=True)
    (work / "published.json").write_text(f'{{"out": "data/four/p-x", "md5": "{md5}"}}')
    assert cleanup.remove_accepted() == [work.relative_to(project)]


def test_two_stages_of_one_name_are_refused(project):
    (project / "studies/dvc.yaml").write_text("stages: {one: {cmd: 'true', deps: [params.yaml]}}\n")
    with pytest.raises(PipelineError, match="another dvc.yaml has a stage of this name: rename one"):
        read_status()


def test_stages_read_a_section_from_the_file_that_has_it_and_errors_name_that_file(project):
    path = Path("params.yaml")
    assert load_value("four.seed", path) == 0 and load_value("first.seed", path) == 0
    assert str(file_of("four.seed", path)) == "studies/params.yaml" and file_of("other", path) == path
    assert str(impossible("four.seed", 1, "x")).startswith("studies/params.yaml: four.seed = 1: x")
    (project / "studies/params.yaml").write_text("first: {}\n")
    with pytest.raises(UserError, match=r"^studies/params.yaml: first: also in params.yaml; remove one of the two$"):
        load_sections(path)


def test_the_check_names_the_file_of_a_value_of_a_study(tmp_path):
    odd = {"probe": {**toys.PARAMS["probe"], "shots": 0}, "tokens": {**toys.PARAMS["tokens"], "views": 0}}
    path = toys.write_parts(tmp_path / "params.yaml", {**toys.PARAMS, **odd, "recognition_tasks": ["none"]})
    with contextlib.chdir(toys.ROOT):
        lines = errors_in(path)
    ours = str(tmp_path / "studies/params.yaml")
    assert [line.partition(" = ")[0] for line in lines] == [
        f"{ours}: recognition_tasks", f"{path}: tokens.views", f"{ours}: probe.shots"
    ]  # fmt: skip
